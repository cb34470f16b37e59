"""Which way a model of a vehicle stands, told from its shape: what is up, and where its nose is.

A vehicle has one mirror plane, between left and right; it is longer than high; its roof is shorter than what it stands
on; and its bonnet is lower than its rear end. What does not look like that is left to convention.
"""

import numpy as np

from dann.train.rendering.mesh import face_normals

AXES = {
    "z": np.array([0, 0, 1]),
    "y": np.array([0, 1, 0]),
    "x": np.array([1, 0, 0]),
    "-z": np.array([0, 0, -1]),
    "-y": np.array([0, -1, 0]),
    "-x": np.array([-1, 0, 0]),
}
"""The directions of a file that can be up, or the front."""

_SAMPLES = 4000
_CELLS = 24  # the surface is compared with its mirror image on a grid this fine
_CLEAR = 0.06  # the best mirror plane must beat the next by this share of the surface
_LONGER = 1.08  # what is on top must reach so much further along than what is below, to be taken for the underside
_END = 0.2  # of the length
_TOP = 0.95  # of an end's surface is lower than its top, over which aerials stand
_LOWER = 0.12  # of the height, by which the front end must be lower than the rear end; those of pickups differ by less


def turn_of(up: str, front: str) -> np.ndarray:
    """Rows: where x, y and z of the scene, in which the nose is at −x and z is up, lie in the file."""
    x, z = -AXES[front], AXES[up]
    return np.array([x, np.cross(z, x), z], float)


def guess_up(vertices_V3: np.ndarray, triangles_T3: np.ndarray) -> str | None:
    """One of :data:`AXES`, or ``None`` where the shape does not tell."""
    points = _surface_points(vertices_V3, triangles_T3)
    low, high = vertices_V3.min(axis=0), vertices_V3.max(axis=0)
    symmetry = np.array([_symmetry(points, low, high, axis) for axis in range(3)])
    across = int(symmetry.argmax())
    rest = [axis for axis in range(3) if axis != across]
    if symmetry[across] - symmetry[rest].max() < _CLEAR:
        return None
    along, up = sorted(rest, key=lambda axis: low[axis] - high[axis])
    if high[along] - low[along] < 1.15 * (high[up] - low[up]):
        return None
    height_N = (points[:, up] - low[up]) / (high[up] - low[up])
    top, bottom = (_spread(points[chosen, along]) for chosen in (height_N > 0.75, height_N < 0.25))
    return ("-" if top > _LONGER * bottom else "") + "xyz"[up]


def longer_side(vertices_V3: np.ndarray, up: str) -> str:
    """``x``, ``y`` or ``z``: along which of them the model is longest, ``up`` left out."""
    sizes = np.ptp(vertices_V3, axis=0)
    return max((axis for axis in "xyz" if axis != up[-1]), key=lambda axis: sizes["xyz".index(axis)])


def guess_front(vertices_V3: np.ndarray, triangles_T3: np.ndarray, up: str) -> str | None:
    """The end of the longer side that is lower, ``up`` given; ``None`` where both are about as high."""
    along = longer_side(vertices_V3, up)
    points = _surface_points(vertices_V3, triangles_T3)
    place_N, height_N = points @ AXES[along], points @ AXES[up]
    place_N = (place_N - place_N.min()) / np.ptp(place_N)
    low_end, high_end = height_N[place_N < _END], height_N[place_N > 1 - _END]
    if not (len(low_end) and len(high_end)):
        return None
    higher = np.quantile(high_end, _TOP) - np.quantile(low_end, _TOP)
    if abs(higher) < _LOWER * np.ptp(height_N):
        return None
    return f"-{along}" if higher > 0 else along


def _spread(values_N: np.ndarray) -> float:
    return float(values_N.std()) if len(values_N) else 0.0


def _surface_points(vertices_V3: np.ndarray, triangles_T3: np.ndarray) -> np.ndarray:
    """Points spread evenly over the surface, the same at every call."""
    rng = np.random.default_rng(0)
    area = np.linalg.norm(face_normals(vertices_V3, triangles_T3), axis=1)
    chosen = triangles_T3[rng.choice(len(triangles_T3), _SAMPLES, p=area / area.sum())]
    weights = rng.dirichlet(np.ones(3), _SAMPLES)
    return (vertices_V3[chosen] * weights[:, :, None]).sum(axis=1)


def _symmetry(points_N3: np.ndarray, low: np.ndarray, high: np.ndarray, axis: int) -> float:
    """Share of the surface, in cells, whose mirror image along ``axis`` is surface too."""
    mirrored = points_N3.copy()
    mirrored[:, axis] = low[axis] + high[axis] - mirrored[:, axis]
    side = (high - low).max() / _CELLS
    here, there = (np.unique(((p - low) / side).astype(np.int64) @ [10_000, 100, 1]) for p in (points_N3, mirrored))
    return len(np.intersect1d(here, there)) / len(here)
