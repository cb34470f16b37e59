"""The proportions of car bodies: for each class several kinds of car, for each kind the range of every measure.

A class is wide: "van" is a minivan, a bonneted delivery van and a high-roofed one. So a car is drawn in two steps,
first its kind, then each of its proportions by itself from the ranges of that kind.
"""

from dataclasses import dataclass, fields

import numpy as np

from dann.infer.errors import unknown_name
from dann.train.rendering.styles import Range


@dataclass(frozen=True, kw_only=True)
class Body:
    """The proportions of one car, in metres unless the name or the sentence says otherwise."""

    body_class: str
    kind: str
    """Which of the kinds of its class."""
    length: float
    width: float
    height: float
    wheelbase: float
    """Distance of the axles."""
    front: float
    """Front overhang: nose to front axle."""
    clearance: float
    """Ground to sill."""
    wheel: float
    """Diameter of a wheel with its tyre."""
    nose: float
    """Height of the bonnet's front edge."""
    nose_slope: float
    """How far the bonnet's front edge lies behind the bumper."""
    nose_drop: float
    """How far the top of the bumper lies below the bonnet's front edge."""
    nose_tuck: float
    """How much narrower the car is at the bumper than in its middle, as a share of the width."""
    cowl: float
    """Height of the windscreen's base."""
    cowl_back: float
    """Front axle to the windscreen's base; negative on cars that sit over their axle."""
    screen_deg: float
    """Windscreen against the horizontal."""
    rear_deg: float
    """Rear window against the horizontal."""
    boot: float
    """Rear window's base to the tail: the boot lid, or the bed of a pickup."""
    deck: float
    """Height of the rear window's base."""
    roof_drop: float
    """How much lower the roof is at its rear end than at its highest point."""
    tail_tuck: float
    """As ``nose_tuck``, at the tail."""
    tumble_deg: float
    """How far the sides of the greenhouse lean inwards."""
    crease: float
    """How far the upper half of the doors lies behind the crease below it, as a share of half the width."""
    round: float
    """Radius that softens the corners of the side view."""
    cladding: float
    """Height of unpainted plastic above the sill."""
    rails: float
    """Height of the roof rails; a car has none where this is not positive."""

    @property
    def axles(self) -> tuple[float, float]:
        """``s`` of the front and the rear axle."""
        return self.front, self.front + self.wheelbase

    @property
    def has_bed(self) -> bool:
        return self.body_class == "pickup"


# Lower and upper end of each proportion; a kind overrides what differs from the first kind of its class. Metres;
# ``*_deg`` in degrees; ``wheelbase`` in car lengths. Read off dimension sheets and side views of European, Japanese and
# American cars of the last thirty years.
_KINDS: dict[str, dict[str, dict[str, Range]]] = {
    "sedan": {
        "midsize": dict(
            length=(4.55, 5.00), width=(1.76, 1.90), height=(1.40, 1.49), wheelbase=(0.570, 0.600), front=(0.84, 0.98),
            clearance=(0.14, 0.19), wheel=(0.63, 0.71), nose=(0.72, 0.82), nose_slope=(0.08, 0.28),
            nose_drop=(0.04, 0.15), nose_tuck=(0.18, 0.34), cowl=(0.93, 1.02), cowl_back=(0.36, 0.62),
            screen_deg=(25, 33), rear_deg=(22, 34), boot=(0.42, 0.78), deck=(0.98, 1.10), roof_drop=(0.03, 0.09),
            tail_tuck=(0.10, 0.22), tumble_deg=(17, 25), round=(0.05, 0.12), cladding=(0.0, 0.05), rails=(-0.06, 0.0),
            crease=(0.0, 0.02),
        ),
        "compact": dict(length=(4.25, 4.60), width=(1.68, 1.80), height=(1.41, 1.50), boot=(0.36, 0.62)),
        "classic": dict(
            length=(4.85, 5.45), width=(1.80, 1.98), nose=(0.70, 0.80), nose_slope=(0.03, 0.12),
            nose_drop=(0.04, 0.10), nose_tuck=(0.08, 0.18), cowl=(0.92, 0.99), cowl_back=(0.58, 0.85),
            screen_deg=(30, 38), rear_deg=(32, 50), boot=(0.85, 1.20), deck=(0.94, 1.02), tail_tuck=(0.04, 0.12),
        ),
        "fastback": dict(
            length=(4.70, 5.10), height=(1.36, 1.45), rear_deg=(17, 24), boot=(0.24, 0.45), deck=(1.00, 1.08),
            wheel=(0.66, 0.73),
        ),
        "limousine": dict(
            length=(5.05, 5.75), width=(1.88, 2.02), height=(1.48, 1.63), nose=(0.82, 0.98), nose_slope=(0.02, 0.14),
            nose_drop=(0.04, 0.10), nose_tuck=(0.10, 0.22), cowl=(1.02, 1.12), cowl_back=(0.55, 0.85),
            deck=(1.02, 1.14), boot=(0.60, 0.95), wheel=(0.70, 0.80),
        ),
    },
    "hatchback": {
        "compact": dict(
            length=(3.95, 4.45), width=(1.70, 1.82), height=(1.42, 1.53), wheelbase=(0.595, 0.625), front=(0.78, 0.90),
            clearance=(0.14, 0.18), wheel=(0.60, 0.68), nose=(0.74, 0.86), nose_slope=(0.08, 0.28),
            nose_drop=(0.04, 0.15), nose_tuck=(0.18, 0.34), cowl=(0.95, 1.04), cowl_back=(0.22, 0.46),
            screen_deg=(26, 34), rear_deg=(44, 66), boot=(0.02, 0.12), deck=(0.94, 1.06), roof_drop=(0.04, 0.12),
            tail_tuck=(0.10, 0.24), tumble_deg=(15, 22), round=(0.05, 0.12), cladding=(0.0, 0.06), rails=(-0.30, 0.05),
            crease=(0.0, 0.02),
        ),
        "supermini": dict(
            length=(3.45, 3.95), width=(1.60, 1.72), height=(1.46, 1.57), wheelbase=(0.605, 0.650), front=(0.68, 0.82),
            nose=(0.76, 0.88), cowl=(0.98, 1.06), cowl_back=(0.10, 0.34), screen_deg=(30, 42), rear_deg=(52, 76),
        ),
        "crossover": dict(
            length=(4.05, 4.50), width=(1.74, 1.84), height=(1.53, 1.64), clearance=(0.17, 0.22), wheel=(0.66, 0.73),
            nose=(0.86, 0.98), cowl=(1.04, 1.12), rear_deg=(42, 60), deck=(1.04, 1.14), cladding=(0.0, 0.16),
        ),
        "liftback": dict(
            length=(4.15, 4.85), height=(1.40, 1.58), rear_deg=(22, 36), boot=(0.05, 0.26), deck=(0.98, 1.12),
        ),
    },
    "suv": {
        "crossover": dict(
            length=(4.35, 5.10), width=(1.82, 1.98), height=(1.62, 1.78), wheelbase=(0.575, 0.610), front=(0.86, 0.98),
            clearance=(0.19, 0.25), wheel=(0.71, 0.79), nose=(0.93, 1.06), nose_slope=(0.06, 0.24),
            nose_drop=(0.04, 0.14), nose_tuck=(0.16, 0.30), cowl=(1.08, 1.18), cowl_back=(0.28, 0.52),
            screen_deg=(27, 36), rear_deg=(46, 66), boot=(0.02, 0.12), deck=(1.10, 1.22), roof_drop=(0.05, 0.14),
            tail_tuck=(0.08, 0.20), tumble_deg=(14, 22), round=(0.05, 0.12), cladding=(0.04, 0.22), rails=(-0.05, 0.07),
            crease=(0.0, 0.02),
        ),
        "estate": dict(
            length=(4.60, 5.05), height=(1.72, 1.86), clearance=(0.22, 0.29), wheel=(0.73, 0.81), nose=(0.98, 1.10),
            nose_slope=(0.03, 0.16), nose_drop=(0.05, 0.12), nose_tuck=(0.10, 0.20), cowl=(1.14, 1.24),
            cowl_back=(0.42, 0.62), screen_deg=(33, 44), rear_deg=(60, 78), roof_drop=(0.02, 0.08),
            tail_tuck=(0.05, 0.12), tumble_deg=(11, 18), round=(0.03, 0.09),
        ),
        "full-size": dict(
            length=(5.00, 5.65), width=(1.96, 2.06), height=(1.84, 1.99), clearance=(0.24, 0.31), wheel=(0.76, 0.85),
            nose=(1.06, 1.18), nose_slope=(0.02, 0.12), nose_drop=(0.04, 0.10), nose_tuck=(0.08, 0.18),
            cowl=(1.22, 1.32), cowl_back=(0.48, 0.70), screen_deg=(34, 43), rear_deg=(66, 82), deck=(1.20, 1.32),
            roof_drop=(0.01, 0.06), tail_tuck=(0.04, 0.10), tumble_deg=(10, 16), round=(0.03, 0.08),
        ),
        "off-roader": dict(
            length=(4.00, 4.85), width=(1.80, 2.08), height=(1.78, 2.02), front=(0.66, 0.84), clearance=(0.26, 0.38),
            wheel=(0.76, 0.92), nose=(1.04, 1.20), nose_slope=(0.00, 0.08), nose_drop=(0.03, 0.08),
            nose_tuck=(0.02, 0.12), cowl=(1.18, 1.32), cowl_back=(0.50, 0.80), screen_deg=(46, 70), rear_deg=(80, 88),
            deck=(1.18, 1.30), roof_drop=(0.00, 0.04), tail_tuck=(0.01, 0.06), tumble_deg=(4, 11), round=(0.02, 0.05),
            cladding=(0.06, 0.26),
        ),
    },
    "pickup": {
        "crew": dict(
            length=(5.30, 5.95), width=(1.90, 2.05), height=(1.80, 1.97), wheelbase=(0.595, 0.630), front=(0.88, 1.00),
            clearance=(0.27, 0.36), wheel=(0.76, 0.87), nose=(1.02, 1.18), nose_slope=(0.01, 0.12),
            nose_drop=(0.04, 0.10), nose_tuck=(0.06, 0.18), cowl=(1.20, 1.32), cowl_back=(0.44, 0.66),
            screen_deg=(34, 44), rear_deg=(76, 88), boot=(1.55, 1.90), deck=(1.16, 1.30), roof_drop=(0.00, 0.04),
            tail_tuck=(0.01, 0.05), tumble_deg=(10, 17), round=(0.03, 0.08), cladding=(0.0, 0.12), rails=(-0.06, 0.0),
            crease=(0.0, 0.02),
        ),
        "extended": dict(boot=(1.90, 2.15)),
        "regular": dict(length=(5.10, 5.75), boot=(2.25, 2.60), cowl_back=(0.40, 0.58)),
        "compact": dict(
            length=(4.75, 5.25), width=(1.70, 1.86), height=(1.58, 1.75), clearance=(0.22, 0.30), wheel=(0.68, 0.77),
            nose=(0.86, 1.00), cowl=(1.04, 1.14), deck=(1.00, 1.12), boot=(1.50, 1.95),
        ),
        "sport-utility": dict(
            length=(4.75, 5.65), height=(1.84, 2.02), rear_deg=(42, 78), boot=(1.00, 1.50), deck=(1.22, 1.34),
        ),
        "heavy-duty": dict(
            length=(5.60, 6.20), height=(1.92, 2.06), clearance=(0.32, 0.40), wheel=(0.82, 0.92), nose=(1.14, 1.30),
            cowl=(1.32, 1.42), deck=(1.30, 1.42), boot=(1.70, 2.30),
        ),
    },
    "van": {
        "minivan": dict(
            length=(4.65, 5.20), width=(1.86, 2.02), height=(1.70, 1.84), wheelbase=(0.585, 0.620), front=(0.90, 1.02),
            clearance=(0.15, 0.20), wheel=(0.66, 0.73), nose=(0.82, 0.96), nose_slope=(0.08, 0.28),
            nose_drop=(0.04, 0.15), nose_tuck=(0.18, 0.32), cowl=(1.04, 1.16), cowl_back=(-0.08, 0.26),
            screen_deg=(24, 34), rear_deg=(58, 78), boot=(0.01, 0.08), deck=(1.06, 1.20), roof_drop=(0.02, 0.09),
            tail_tuck=(0.06, 0.16), tumble_deg=(12, 19), round=(0.05, 0.12), cladding=(0.0, 0.10), rails=(-0.10, 0.05),
            crease=(0.0, 0.02),
        ),
        "bonneted": dict(
            length=(5.00, 6.00), width=(1.98, 2.08), height=(1.98, 2.18), wheelbase=(0.590, 0.630), front=(0.80, 0.95),
            clearance=(0.20, 0.28), wheel=(0.72, 0.80), nose=(1.04, 1.20), nose_slope=(0.02, 0.14),
            nose_drop=(0.04, 0.10), nose_tuck=(0.08, 0.20), cowl=(1.28, 1.42), cowl_back=(0.02, 0.42),
            screen_deg=(36, 48), rear_deg=(80, 88), boot=(0.01, 0.03), deck=(1.24, 1.36), roof_drop=(0.00, 0.04),
            tail_tuck=(0.02, 0.06), tumble_deg=(6, 12), round=(0.04, 0.10), rails=(-0.30, 0.05),
        ),
        "high-roof": dict(
            length=(5.20, 6.30), width=(1.96, 2.06), height=(2.30, 2.75), wheelbase=(0.580, 0.630), front=(0.90, 1.05),
            clearance=(0.18, 0.25), wheel=(0.67, 0.75), nose=(0.98, 1.18), nose_slope=(0.04, 0.22),
            nose_drop=(0.05, 0.14), nose_tuck=(0.10, 0.24), cowl=(1.28, 1.45), cowl_back=(-0.16, 0.30),
            screen_deg=(40, 54), rear_deg=(82, 88), boot=(0.01, 0.03), deck=(1.24, 1.40), roof_drop=(0.00, 0.05),
            tail_tuck=(0.01, 0.05), tumble_deg=(4, 9), round=(0.05, 0.14), rails=(-0.30, 0.05),
        ),
        "delivery": dict(
            length=(4.25, 5.00), width=(1.78, 1.98), height=(1.82, 2.10), front=(0.82, 0.96), nose=(0.86, 1.04),
            cowl=(1.12, 1.28), cowl_back=(-0.12, 0.20), screen_deg=(32, 48), rear_deg=(78, 88), boot=(0.01, 0.03),
            deck=(1.12, 1.26), tumble_deg=(5, 11), tail_tuck=(0.02, 0.08), rails=(-0.30, 0.05),
        ),
    },
    "coupe": {
        "sports": dict(
            length=(4.10, 4.60), width=(1.76, 1.92), height=(1.24, 1.34), wheelbase=(0.565, 0.600), front=(0.84, 1.00),
            clearance=(0.11, 0.15), wheel=(0.64, 0.72), nose=(0.62, 0.74), nose_slope=(0.10, 0.30),
            nose_drop=(0.04, 0.12), nose_tuck=(0.18, 0.34), cowl=(0.86, 0.94), cowl_back=(0.50, 0.85),
            screen_deg=(24, 31), rear_deg=(18, 28), boot=(0.25, 0.55), deck=(0.92, 1.02), roof_drop=(0.04, 0.10),
            tail_tuck=(0.10, 0.22), tumble_deg=(18, 26), round=(0.06, 0.14), cladding=(0.0, 0.04), rails=(-0.06, 0.0),
            crease=(0.0, 0.02),
        ),
        "compact": dict(
            length=(4.15, 4.50), height=(1.33, 1.42), nose=(0.70, 0.80), cowl=(0.92, 0.99), cowl_back=(0.36, 0.62),
            rear_deg=(22, 32), boot=(0.25, 0.50), deck=(0.96, 1.06),
        ),
        "grand-tourer": dict(
            length=(4.60, 5.00), height=(1.31, 1.41), wheel=(0.68, 0.76), nose=(0.70, 0.80), cowl=(0.92, 1.00),
            deck=(0.98, 1.08), boot=(0.45, 0.75),
        ),
        "muscle": dict(
            length=(4.65, 5.00), width=(1.85, 1.96), height=(1.32, 1.42), nose=(0.74, 0.86), nose_slope=(0.02, 0.12),
            nose_tuck=(0.06, 0.18), cowl=(0.92, 1.00), cowl_back=(0.70, 1.00), screen_deg=(28, 36), rear_deg=(20, 34),
            boot=(0.50, 0.85), deck=(0.95, 1.05), tail_tuck=(0.03, 0.10),
        ),
    },
    "wagon": {
        "estate": dict(
            length=(4.50, 4.98), width=(1.76, 1.90), height=(1.43, 1.53), wheelbase=(0.570, 0.600), front=(0.84, 0.98),
            clearance=(0.13, 0.18), wheel=(0.63, 0.71), nose=(0.72, 0.82), nose_slope=(0.08, 0.28),
            nose_drop=(0.04, 0.15), nose_tuck=(0.18, 0.34), cowl=(0.93, 1.02), cowl_back=(0.36, 0.62),
            screen_deg=(25, 33), rear_deg=(44, 70), boot=(0.02, 0.12), deck=(0.98, 1.08), roof_drop=(0.02, 0.08),
            tail_tuck=(0.08, 0.20), tumble_deg=(16, 23), round=(0.05, 0.12), cladding=(0.0, 0.05), rails=(-0.05, 0.07),
            crease=(0.0, 0.02),
        ),
        "compact": dict(length=(4.25, 4.55), width=(1.68, 1.80), height=(1.44, 1.53)),
        "classic": dict(
            length=(4.70, 5.30), nose_slope=(0.03, 0.12), nose_drop=(0.04, 0.10), nose_tuck=(0.08, 0.18),
            screen_deg=(30, 38), rear_deg=(60, 82), tail_tuck=(0.03, 0.10), round=(0.03, 0.09),
        ),
        "raised": dict(
            height=(1.49, 1.60), clearance=(0.18, 0.23), wheel=(0.67, 0.74), cowl=(0.98, 1.08), deck=(1.03, 1.12),
            cladding=(0.06, 0.20), rails=(0.01, 0.07),
        ),
    },
}  # fmt: skip

_SHARES: dict[str, dict[str, float]] = {
    "sedan": {"midsize": 0.35, "compact": 0.25, "classic": 0.15, "fastback": 0.10, "limousine": 0.15},
    "hatchback": {"compact": 0.35, "supermini": 0.20, "crossover": 0.20, "liftback": 0.25},
    "suv": {"crossover": 0.40, "estate": 0.27, "full-size": 0.20, "off-roader": 0.13},
    "pickup": {
        "crew": 0.30, "extended": 0.20, "regular": 0.18, "compact": 0.12, "sport-utility": 0.10, "heavy-duty": 0.10
    },
    "van": {"minivan": 0.45, "bonneted": 0.28, "high-roof": 0.15, "delivery": 0.12},
    "coupe": {"sports": 0.30, "compact": 0.30, "grand-tourer": 0.20, "muscle": 0.20},
    "wagon": {"estate": 0.45, "compact": 0.20, "classic": 0.20, "raised": 0.15},
}  # fmt: skip
"""How common each kind is within its class, roughly as on the road."""

BODY_CLASSES: tuple[str, ...] = tuple(sorted(_KINDS))
CLASSES: tuple[str, ...] = ("hatchback", "pickup", "sedan", "suv", "van")
"""Those of the embedded set, and what is rendered unless others are named."""


def kinds(body_class: str) -> tuple[str, ...]:
    """The kinds of car in a class."""
    if body_class not in _KINDS:
        raise unknown_name("car class", body_class, BODY_CLASSES)
    return tuple(_KINDS[body_class])


def sample_body(rng: np.random.Generator, body_class: str) -> Body:
    """A car of ``body_class``: a kind, by how common it is, and proportions drawn from the ranges of that kind."""
    names = kinds(body_class)
    kind = names[rng.choice(len(names), p=[_SHARES[body_class][name] for name in names])]
    ranges = _KINDS[body_class][names[0]] | _KINDS[body_class][kind]
    drawn = {name: float(rng.uniform(*ranges[name])) for name in proportions()}
    drawn["wheelbase"] *= drawn["length"]
    return Body(body_class=body_class, kind=kind, **drawn)


def proportions() -> tuple[str, ...]:
    """Names of the numeric fields of :class:`Body`, in order."""
    return tuple(field.name for field in fields(Body) if field.name not in ("body_class", "kind"))
