"""Car bodies as triangle meshes, lofted from the proportions of :mod:`dann.train.rendering.car_proportions`.

A body is drawn the way a package drawing is: a side view made of four curves over the length (sill, shoulder line,
roof line, half width), and a cross-section that is swept along them. Where the roof line leaves the shoulder line
there is a greenhouse, narrower at the roof than at the shoulder; where it does not there is a bonnet, a boot or a bed.
Windows, lights and seams are not geometry: :mod:`dann.train.rendering.car_decals` paints them.

Axes, in metres: x from the nose (−length/2) to the tail (+length/2), y to the side, z up from the ground. ``s`` is the
distance behind the nose, x + length/2. Legend: V vertices, T triangles, S stations along the car, R points of a ring.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from dann.train.rendering.car_proportions import Body
from dann.train.rendering.mesh import Mesh, face_normals, smooth_normals

# ---- the four curves of the side view ----

_GRID_M = 0.01  # spacing at which the curves are sampled
_ROOF_ARCH = 0.03  # how far the middle of the roof stands above its front end
_FENDER = 0.06  # clearance between tyre and wheel arch
_CORNER_M = 0.10  # radius of the corners in the plan view
_BELOW_AXLE = 0.02  # a wheel arch starts this little above the axle's height


@dataclass(frozen=True)
class Profile:
    """The side view of a body, sampled every centimetre: four arrays over ``s``."""

    body: Body
    s: np.ndarray
    sill: np.ndarray
    """Height of the lower edge of the body side, wheel arches included."""
    shoulder: np.ndarray
    """Height of the line where the windows begin: bonnet edge, belt line, boot edge."""
    roof: np.ndarray
    """Height of the silhouette; equals ``shoulder`` where there is no greenhouse."""
    half_width: np.ndarray
    cabin: tuple[float, float, float, float]
    """``s`` of the windscreen's base and top and of the rear window's top and base."""

    def at(self, curve: np.ndarray, s: np.ndarray | float) -> np.ndarray:
        """``curve`` at ``s``."""
        return np.asarray(np.interp(s, self.s, curve))


def side_view(body: Body) -> Profile:
    """The curves of ``body``."""
    s = np.arange(0.0, body.length + _GRID_M / 2, _GRID_M)
    cabin = _cabin(body)
    shoulder = _soften(np.interp(s, *_shoulder_knots(body, cabin)), body.round)
    roof = _soften(np.interp(s, *_roof_knots(body, cabin)), body.round)
    return Profile(
        body=body,
        s=s,
        sill=_sill(body, s),
        shoulder=shoulder,
        roof=np.maximum(roof, shoulder),
        half_width=_half_width(body, s),
        cabin=cabin,
    )


def _cabin(body: Body) -> tuple[float, float, float, float]:
    base_front = body.front + body.cowl_back
    base_rear = body.length - body.boot
    front_rise = body.height - _ROOF_ARCH - body.cowl
    rear_rise = body.height - body.roof_drop - body.deck
    top_front = base_front + front_rise / np.tan(np.radians(body.screen_deg))
    top_rear = base_rear - rear_rise / np.tan(np.radians(body.rear_deg))
    return base_front, float(top_front), float(top_rear), base_rear


def _shoulder_knots(body: Body, cabin: tuple[float, float, float, float]) -> tuple[list[float], list[float]]:
    tail_drop = 0.10 if body.boot > 0.3 and not body.has_bed else 0.02  # a boot lid falls towards its edge
    lip = body.nose_slope + 0.04
    return (
        [0.0, lip, (lip + cabin[0]) / 2, cabin[0], cabin[3], body.length],
        [
            body.nose - body.nose_drop,
            body.nose,
            (body.nose + body.cowl) / 2 + 0.02,
            body.cowl,
            body.deck,
            body.deck - tail_drop,
        ],
    )


def _roof_knots(body: Body, cabin: tuple[float, float, float, float]) -> tuple[list[float], list[float]]:
    base_front, top_front, top_rear, base_rear = cabin
    crest = 0.6 * top_front + 0.4 * top_rear
    return (
        [0.0, base_front, top_front, crest, top_rear, base_rear, body.length],
        [0.0, body.cowl, body.height - _ROOF_ARCH, body.height, body.height - body.roof_drop, body.deck, 0.0],
    )


def _soften(curve: np.ndarray, radius: float) -> np.ndarray:
    """``curve`` with its corners rounded by a bell of half width ``radius`` metres."""
    bell = np.hanning(2 * round(radius / _GRID_M) + 3)
    reach = len(bell) // 2
    return np.convolve(np.pad(curve, reach, mode="edge"), bell / bell.sum(), mode="valid")


def _sill(body: Body, s: np.ndarray) -> np.ndarray:
    front, rear = body.axles
    approach = 0.12 * np.clip(1 - s / front, 0, 1)
    departure = 0.16 * np.clip((s - rear) / (body.length - rear), 0, 1)
    sill = body.clearance + approach + departure
    radius = body.wheel / 2 + _FENDER
    for axle in body.axles:
        rise = np.sqrt(np.clip(radius**2 - (s - axle) ** 2, 0, None))
        sill = np.where(rise > _BELOW_AXLE, np.maximum(sill, body.wheel / 2 + rise), sill)
    return sill


def _half_width(body: Body, s: np.ndarray) -> np.ndarray:
    """The plan view: full width in the middle, drawn in at both ends, with rounded corners."""
    nose = _drawn_in(s, body.nose_tuck, reach=0.45 + 1.6 * body.nose_tuck)
    tail = _drawn_in(body.length - s, body.tail_tuck, reach=0.35 + 1.6 * body.tail_tuck)
    return body.width / 2 * (1 - nose - tail)


def _drawn_in(from_end: np.ndarray, tuck: float, reach: float) -> np.ndarray:
    """Share of the half width that is missing at some distance from an end."""
    corner = 1 - np.sqrt(1 - np.clip(1 - from_end / _CORNER_M, 0, 1) ** 2)
    return tuck * np.clip(1 - from_end / reach, 0, 1) ** 2 + 0.1 * corner


# ---- the mesh ----


class Surface(IntEnum):
    """Where the look of a face comes from: the first four are decals, the others one material each."""

    SIDE = 0
    FRONT = 1
    REAR = 2
    WHEEL = 3
    ROOF = 4
    UNDERSIDE = 5
    BED = 6
    TYRE = 7
    FITTING = 8
    MIRROR = 9


_SHOULDER_IN = 0.05  # the greenhouse starts this far inside the shoulder
_SIDE_LEVELS = (0, 0.12, 0.3, 0.5, 0.56, 0.62, 0.70, 0.86, 1)  # ring points from sill to shoulder
_ROOF_CROWN = 0.035  # the roof's middle above its edge
_WHEEL_WIDTH = 0.22
_WHEEL_SIDES = 24
_BED_WALL = 0.06
_MIDDLE_M = 0.8  # no face further than this behind the middle is part of the front, or before it of the rear
_BED_DEPTH = 0.48
_MIRROR_BACK = 0.38  # behind the windscreen's base


def build_mesh(profile: Profile) -> Mesh:
    """The triangle mesh of the car of ``profile``: shell, underside, wheels, mirrors, and roof rails on some."""
    body = profile.body
    stations = _stations(profile)
    shell_SR3 = _rings(profile, stations)
    bed = _bed_faces(_in_bed(profile, stations), shell_SR3.shape[1])
    parts = [
        _with_decals(_grid(shell_SR3), bed=bed),
        _with_decals(_grid(_cap(shell_SR3[0]))),
        _with_decals(_grid(_cap(shell_SR3[-1])[:, ::-1])),
        _solid(_grid(shell_SR3[:, [-1, 0]]), Surface.UNDERSIDE),
        _solid(_chassis(body), Surface.UNDERSIDE),
        *_wheels(body),
        *_mirrors(profile),
        *_roof_rails(profile),
    ]
    return _join(parts)


def _stations(profile: Profile) -> np.ndarray:
    """``s`` of the cross-sections: even steps, closer at corners, bed ends and wheel arches."""
    body = profile.body
    arch = (body.wheel / 2 + _FENDER) * np.cos(np.linspace(0, np.pi, 13))
    corners = [s + step for s in profile.cabin for step in (-0.06, 0.0, 0.06)]
    bed = [s + step for s in _bed(profile) for step in (-0.005, 0.005)]  # its walls are upright
    s = np.concatenate(
        [
            np.linspace(0, body.length, 40),
            [0.008, 0.025, 0.05, 0.08, 0.12, 0.2, 0.3],
            body.length - np.array([0.008, 0.025, 0.05, 0.08, 0.12, 0.2, 0.3]),
            corners,
            *(axle + arch for axle in body.axles),
            bed if body.has_bed else [],
        ]
    )
    s = np.unique(np.round(np.clip(s, 0, body.length), 3))
    return s[np.concatenate([[True], np.diff(s) > 0.004])]


def _bed(profile: Profile) -> tuple[float, float]:
    """``s`` between which an open bed lies: from the cabin's rear wall to the tailgate."""
    return profile.cabin[3] + _BED_WALL, profile.body.length - _BED_WALL


def _in_bed(profile: Profile, s: np.ndarray) -> np.ndarray:
    """Whether the cross-section at each ``s`` is that of an open bed."""
    start, end = _bed(profile)
    return profile.body.has_bed & (s > start) & (s < end)


def _rings(profile: Profile, s_S: np.ndarray) -> np.ndarray:
    """The cross-sections at each ``s``, from the left sill over the roof to the right sill: (S, R, 3)."""
    shoulder, half = profile.at(profile.shoulder, s_S), profile.at(profile.half_width, s_S)
    y_side, z_side = _side_section(profile, s_S, shoulder, half)
    y_roof, z_roof = _greenhouse_section(profile, s_S, shoulder, half)
    y_bed, z_bed = _bed_section(shoulder, half)
    in_bed = _in_bed(profile, s_S)
    y = np.concatenate([y_side, np.where(in_bed, y_bed, y_roof)]).T
    z = np.concatenate([z_side, np.where(in_bed, z_bed, z_roof)]).T
    y, z = np.hstack([-y, y[:, -2::-1]]), np.hstack([z, z[:, -2::-1]])
    return np.stack([np.broadcast_to(s_S[:, None] - profile.body.length / 2, y.shape), y, z], axis=2)


_Section = tuple[np.ndarray, np.ndarray]  # y and z of half a cross-section, (points, S) each


def _side_section(profile: Profile, s_S: np.ndarray, shoulder: np.ndarray, half: np.ndarray) -> _Section:
    clearance = profile.body.clearance
    bottom = np.minimum(profile.at(profile.sill, s_S), shoulder - 0.05)
    share = np.array(_SIDE_LEVELS)[:, None]
    z = bottom + share * (shoulder - 0.02 - bottom)
    level = np.clip((z - clearance) / (shoulder - clearance), 0, 1)
    crease = profile.body.crease
    knots = [0, 0.12, 0.32, 0.56, 0.62, 0.70, 0.86, 1]
    out = [0.92, 0.955, 0.975 - crease / 2, 0.99, 1, 0.99 - crease, 0.985 - crease, 0.945]
    return half * np.interp(level, knots, out), z


def _greenhouse_section(profile: Profile, s_S: np.ndarray, shoulder: np.ndarray, half: np.ndarray) -> _Section:
    roof = profile.at(profile.roof, s_S)
    rise = roof - shoulder
    lean = np.tan(np.radians(profile.body.tumble_deg)) * rise
    inner, soft = half - _SHOULDER_IN, np.minimum(0.06, 0.4 * rise)
    edge = inner - lean
    y = [inner, inner - 0.5 * lean, edge, edge - soft, edge / 2, 0 * edge]
    z = [shoulder, shoulder + 0.5 * rise, roof - soft, roof, roof + 0.8 * _ROOF_CROWN, roof + _ROOF_CROWN]
    return np.stack(y), np.stack(z)


def _bed_section(shoulder: np.ndarray, half: np.ndarray) -> _Section:
    wall, floor = half - _BED_WALL, shoulder - _BED_DEPTH
    y = [half - _SHOULDER_IN, wall, wall, wall, half / 2, 0 * half]
    z = [shoulder, shoulder, floor + _BED_DEPTH / 2, floor, floor, floor]
    return np.stack(y), np.stack(z)


def _cap(ring_R3: np.ndarray) -> np.ndarray:
    """The flat end of the shell: a strip between the ring's left and right half, (R//2, 2, 3)."""
    half = len(ring_R3) // 2
    return np.stack([ring_R3[: half + 1], ring_R3[::-1][: half + 1]], axis=1)


_Part = tuple[np.ndarray, np.ndarray, np.ndarray]  # vertices (V, 3), triangles (T, 3), surface (T)
_Grid = tuple[np.ndarray, np.ndarray]


def _grid(points_MN3: np.ndarray) -> _Grid:
    """Vertices and triangles of a grid of points; outside is where M × N points (right-hand rule)."""
    rows, columns = points_MN3.shape[:2]
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    triangles = np.stack([np.stack([a, b, c], -1), np.stack([a, c, d], -1)], axis=2)
    return points_MN3.reshape(-1, 3), triangles.reshape(-1, 3)


def _with_decals(grid: _Grid, bed: np.ndarray | None = None) -> _Part:
    """Each face takes the decal that it faces most; ``bed`` marks faces that are bed lining instead."""
    vertices, triangles = grid
    normal = face_normals(vertices, triangles)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-12
    nx, ny, nz = normal.T
    lengthwise = np.abs(nx) > np.maximum(0.34, 0.9 * np.abs(ny))  # 0.34: a windscreen of 20° still counts
    surface = np.full(len(triangles), Surface.ROOF, np.uint8)
    surface[lengthwise | (np.abs(ny) > 0.5)] = Surface.SIDE
    x = vertices[triangles, 0].mean(axis=1)
    surface[lengthwise & (nx < 0) & (x < _MIDDLE_M)] = Surface.FRONT
    surface[lengthwise & (nx > 0) & (x > -_MIDDLE_M)] = Surface.REAR
    surface[nz < -0.6] = Surface.UNDERSIDE
    if bed is not None:
        surface[bed] = Surface.BED
    return vertices, triangles, surface


def _bed_faces(in_bed_S: np.ndarray, ring_points: int) -> np.ndarray:
    """Which triangles of the shell's grid line the bed: (T) bool."""
    first = len(_SIDE_LEVELS) + 1  # the rail itself stays painted
    columns = np.zeros(ring_points - 1, bool)
    columns[first : ring_points - 1 - first] = True
    cells = (in_bed_S[:-1] | in_bed_S[1:])[:, None] & columns[None]
    return np.repeat(cells.reshape(-1), 2)


def _solid(grid: _Grid, surface: Surface) -> _Part:
    return *grid, np.full(len(grid[1]), surface, np.uint8)


def _box(low: tuple[float, float, float], high: tuple[float, float, float]) -> _Grid:
    corners = np.array([[(low, high)[i >> axis & 1][axis] for axis in range(3)] for i in range(8)])
    quads = [(0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (2, 6, 7, 3), (0, 4, 6, 2), (1, 3, 7, 5)]
    vertices = corners[np.array(quads).reshape(-1)]  # four of its own per side, so that sides shade flat
    base = 4 * np.arange(6)[:, None]
    return vertices, np.concatenate([base + [0, 1, 2], base + [0, 2, 3]])


def _chassis(body: Body) -> _Grid:
    """A dark block between the wheels, so that nobody looks through the arches to the other side."""
    x, y = body.length / 2 - 0.25, body.width / 2 - _WHEEL_WIDTH - 0.04
    return _box((-x, -y, body.clearance + 0.03), (x, y, body.nose - 0.15))


def _wheels(body: Body) -> list[_Part]:
    radius = body.wheel / 2
    angle = np.linspace(0, 2 * np.pi, _WHEEL_SIDES + 1)
    circle = np.stack([np.cos(angle), np.zeros_like(angle), np.sin(angle)], axis=1)
    parts = []
    for axle in body.axles:
        for side in (-1, 1):
            hub = np.array([axle - body.length / 2, side * (body.width / 2 - 0.035), radius])
            outer = hub + circle * radius
            inner = outer - [0, side * _WHEEL_WIDTH, 0]
            rings = (outer, inner) if side < 0 else (inner, outer)
            disc = (np.broadcast_to(hub, outer.shape), outer)
            parts.append(_solid(_grid(np.stack(rings, axis=0)), Surface.TYRE))
            parts.append(_solid(_grid(np.stack(disc if side < 0 else disc[::-1], axis=0)), Surface.WHEEL))
    return parts


def _mirrors(profile: Profile) -> list[_Part]:
    x = profile.cabin[0] + _MIRROR_BACK - profile.body.length / 2
    z = float(profile.at(profile.shoulder, profile.cabin[0] + _MIRROR_BACK)) + 0.03
    y = profile.body.width / 2 - 0.02
    size = 0.22 if profile.body.body_class in ("pickup", "van") else 0.15
    boxes = [
        _box((x - 0.06, y, z), (x + 0.05, y + 0.18, z + size)),
        _box((x - 0.06, -y - 0.18, z), (x + 0.05, -y, z + size)),
    ]
    return [_solid(box, Surface.MIRROR) for box in boxes]


def _roof_rails(profile: Profile) -> list[_Part]:
    body = profile.body
    if body.rails <= 0:
        return []
    front, rear = profile.cabin[1] + 0.15, profile.cabin[2] - 0.1
    z = float(min(profile.at(profile.roof, front), profile.at(profile.roof, rear)))
    lean = np.tan(np.radians(body.tumble_deg)) * (body.height - body.cowl)
    y = body.width / 2 - _SHOULDER_IN - lean - 0.06
    x = np.array([front, rear]) - body.length / 2
    return [
        _solid(_box((x[0], side - 0.02, z), (x[1], side + 0.02, z + body.rails)), Surface.FITTING) for side in (-y, y)
    ]


def _join(parts: list[_Part]) -> Mesh:
    offsets = np.cumsum([0] + [len(vertices) for vertices, _, _ in parts])
    return Mesh(
        vertices_V3=np.concatenate([vertices for vertices, _, _ in parts]),
        normals_V3=np.concatenate([smooth_normals(vertices, triangles) for vertices, triangles, _ in parts]),
        triangles_T3=np.concatenate([part[1] + offset for part, offset in zip(parts, offsets, strict=False)]),
        part_T=np.concatenate([surface for _, _, surface in parts]),
    )
