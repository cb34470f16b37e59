"""From a scene and a model to an image: camera, backdrop, shadows, the shaded model, and what the camera adds.

Legend: V vertices, P covered pixels, H rows, W columns.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from dann.infer.errors import UsageError
from dann.train.rendering import backdrops
from dann.train.rendering.mesh import Mesh, dot, unit
from dann.train.rendering.photo_effects import develop, through_lens
from dann.train.rendering.raster import Camera, Fragments, frame_cropped, frame_square, look_at, rasterise
from dann.train.rendering.scene import DRAWN_BACKDROP, STUDIO_BACKDROP, Scene
from dann.train.rendering.shading import Light, Look, daylight_of, light_of, shade, to_display

_SUPERSAMPLING = 2
_SIDES_PX = range(16, 1025)  # a larger image takes gigabytes and minutes


def check_size(size_px: int) -> None:
    """:class:`UsageError` for a larger side that images cannot have."""
    if size_px not in _SIDES_PX:
        raise UsageError(f"the image size is {size_px} px; expected {_SIDES_PX[0]} to {_SIDES_PX[-1]}")


class Model(Protocol):
    """Something that can stand in a scene: on the ground, nose towards −x, up along z, in metres."""

    @property
    def mesh(self) -> Mesh: ...

    def look(self, seen: Fragments, place_P3: np.ndarray, scene: Scene, metres_per_pixel: float) -> Look:
        """How the surface looks at each covered pixel, at ``place_P3``; ``metres_per_pixel`` at their median."""
        ...


@dataclass(frozen=True)
class Shot:
    """One rendered image."""

    image_HW3: np.ndarray
    """uint8 RGB."""
    box: tuple[float, float, float, float]
    """Left, top, right and bottom of the object, as shares of the image."""
    coverage: float
    """Share of the pixels that the object takes, what stands before it not counted."""
    distance: float
    """Metres from the camera to the middle of the object."""


def photograph(model: Model, scene: Scene, *, size_px: int, photo: Callable[[str], np.ndarray] | None = None) -> Shot:
    """The image of ``model`` in ``scene``; its larger side has ``size_px`` pixels.

    ``photo`` gives the picture (uint8 RGB) of the name that the scene has as its backdrop.
    """
    mesh = model.mesh.stretched(scene.stretch)
    camera, height, width = _camera(mesh, scene, size_px * _SUPERSAMPLING)
    picture = _backdrop(camera, height, width, scene, photo)
    light = light_of(scene, _panorama(picture))
    _cast_shadows(picture, mesh, camera, light, scene)
    covered_P = _draw(picture, model, mesh, camera, light, scene)
    if scene.occluder:
        backdrops.occlude(scene.rng(1), picture, scene.occluder)
    picture = through_lens(picture, scene)
    small = max(1, round(width / _SUPERSAMPLING)), max(1, round(height / _SUPERSAMPLING))
    picture = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
    low, high = mesh.outline_N3.min(axis=0), mesh.outline_N3.max(axis=0)
    return Shot(
        image_HW3=develop(picture, scene),
        box=_box(covered_P, height, width),
        coverage=len(covered_P) / (height * width),
        distance=float(np.linalg.norm(camera.position - (low + high) / 2)),
    )


def _camera(mesh: Mesh, scene: Scene, size: int) -> tuple[Camera, int, int]:
    points = mesh.outline_N3
    camera = look_at(
        points,
        azimuth_deg=scene.azimuth_deg,
        elevation_deg=scene.elevation_deg,
        roll_deg=scene.roll_deg,
        focal_mm=scene.focal_mm,
    )
    if scene.margins is not None:
        return frame_cropped(camera, points, size_px=size, margins=scene.margins)
    shift = scene.shift_x, scene.shift_y
    return frame_square(camera, points, size_px=size, fill=scene.fill, shift=shift), size, size


def _backdrop(
    camera: Camera, height: int, width: int, scene: Scene, photo: Callable[[str], np.ndarray] | None
) -> np.ndarray:
    rng, blur_px = scene.rng(0), max(height, width) / 1000 * scene.bokeh
    if scene.backdrop == STUDIO_BACKDROP:
        return backdrops.studio(rng, height, width)
    if scene.backdrop == DRAWN_BACKDROP or photo is None:
        daylight = daylight_of(scene)
        return backdrops.street(rng, camera, height, width, contrast=scene.clutter, blur_px=blur_px, daylight=daylight)
    return backdrops.photo(rng, photo(scene.backdrop), height, width, blur_px=blur_px)


def _panorama(picture_HW3: np.ndarray) -> np.ndarray:
    """What stands all round, guessed from what is seen: the backdrop, and its mirror image behind the camera."""
    seen = cv2.resize(picture_HW3, (48, 24), interpolation=cv2.INTER_AREA)
    return np.concatenate([seen, seen[:, ::-1]], axis=1)


def _cast_shadows(picture_HW3: np.ndarray, mesh: Mesh, camera: Camera, light: Light, scene: Scene) -> None:
    """Darken the ground under the object (contact) and away from the key light (cast)."""
    points, size = mesh.outline_N3, max(picture_HW3.shape)
    slices = _slices(points)
    reach = points[:, 2:] / light.key_direction[2]
    cast = _shadow_mask(points - reach * light.key_direction, slices, camera, picture_HW3)
    under = _shadow_mask(points * [0.98, 0.98, 0], slices, camera, picture_HW3)
    cast = cv2.GaussianBlur(cast, (0, 0), size / 1000 * scene.shadow_softness)
    under = cv2.GaussianBlur(under, (0, 0), size / 1000 * 8)
    strength = light.key.mean() / (light.key.mean() + light.sky.mean())
    kept = (1 - scene.shadow * strength * cast) * (1 - 0.8 * scene.shadow * under)
    picture_HW3 *= kept.astype(np.float32)[:, :, None]


def _slices(points_V3: np.ndarray) -> list[np.ndarray]:
    """The vertices in overlapping slices along the longer horizontal side."""
    along = points_V3[:, np.argmax(np.ptp(points_V3[:, :2], axis=0))]
    edges = np.linspace(along.min(), along.max(), 6)
    slices = [np.flatnonzero((along >= a) & (along <= b)) for a, b in zip(edges[:-2], edges[2:], strict=True)]
    return [chosen for chosen in slices if len(chosen) > 2]


def _shadow_mask(
    ground_V3: np.ndarray, slices: list[np.ndarray], camera: Camera, picture_HW3: np.ndarray
) -> np.ndarray:
    """Coverage of the flattened object: the union of the hulls of its slices."""
    mask = np.zeros(picture_HW3.shape[:2], np.float32)
    pixels = camera.project(ground_V3)[0].astype(np.float32)
    for chosen in slices:
        hull = np.clip(cv2.convexHull(pixels[chosen]), -1e5, 1e5)
        cv2.fillConvexPoly(mask, np.round(hull * 16).astype(np.int32), 1.0, cv2.LINE_8, 4)
    return mask


def _draw(picture_HW3: np.ndarray, model: Model, mesh: Mesh, camera: Camera, light: Light, scene: Scene) -> np.ndarray:
    """Lay the shaded model over the picture; gives the covered pixels."""
    height, width, _ = picture_HW3.shape
    pixels, inverse_depth = camera.project(mesh.vertices_V3)
    seen = rasterise(pixels, inverse_depth, mesh.triangles_T3, height=height, width=width, both_sides=mesh.both_sides)
    place = seen.interpolate(mesh.vertices_V3)
    normal = unit(seen.interpolate(mesh.normals_V3))
    to_camera = unit(camera.position.astype(np.float32) - place)
    if mesh.both_sides:
        normal *= np.where(dot(normal, to_camera) < 0, -1, 1)[:, None]
    unstretched = place / np.array(scene.stretch, np.float32)
    look = model.look(seen, unstretched, scene, metres_per_pixel=1 / (camera.scale * np.median(inverse_depth)))
    colour = shade(look, normal, to_camera, place[:, 2], light)
    picture_HW3.reshape(-1, 3)[seen.pixel_P] = to_display(colour)
    return seen.pixel_P


def _box(covered_P: np.ndarray, height: int, width: int) -> tuple[float, float, float, float]:
    if not len(covered_P):
        return 0.0, 0.0, 0.0, 0.0
    x, y = covered_P % width, covered_P // width
    return (
        float(x.min()) / width, float(y.min()) / height, float(x.max() + 1) / width, float(y.max() + 1) / height
    )  # fmt: skip
