"""What stands around the object: an empty studio, a cluttered, simulated street, or a photo.

Everything is drawn in sRGB, float32 in 0…1, on a picture that the object is laid over afterwards. The ground is a flat
texture seen through the scene's own camera, so its perspective agrees with the object's.
"""

import cv2
import numpy as np

from dann.train.rendering.photo_effects import blur
from dann.train.rendering.raster import Camera

Rng = np.random.Generator

_TEXTURE_PX = 192
_TEXTURE_M = 24.0  # side of the ground that one texture covers


def studio(rng: Rng, height: int, width: int) -> np.ndarray:
    """A plain backdrop, grey to white and hardly tinted, with a soft vertical gradient."""
    top, bottom = rng.uniform(0.40, 0.98, 2)
    tint = rng.uniform(0.94, 1.02, 3)
    column = np.linspace(top, bottom, height)[:, None, None] * tint
    return np.ascontiguousarray(np.broadcast_to(np.clip(column, 0, 1), (height, width, 3)), np.float32)


def photo(rng: Rng, image_HW3: np.ndarray, height: int, width: int, *, blur_px: float) -> np.ndarray:
    """A random part of a photo (uint8 RGB), at least 40 % of what fits, mirrored or not."""
    rows, columns = image_HW3.shape[:2]
    zoom = min(rows / height, columns / width) * rng.uniform(0.4, 1)
    part = max(1, round(height * zoom)), max(1, round(width * zoom))
    top, left = rng.integers(rows - part[0] + 1), rng.integers(columns - part[1] + 1)
    chosen = image_HW3[top : top + part[0], left : left + part[1]]
    chosen = cv2.resize(chosen, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32) / 255
    return blur(np.ascontiguousarray(chosen[:, ::-1] if rng.random() < 0.5 else chosen), blur_px)


def street(
    rng: Rng, camera: Camera, height: int, width: int, *, contrast: float, blur_px: float, daylight: np.ndarray
) -> np.ndarray:
    """Sky, ground and things between them. ``contrast`` 0 leaves flat grey, ``daylight`` (3,) tints everything.

    What is far is blurred by ``blur_px``, the ground, which is nearer, by a third of it.
    """
    above = _sky(rng, height, width)
    rows = _line(*camera.horizon(), width)
    for _ in range(rng.integers(3, 9)):
        thing = _THINGS[rng.integers(len(_THINGS))]
        thing(rng, above, float(rows.mean()))
    above = blur(above, blur_px)
    below = blur(_ground(rng, camera, height, width), blur_px / 3)
    is_ground = np.clip(np.arange(height)[:, None] - rows[None] + 0.5, 0, 1)[:, :, None].astype(np.float32)
    picture = above * (1 - is_ground) + below * is_ground
    grey = picture.mean()
    tint = ((daylight / daylight.mean()) ** 0.4).astype(np.float32)
    return np.clip((grey + contrast * (picture - grey)) * tint, 0, 1)


def occlude(rng: Rng, picture_HW3: np.ndarray, width: float) -> None:
    """Draw something thin before the object: a post, a trunk, a branch or a bush. ``width`` as a share of the image."""
    rows, columns = picture_HW3.shape[:2]
    size = max(rows, columns)
    colour = _colour(rng, saturation=0.5, low=0.05, high=0.6)
    kind = rng.integers(3)
    half = width * size / 2
    if kind == 0:  # a post or trunk, slightly off the vertical
        x, lean = rng.uniform(0.1, 0.9) * columns, rng.uniform(-0.06, 0.06) * size
        post = np.array([[x - half, 0], [x + half, 0], [x + lean + half, rows], [x + lean - half, rows]])
        _fill(picture_HW3, post, colour)
    elif kind == 1:  # leaves reaching in from an upper corner
        corner = np.array([rng.choice([0.0, columns]), 0.0])
        _leaves(rng, picture_HW3, corner, spread=0.2 * size, leaf=half)
    else:  # a bush or grass at the lower edge
        _leaves(rng, picture_HW3, np.array([rng.uniform(0, columns), rows]), spread=0.14 * size, leaf=half)


def _colour(rng: Rng, *, saturation: float, low: float, high: float) -> np.ndarray:
    """A random sRGB colour."""
    hsv = np.array([[[rng.uniform(0, 360), rng.uniform(0, saturation), rng.uniform(low, high)]]], np.float32)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0]


def _fill(picture_HW3: np.ndarray, corners_N2: np.ndarray, colour: np.ndarray) -> None:
    cv2.fillConvexPoly(picture_HW3, np.round(corners_N2 * 16).astype(np.int32), colour.tolist(), cv2.LINE_AA, 4)


def _line(left: np.ndarray, right: np.ndarray, width: int) -> np.ndarray:
    """Height (row) of the line through two points, per column; far outside of the picture where it is upright."""
    across, down = right - left
    slope = down / (across if abs(across) > 1e-6 else 1e-6)
    return np.clip(left[1] + slope * (np.arange(width) - left[0]), -1e5, 1e5)


def _cloud(rng: Rng, height: int, width: int, octaves: tuple[int, ...]) -> np.ndarray:
    """Smooth noise with mean 0: (height, width)."""
    total = np.zeros((height, width), np.float32)
    for cells in octaves:
        coarse = rng.standard_normal((cells, cells), np.float32)
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) / np.float32(np.sqrt(cells))
    return total


def _sky(rng: Rng, height: int, width: int) -> np.ndarray:
    top = np.array([0.35, 0.55, 0.85]) if rng.random() < 0.5 else np.full(3, rng.uniform(0.5, 0.9))
    bottom = np.full(3, rng.uniform(0.7, 1.0))
    blend = np.linspace(0, 1, height)[:, None, None]
    clouds = 0.12 * _cloud(rng, height, width, (3, 6, 12))[:, :, None]
    return (top + (bottom - top) * blend).astype(np.float32) + clouds


def _ground(rng: Rng, camera: Camera, height: int, width: int) -> np.ndarray:
    """A random floor seen through ``camera``."""
    texture = _floor(rng)
    corners = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], float)
    seen = camera.project(corners)[0].astype(np.float32)
    turn, shift = rng.uniform(0, np.pi), rng.uniform(0, _TEXTURE_PX, 2)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    on_texture = (corners[:, :2] @ rotation * _TEXTURE_PX / _TEXTURE_M + shift).astype(np.float32)
    return cv2.warpPerspective(
        texture, cv2.getPerspectiveTransform(on_texture, seen), (width, height), borderMode=cv2.BORDER_WRAP
    )


def _floor(rng: Rng) -> np.ndarray:
    """A tileable-enough ground texture: asphalt, paving, grass or earth, some with painted lines."""
    kind = rng.integers(4)
    n = _TEXTURE_PX
    grain = 0.05 * rng.standard_normal((n, n, 1)) + 0.10 * _cloud(rng, n, n, (4, 16, 48))[:, :, None]
    base = (
        np.full(3, rng.uniform(0.35, 0.75)),
        _colour(rng, saturation=0.25, low=0.5, high=0.9),
        np.array([0.34, 0.46, 0.22]) * rng.uniform(0.8, 1.5),
        np.array([0.58, 0.50, 0.40]) * rng.uniform(0.8, 1.4),
    )[kind]
    floor = (base + grain * rng.uniform(0.6, 1.8)).astype(np.float32)
    if kind == 1:
        step = int(rng.integers(8, 24))
        floor[::step] *= 0.7
        floor[:, ::step] *= 0.7
    if kind == 0 and rng.random() < 0.7:
        stripe = int(rng.integers(26, 60))
        for start in range(0, n, stripe):
            floor[:, start : start + 2] = rng.uniform(0.7, 0.95)
    return floor


def _building(rng: Rng, picture_HW3: np.ndarray, horizon: float) -> None:
    size = max(picture_HW3.shape)
    x, width = rng.uniform(-0.2, 0.9) * size, rng.uniform(0.15, 0.7) * size
    top = horizon - rng.uniform(0.1, 0.9) * size
    wall = np.array([[x, top], [x + width, top], [x + width, horizon + size], [x, horizon + size]])
    colour = _colour(rng, saturation=0.5, low=0.2, high=0.9)
    _fill(picture_HW3, wall, colour)
    pane = _colour(rng, saturation=0.3, low=0.05, high=0.9)
    step_x, step_y = rng.uniform(0.05, 0.16, 2) * size
    inset = rng.uniform(0.2, 0.45)
    for left in np.arange(x + step_x * 0.3, x + width - step_x * 0.7, step_x):
        for up in np.arange(top + step_y * 0.4, min(horizon, size), step_y):
            right, down = left + step_x * (1 - inset), up + step_y * (1 - inset)
            _fill(picture_HW3, np.array([[left, up], [right, up], [right, down], [left, down]]), pane)


def _tree(rng: Rng, picture_HW3: np.ndarray, horizon: float) -> None:
    size = max(picture_HW3.shape)
    x, height = rng.uniform(0, 1) * size, rng.uniform(0.15, 0.6) * size
    half = 0.03 * height
    trunk = np.array([[x - half, horizon - height], [x + half, horizon - height], [x + half, size], [x - half, size]])
    _fill(picture_HW3, trunk, np.array([0.22, 0.16, 0.11]))
    _leaves(rng, picture_HW3, np.array([x, horizon - height]), spread=0.35 * height, leaf=0.08 * height)


def _leaves(rng: Rng, picture_HW3: np.ndarray, middle: np.ndarray, *, spread: float, leaf: float) -> None:
    base = np.array([0.22, 0.34, 0.12]) * rng.uniform(0.6, 1.6)
    for offset in rng.normal(0, spread / 1.5, (60, 2)):
        spot = tuple(int(v) for v in np.round((middle + offset) * 16))
        shade = (base * rng.uniform(0.5, 1.3)).tolist()
        cv2.circle(picture_HW3, spot, int(16 * leaf * rng.uniform(0.5, 1.2)), shade, -1, cv2.LINE_AA, 4)


def _hedge(rng: Rng, picture_HW3: np.ndarray, horizon: float) -> None:
    """A band of one texture along the horizon: a hedge, a fence, a far wood."""
    rows, columns = picture_HW3.shape[:2]
    size = max(rows, columns)
    low = int(np.clip(horizon + 0.02 * size, 1, rows))
    high = int(np.clip(horizon - rng.uniform(0.04, 0.35) * size, 0, low - 1))
    grain = _cloud(rng, rows, columns, (8, 24, 64))[high:low, :, None] * rng.uniform(0.05, 0.2)
    picture_HW3[high:low] = _colour(rng, saturation=0.6, low=0.15, high=0.6) + grain


def _sign(rng: Rng, picture_HW3: np.ndarray, horizon: float) -> None:
    """A post with a coloured board."""
    size = max(picture_HW3.shape)
    x, height, half = rng.uniform(0, 1) * size, rng.uniform(0.2, 0.7) * size, rng.uniform(0.02, 0.12) * size
    top = horizon - height
    _fill(picture_HW3, np.array([[x - 2, top], [x + 2, top], [x + 2, size], [x - 2, size]]), np.full(3, 0.35))
    board = np.array([[x - half, top], [x + half, top], [x + half, top + half], [x - half, top + half]])
    _fill(picture_HW3, board, _colour(rng, saturation=1.0, low=0.4, high=1.0))


_THINGS = (_building, _building, _tree, _hedge, _sign)
