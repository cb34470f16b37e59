"""What is painted on a car body: windows, lights, grille, plates, seams, cladding and rims.

A decal is a small map of material numbers. The side view's covers (s, z), front and rear cover (y, z), the wheel's
covers its disc; a pixel of the car looks its material up at its place on the body. So detail costs no triangles.

Legend: U columns, V rows of a decal, P pixels. Lengths in metres.
"""

from dataclasses import dataclass
from enum import IntEnum

import cv2
import numpy as np

from dann.train.rendering.car_bodies import Profile, Surface


class Material(IntEnum):
    PAINT = 0
    GLASS = 1
    TRIM = 2  # unpainted black plastic
    CHROME = 3
    HEADLIGHT = 4
    TAILLIGHT = 5
    PLATE = 6
    RUBBER = 7
    RIM = 8
    DARK = 9  # seams, openings, the underside


_PIXELS_PER_M = 56
_WHEEL_PX = 48
_RAIL = 0.085  # painted frame between side window and roof
_WINDOW_SILL = 0.03
_SEAM = 0.012  # half width of a drawn seam

_SOLID = {
    Surface.ROOF: Material.PAINT,
    Surface.UNDERSIDE: Material.DARK,
    Surface.BED: Material.TRIM,
    Surface.TYRE: Material.RUBBER,
    Surface.FITTING: Material.TRIM,
}


@dataclass(frozen=True)
class Trim:
    """The choices of one car's equipment. Lengths in metres unless the sentence says otherwise."""

    panel_van: bool
    """No side windows behind the front doors."""
    two_doors: bool
    black_pillars: bool
    chrome: bool
    black_bumpers: bool
    black_mirrors: bool
    light_height: float
    light_width: float
    """Share of the half width that a lamp takes."""
    light_wrap: float
    """How far the lamps reach round the corner."""
    light_slant: float
    """How much higher the outer end of a lamp is than its inner end."""
    dark_lamps: bool
    """A dark housing around the headlights rather than a bright one."""
    fog_lamps: bool
    grille: str
    """One of :data:`GRILLES`."""
    grille_height: float
    grille_width: float
    """Share of the width between the lamps."""
    intake: float
    """Height of the opening in the bumper."""
    rear_lamps: str
    """One of :data:`REAR_LAMPS`."""
    plate_above_bumper: bool
    pillar: float
    """Thickness of the rearmost roof pillar."""
    spokes: int


GRILLES = ("plain", "bars", "framed", "split", "painted")
REAR_LAMPS = ("block", "upright", "band")

_UPRIGHT_LAMPS = {
    "coupe": 0.0, "hatchback": 0.4, "pickup": 0.95, "sedan": 0.05, "suv": 0.5, "van": 0.85, "wagon": 0.45
}  # fmt: skip
_PANEL_VANS = {"minivan": 0.0, "bonneted": 0.5, "high-roof": 0.75, "delivery": 0.6}
_PILLARS = {
    "coupe": 0.18, "hatchback": 0.24, "pickup": 0.16, "sedan": 0.12, "suv": 0.14, "van": 0.12, "wagon": 0.12
}  # fmt: skip


def sample_trim(rng: np.random.Generator, profile: Profile) -> Trim:
    """Equipment for a car, some of it usual only in its class."""
    body = profile.body
    kind = body.body_class
    tall = kind in ("suv", "pickup", "van")
    cabin = profile.cabin[3] - profile.cabin[0]
    return Trim(
        panel_van=rng.random() < _PANEL_VANS.get(body.kind, 0.0),
        two_doors=kind == "coupe"
        or (kind == "pickup" and cabin < 2.3)
        or (kind == "hatchback" and rng.random() < 0.35),
        black_pillars=rng.random() < 0.6,
        chrome=rng.random() < 0.45,
        black_bumpers=rng.random() < (0.35 if tall else 0.06),
        black_mirrors=rng.random() < 0.4,
        light_height=rng.uniform(0.10, 0.17) + (0.04 if tall else 0.0),
        light_width=rng.uniform(0.26, 0.46),
        light_wrap=rng.uniform(0.12, 0.50),
        light_slant=rng.uniform(-0.02, 0.10),
        dark_lamps=rng.random() < 0.65,
        fog_lamps=rng.random() < 0.5,
        grille=str(rng.choice(GRILLES)),
        grille_height=rng.uniform(0.10, 0.34) + (rng.uniform(0.0, 0.16) if tall else 0.0),
        grille_width=rng.uniform(0.6, 1.0),
        intake=rng.uniform(0.06, 0.18),
        rear_lamps="upright" if rng.random() < _UPRIGHT_LAMPS[kind] else str(rng.choice(REAR_LAMPS[::2])),
        plate_above_bumper=rng.random() < 0.65,
        pillar=_PILLARS[kind] * rng.uniform(0.7, 1.4),
        spokes=int(rng.integers(5, 11)),
    )


class Decals:
    """The four decals of one car."""

    def __init__(self, profile: Profile, trim: Trim):
        self._body = profile.body
        self._solid = _SOLID | {Surface.MIRROR: Material.TRIM if trim.black_mirrors else Material.PAINT}
        self._maps_VU = {
            Surface.SIDE: _side(profile, trim),
            Surface.FRONT: _front(profile, trim),
            Surface.REAR: _rear(profile, trim),
            Surface.WHEEL: _wheel(trim),
        }

    def materials(self, surface_P: np.ndarray, place_P3: np.ndarray) -> np.ndarray:
        """The :class:`Material` at each place (x, y, z) on a face of that surface: (P) uint8."""
        material_P = np.full(len(surface_P), Material.PAINT, np.uint8)
        for surface, material in self._solid.items():
            material_P[surface_P == surface] = material
        for surface, map_VU in self._maps_VU.items():
            chosen = surface_P == surface
            column, row = self._coordinates(surface, place_P3[chosen])
            column = np.clip(column, 0, map_VU.shape[1] - 1).astype(np.int64)
            row = np.clip(row, 0, map_VU.shape[0] - 1).astype(np.int64)
            material_P[chosen] = map_VU[row, column]
        return material_P

    def _coordinates(self, surface: Surface, place_P3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y, z = place_P3.T
        body = self._body
        if surface == Surface.SIDE:
            return (x + body.length / 2) * _PIXELS_PER_M, z * _PIXELS_PER_M
        if surface in (Surface.FRONT, Surface.REAR):
            return np.abs(y) * _PIXELS_PER_M, z * _PIXELS_PER_M
        radius = body.wheel / 2
        front, rear = (axle - body.length / 2 for axle in body.axles)
        across = np.where(x < (front + rear) / 2, x - front, x - rear) / radius
        up = z / radius - 1
        return (across + 1) * _WHEEL_PX / 2, (up + 1) * _WHEEL_PX / 2


def _canvas(width: float, height: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An empty decal and the metres across and up of its pixels."""
    columns, rows = round(width * _PIXELS_PER_M) + 1, round(height * _PIXELS_PER_M) + 1
    up, across = (np.mgrid[0:rows, 0:columns] + 0.5) / _PIXELS_PER_M
    return np.full((rows, columns), Material.PAINT, np.uint8), across, up


def _between(values: np.ndarray, low: float | np.ndarray, high: float) -> np.ndarray:
    return (values >= low) & (values < high)


def _side(profile: Profile, trim: Trim) -> np.ndarray:
    body, (base_front, _, _, base_rear) = profile.body, profile.cabin
    decal, s, z = _canvas(body.length, body.height + 0.1)
    shoulder, roof = profile.at(profile.shoulder, s[0]), profile.at(profile.roof, s[0])
    lean = np.tan(np.radians(body.rear_deg))
    glass_end = base_rear - trim.pillar / np.sin(np.radians(body.rear_deg)) - np.clip(z - body.deck, 0, None) / lean
    door = base_front + 0.22
    doors_end = min(base_rear - 0.15, body.axles[1] - 0.05) if not trim.two_doors else base_rear - 0.35
    split = door + (1.15 if trim.two_doors or trim.panel_van else 0.52 * (doors_end - door))
    window = (z > shoulder + _WINDOW_SILL) & (z < roof - _RAIL) & (s < glass_end)
    if trim.panel_van:
        window &= s < split
    pillars = _between(s, split - 0.05, split + 0.05)
    if body.body_class in ("suv", "van", "wagon"):
        pillars |= _between(s, doors_end + 0.12, doors_end + 0.20)  # the quarter window behind the rear doors
    seams = [door - 0.05, split, doors_end] if not trim.two_doors else [door - 0.05, split]
    on_door = (z > body.clearance + 0.12) & (z < shoulder)
    for seam in seams:
        decal[on_door & _between(s, seam - _SEAM, seam + _SEAM)] = Material.DARK
    for handle in seams[1:]:
        decal[_between(z - shoulder, -0.15, -0.11) & _between(s, handle - 0.24, handle - 0.06)] = (
            Material.CHROME if trim.chrome else Material.TRIM
        )
    decal[window] = Material.GLASS
    decal[window & pillars] = Material.TRIM if trim.black_pillars else Material.PAINT
    decal[_cladding(profile, s, z)] = Material.TRIM
    _bumper_sides(decal, profile, trim, s, z)
    return decal


def _cladding(profile: Profile, s: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Where the sill and the arches are covered with unpainted plastic."""
    body = profile.body
    covered = z < body.clearance + body.cladding
    if body.cladding > 0.10:
        for axle in body.axles:
            covered = covered | (np.hypot(s - axle, z - body.wheel / 2) < body.wheel / 2 + 0.14)
    return covered


def _bumper_sides(decal: np.ndarray, profile: Profile, trim: Trim, s: np.ndarray, z: np.ndarray) -> None:
    body = profile.body
    if trim.black_bumpers:
        ends = (s < body.axles[0] - body.wheel / 2) | (s > body.axles[1] + body.wheel / 2 + 0.05)
        decal[ends & (z < _bumper_top(profile))] = Material.TRIM
    low, high = _headlight(profile, trim)
    rise = trim.light_slant * (1 + s / trim.light_wrap)
    _lamp(decal, (s < trim.light_wrap) & _between(z - rise, low + 0.08 * s / trim.light_wrap, high), trim)
    low, high = _taillight(profile, trim)
    wrap = 0.12 if trim.rear_lamps == "upright" else 0.3 * trim.light_wrap + 0.14
    decal[(s > body.length - wrap) & _between(z, low, high)] = Material.TAILLIGHT


def _bumper_top(profile: Profile) -> float:
    return profile.body.clearance + 0.40


def _headlight(profile: Profile, trim: Trim) -> tuple[float, float]:
    top = profile.body.nose - 0.05 - 0.5 * profile.body.nose_drop
    return top - trim.light_height, top


def _taillight(profile: Profile, trim: Trim) -> tuple[float, float]:
    body = profile.body
    tall = body.height - body.deck
    if trim.rear_lamps == "upright":  # beside the tailgate, on vans and estates up along the rear window
        top = body.deck + (0 if body.has_bed else (trim.light_height - 0.10) * 2.5 * tall)
        return min(body.deck - 0.20, top - 0.34), top
    top = body.deck - 0.06 - 0.5 * trim.light_height * (body.body_class in ("sedan", "coupe"))
    return top - 1.1 * trim.light_height, top


def _glass_half_width(profile: Profile, z: np.ndarray) -> np.ndarray:
    body = profile.body
    lean = np.tan(np.radians(body.tumble_deg))
    return body.width / 2 - 0.05 - lean * np.clip(z - body.cowl, 0, None) - 0.07


def _front(profile: Profile, trim: Trim) -> np.ndarray:
    body = profile.body
    decal, y, z = _canvas(body.width / 2, body.height + 0.1)
    half = body.width / 2 * (1 - body.nose_tuck)
    low, high = _headlight(profile, trim)
    if trim.black_bumpers:
        decal[z < _bumper_top(profile)] = Material.TRIM
    decal[z < body.clearance + 0.12] = Material.TRIM  # the lip below the bumper
    inner = half * (0.95 - trim.light_width)
    _grille(decal, y, z, trim, bottom=high - trim.grille_height, top=high, half_width=trim.grille_width * inner - 0.02)
    rise = trim.light_slant * (y - inner) / (half - inner)
    _lamp(decal, _between(z - rise, low, high) & (y > inner), trim)
    intake = body.clearance + 0.14
    opening = _between(z, intake, intake + trim.intake)
    decal[opening & (y < half * 0.66)] = Material.DARK
    if trim.fog_lamps:
        decal[np.hypot(y - half * 0.8, z - intake - 0.08) < 0.075] = Material.TRIM
        decal[np.hypot(y - half * 0.8, z - intake - 0.08) < 0.05] = Material.HEADLIGHT
    decal[_between(z, intake + trim.intake + 0.02, intake + trim.intake + 0.13) & (y < 0.26)] = Material.PLATE
    glass = y < _glass_half_width(profile, z)
    decal[_between(z, body.cowl - 0.02, body.height - 0.06) & glass] = Material.GLASS
    decal[_between(z, body.cowl - 0.02, body.cowl + 0.035) & glass] = Material.DARK  # where the wipers rest
    return decal


def _lamp(decal: np.ndarray, area: np.ndarray, trim: Trim) -> None:
    """A headlight: a dark or bright housing with a reflector in its middle."""
    decal[area] = Material.DARK if trim.dark_lamps else Material.CHROME
    inside = cv2.erode(area.astype(np.uint8), np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    decal[inside > 0] = Material.HEADLIGHT


def _grille(
    decal: np.ndarray, y: np.ndarray, z: np.ndarray, trim: Trim, *, bottom: float, top: float, half_width: float
) -> None:
    """The opening between the headlights: ``plain`` dark, with ``bars``, ``framed``, ``split``, or ``painted`` over."""
    if trim.grille == "painted":
        bottom = top - 0.04
    opening = _between(z, bottom, top) & (y < half_width)
    metal = Material.CHROME if trim.chrome else Material.TRIM
    decal[opening] = Material.DARK
    if trim.grille == "bars":
        decal[opening & ((z - bottom) % 0.07 < 0.025)] = metal
    elif trim.grille == "framed":
        inside = _between(z, bottom + 0.025, top - 0.025) & (y < half_width - 0.03)
        decal[opening & ~inside] = metal
    elif trim.grille == "split":
        decal[opening & (np.abs(z - (bottom + top) / 2) < 0.035)] = Material.CHROME if trim.chrome else Material.PAINT


def _rear(profile: Profile, trim: Trim) -> np.ndarray:
    body = profile.body
    decal, y, z = _canvas(body.width / 2, body.height + 0.1)
    half = body.width / 2 * (1 - body.tail_tuck)
    if trim.black_bumpers:
        decal[z < _bumper_top(profile)] = Material.TRIM
    decal[z < body.clearance + 0.16] = Material.TRIM
    low, high = _taillight(profile, trim)
    inner = half * (0.83 if trim.rear_lamps == "upright" else 0.92 - trim.light_width)
    if trim.rear_lamps == "band":
        decal[_between(z, (low + high) / 2 - 0.02, high - 0.02) & (y < half)] = (
            Material.CHROME if trim.chrome else Material.TAILLIGHT
        )
    decal[_between(z, low, high) & (y > inner)] = Material.TAILLIGHT
    seam = _bumper_top(profile) + 0.06
    decal[_between(z, seam - _SEAM, seam + _SEAM) & (y < half * 0.8)] = Material.DARK
    if body.body_class == "van" and body.kind != "minivan":
        decal[(y < _SEAM) & _between(z, seam, body.height - 0.1)] = Material.DARK
    plate = seam + 0.08 if trim.plate_above_bumper else seam - 0.26
    decal[_between(z, plate, plate + 0.12) & (y < 0.26)] = Material.PLATE
    window = _between(z, body.deck + 0.04, body.height - body.roof_drop - 0.07)
    if not trim.panel_van:
        decal[window & (y < _glass_half_width(profile, z) - 0.02)] = Material.GLASS
    return decal


def _wheel(trim: Trim) -> np.ndarray:
    """A rim with spokes inside a tyre, on the square [−1, 1]²."""
    up, across = np.mgrid[0:_WHEEL_PX, 0:_WHEEL_PX] / (_WHEEL_PX / 2) - 1 + 1 / _WHEEL_PX
    radius, angle = np.hypot(across, up), np.arctan2(up, across)
    rim_radius, lip, hub = 0.70, 0.62, 0.2
    spoke = np.cos(angle * trim.spokes) > -0.1
    decal = np.full((_WHEEL_PX, _WHEEL_PX), Material.RUBBER, np.uint8)
    decal[radius < rim_radius] = Material.RIM
    decal[(radius < lip) & (radius > hub) & ~spoke] = Material.DARK
    return decal
