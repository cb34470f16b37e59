"""The embedded data set of dann: procedurally rendered cars of five body types, and *simulated* photos of them.

    OUT/train/source/<class>/NNNN.png   clean studio renders, labelled
    OUT/train/target/<class>/NNNN.jpg   simulated photos; their folders are labels that only the oracle may read
    OUT/test/<class>/NNNN.jpg           simulated photos of other cars
    OUT/cars.csv                        every image with its domain, class, seed and main parameters
    OUT/cars.json                       the recipe that made the set;  OUT/README.txt says what it is

No number obtained on this target says anything about real photographs. Each image has its own seed, so the bytes
depend on the recipe only, never on how many processes drew them.
"""

import csv
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, astuple, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from dann.infer.cores import usable_cores
from dann.infer.errors import DannError, UsageError
from dann.train.rendering import backdrops
from dann.train.rendering.car_bodies import CLASSES, Body, Mesh, build_mesh, proportions, sample_body, side_view
from dann.train.rendering.car_decals import Decals, sample_trim
from dann.train.rendering.photo_effects import SIMULATED_PHOTO, STUDIO, PhotoStyle, develop, expose
from dann.train.rendering.raster import Camera, frame, look_at, rasterise
from dann.train.rendering.shading import Light, finish, shade, to_display

RENDERER = 1  # raised whenever the same seed gives other bytes
RECIPE = "cars.json"
TABLE = "cars.csv"

_SUPERSAMPLING = 2
# The simulated camera's own compression is already in the pixels; the file adds next to nothing.
_ENCODING = {".jpg": [cv2.IMWRITE_JPEG_QUALITY, 95], ".png": []}
_BATCH = 16  # images per task of a worker process

_README = """\
Procedurally rendered cars, written by `dann data cars`.

train/source  clean studio renders
train/target  SIMULATED photos: the same renderer with cluttered backgrounds, other light and cameras, shadows,
              occluders, blur, noise, colour casts and JPEG. They are not photographs, and a result on them is a
              result on simulated photos.
test          simulated photos of other cars, for the final score
cars.csv      path, domain, class, seed and the main parameters of each image
cars.json     the recipe: the same recipe gives the same bytes
"""


def is_cars_set(folder: Path) -> bool:
    """Whether ``folder`` was written by :func:`write_cars`, so that its photos are simulated."""
    try:
        return "renderer" in json.loads((folder / RECIPE).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


# ---- one image ----


@dataclass(frozen=True)
class Shot:
    """One rendered image and what it shows."""

    image_HW3: np.ndarray
    """uint8 RGB."""
    body: Body
    azimuth_deg: float
    elevation_deg: float
    box: tuple[float, float, float, float]
    """Left, top, right and bottom of the car, as shares of the image."""
    coverage: float
    """Share of the pixels that the car takes, occluders not counted."""


def render_car(rng: np.random.Generator, body_class: str, style: PhotoStyle, size_px: int) -> np.ndarray:
    """One image of a random car of ``body_class``: uint8 RGB (size_px, size_px, 3)."""
    return shoot(rng, body_class, style, size_px).image_HW3


def shoot(rng: np.random.Generator, body_class: str, style: PhotoStyle, size_px: int) -> Shot:
    """Like :func:`render_car`, with the parameters beside the image."""
    size = size_px * _SUPERSAMPLING
    body = sample_body(rng, body_class)
    profile = side_view(body)
    mesh, decals = build_mesh(profile), Decals(profile, sample_trim(rng, profile))
    azimuth, elevation = _azimuth(rng, style), float(rng.uniform(*style.elevation_deg))
    camera = _camera(rng, mesh, style, size, body.length, azimuth, elevation)
    light = _light(rng, style, azimuth)
    picture = _backdrop(rng, camera, size, style, light)
    _cast_shadows(rng, picture, mesh, camera, light, style)
    covered_P = _draw(rng, picture, mesh, decals, camera, light, style)
    if rng.random() < style.occluder_chance:
        backdrops.occlude(rng, picture, rng.uniform(*style.occluder))
    picture = expose(rng, picture, style)
    picture = cv2.resize(picture, (size_px, size_px), interpolation=cv2.INTER_AREA)
    return Shot(
        image_HW3=develop(rng, picture, style),
        body=body,
        azimuth_deg=azimuth,
        elevation_deg=elevation,
        box=_box(covered_P, size),
        coverage=len(covered_P) / size**2,
    )


def _azimuth(rng: np.random.Generator, style: PhotoStyle) -> float:
    """All round, except near straight ahead and straight behind."""
    half = rng.uniform(style.dead_ahead_deg, 180 - style.dead_ahead_deg)
    return float(half if rng.random() < 0.5 else 360 - half)


def _camera(
    rng: np.random.Generator,
    mesh: Mesh,
    style: PhotoStyle,
    size: int,
    car_length: float,
    azimuth: float,
    elevation: float,
) -> Camera:
    points = mesh.vertices_V3
    camera = look_at(
        points,
        azimuth_deg=azimuth,
        elevation_deg=elevation,
        roll_deg=rng.uniform(*style.roll_deg),
        distance=car_length * rng.uniform(*style.distance),
    )
    x, y = rng.uniform(-style.shift, style.shift, 2)
    return frame(camera, points, size_px=size, fill=rng.uniform(*style.fill), shift=(x, y))


def _light(rng: np.random.Generator, style: PhotoStyle, azimuth: float) -> Light:
    """A key light on the camera's side more often than not, a weak fill light opposite, and light from all round."""
    swing = rng.uniform(-60, 60) if rng.random() < 0.75 else rng.uniform(60, 300)
    key_strength, ambient = rng.uniform(*style.key), rng.uniform(*style.ambient)
    warmth = rng.uniform(*style.warmth)
    sun = np.array([1 + 0.25 * warmth, 1.0, 1 - 0.35 * warmth])
    shade_side = np.array([1 - 0.12 * warmth, 1.0, 1 + 0.15 * warmth])  # the sky is bluer where the sun is warmer
    return Light(
        key_direction=_direction(azimuth + swing, rng.uniform(*style.key_elevation_deg)),
        key=key_strength * sun,
        fill_direction=_direction(azimuth - swing, 20),
        fill=0.25 * ambient * shade_side,
        sky=ambient * shade_side * 1.3,
        ground=ambient * rng.uniform(0.35, 0.7) * np.ones(3),
        skyline=rng.uniform(0, 1, 24) * rng.uniform(*style.skyline),
        surroundings=ambient * rng.uniform(0.05, 0.5) * np.ones(3),
    )


def _direction(azimuth_deg: float, elevation_deg: float) -> np.ndarray:
    """Unit vector; azimuth as the camera's: 0 is before the nose."""
    azimuth, elevation = np.radians([azimuth_deg, elevation_deg])
    return np.array([-np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])


def _backdrop(rng: np.random.Generator, camera: Camera, size: int, style: PhotoStyle, light: Light) -> np.ndarray:
    if style.clutter == 0:
        return backdrops.studio(rng, size)
    blur_px = size / 1000 * rng.uniform(*style.bokeh)
    daylight = light.sky + light.key
    return backdrops.street(rng, camera, size, contrast=style.clutter, blur_px=blur_px, daylight=daylight)


def _cast_shadows(
    rng: np.random.Generator,
    picture_HW3: np.ndarray,
    mesh: Mesh,
    camera: Camera,
    light: Light,
    style: PhotoStyle,
) -> None:
    """Darken the ground under the car (contact) and away from the key light (cast)."""
    size = len(picture_HW3)
    darkness = rng.uniform(*style.shadow)
    points = mesh.vertices_V3
    reach = points[:, 2:] / light.key_direction[2]
    cast = _shadow_mask(points - reach * light.key_direction, points[:, 0], camera, size)
    under = _shadow_mask(points * [0.98, 0.98, 0], points[:, 0], camera, size)
    softness = size / 1000
    cast = cv2.GaussianBlur(cast, (0, 0), softness * rng.uniform(6, 18))
    under = cv2.GaussianBlur(under, (0, 0), softness * 8)
    strength = light.key.mean() / (light.key.mean() + light.sky.mean())
    picture_HW3 *= (1 - darkness * strength * cast)[:, :, None] * (1 - 0.8 * darkness * under)[:, :, None]


def _shadow_mask(ground_V3: np.ndarray, along_V: np.ndarray, camera: Camera, size: int) -> np.ndarray:
    """Coverage of the flattened body: the union of the hulls of overlapping slices along it."""
    mask = np.zeros((size, size), np.float32)
    pixels = camera.project(ground_V3)[0].astype(np.float32)
    edges = np.linspace(along_V.min(), along_V.max(), 6)
    for low, high in zip(edges[:-2], edges[2:], strict=True):
        hull = cv2.convexHull(pixels[(along_V >= low) & (along_V <= high)])
        cv2.fillConvexPoly(mask, np.round(hull * 16).astype(np.int32), 1.0, cv2.LINE_8, 4)
    return mask


def _draw(
    rng: np.random.Generator,
    picture_HW3: np.ndarray,
    mesh: Mesh,
    decals: Decals,
    camera: Camera,
    light: Light,
    style: PhotoStyle,
) -> np.ndarray:
    """Lay the shaded car over the picture; gives the covered pixels."""
    size = len(picture_HW3)
    pixels, inverse_depth = camera.project(mesh.vertices_V3)
    seen = rasterise(pixels, inverse_depth, mesh.triangles_T3, height=size, width=size)
    place = seen.interpolate(mesh.vertices_V3, mesh.triangles_T3)
    normal = _unit(seen.interpolate(mesh.normals_V3, mesh.triangles_T3))
    look = finish(
        paint=_paint(rng, style),
        gloss=rng.uniform(*style.gloss),
        glass=rng.uniform(0.01, 0.05),
        rim=rng.uniform(0.12, 0.6) if rng.random() < 0.8 else 0.03,
        lamps=rng.uniform(0.45, 0.85),
    )
    colour = shade(
        decals.materials(mesh.surface_T[seen.triangle_P], place),
        normal,
        _unit(camera.position - place),
        place[:, 2],
        look=look,
        light=light,
    )
    picture_HW3.reshape(-1, 3)[seen.pixel_P] = to_display(colour)
    return seen.pixel_P


def _unit(vectors_P3: np.ndarray) -> np.ndarray:
    return vectors_P3 / (np.linalg.norm(vectors_P3, axis=1, keepdims=True) + 1e-12)


def _paint(rng: np.random.Generator, style: PhotoStyle) -> np.ndarray:
    """Linear RGB of the paint; half of all cars are white, grey or black, as on the street."""
    grey = rng.random() < 0.5
    saturation = 0.04 if grey else rng.uniform(*style.saturation)
    value = rng.uniform(*style.value)
    hsv = np.array([[[rng.uniform(0, 360), saturation, value]]], np.float32)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].astype(float) ** 2.2


def _box(covered_P: np.ndarray, size: int) -> tuple[float, float, float, float]:
    x, y = covered_P % size / size, covered_P // size / size
    return float(x.min()), float(y.min()), float(x.max()) + 1 / size, float(y.max()) + 1 / size


# ---- the whole set ----


class _Job(NamedTuple):
    path: str
    domain: str
    body_class: str
    seed: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything the bytes of a set depend on."""

    seed: int
    source: int
    target: int
    test: int
    size_px: int
    classes: tuple[str, ...] = CLASSES
    renderer: int = RENDERER

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UsageError(f"the seed is {self.seed}; expected 0 or more")
        for name in ("source", "target", "test"):
            if getattr(self, name) < len(self.classes):
                raise UsageError(
                    f"{name} is {getattr(self, name)} images; expected at least one for each of the "
                    f"{len(self.classes)} classes"
                )
        if self.size_px < 16:
            raise UsageError(f"the image size is {self.size_px} px; expected 16 or more")


_DOMAINS = {  # name: (folder, file type, look)
    "source": ("train/source", "png", STUDIO),
    "target": ("train/target", "jpg", SIMULATED_PHOTO),
    "test": ("test", "jpg", SIMULATED_PHOTO),
}


def write_cars(
    out: Path,
    *,
    seed: int = 0,
    source: int = 2000,
    target: int = 2000,
    test: int = 500,
    size_px: int = 96,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the data set to ``out`` and return ``out``; see the top of this module for its layout.

    ``source``, ``target`` and ``test`` are numbers of images, spread evenly over the classes. The set appears whole or
    not at all; one that is already there with the same recipe is kept. ``workers`` processes (``None``: one per
    usable core) change the time, not the bytes; with more than one, scripts need ``if __name__ == "__main__"``.
    Raises :class:`UsageError` where ``out`` holds anything else, :class:`DannError` where it cannot be written.
    """
    out = Path(out)
    recipe = Recipe(seed=seed, source=source, target=target, test=test, size_px=size_px)
    if _is_already_there(out, recipe):
        return out
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        _render_all(partial, recipe, workers or usable_cores(), on_progress)
        (partial / "README.txt").write_text(_README, encoding="utf-8")
        (partial / RECIPE).write_text(_as_json(recipe), encoding="utf-8")
        if out.exists():
            out.rmdir()  # it is empty; renaming onto a folder works on POSIX only
        partial.rename(out)
    except OSError as error:
        raise DannError(
            f"the cars cannot be written to {str(out)!r}: {error.strerror or error}; choose a writable folder"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _as_json(recipe: Recipe) -> str:
    return json.dumps(asdict(recipe), indent=2) + "\n"


def _is_already_there(out: Path, recipe: Recipe) -> bool:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / RECIPE).is_file():
        raise UsageError(f"{str(out)!r} exists and is not a set of cars made by dann; choose another folder")
    if (out / RECIPE).read_text(encoding="utf-8") != _as_json(recipe):
        raise UsageError(
            f"{str(out)!r} holds cars of another recipe (see its {RECIPE}); choose another folder, or delete it"
        )
    missing = [job.path for job in _jobs(recipe) if not (out / job.path).is_file()]
    if missing:
        raise UsageError(f"{str(out)!r} has lost {len(missing)} images, {missing[0]} first; delete it and run again")
    return True


def _jobs(recipe: Recipe) -> list[_Job]:
    """Every image of the set, in the order of ``cars.csv``."""
    jobs = []
    for domain_index, (domain, (folder, suffix, _)) in enumerate(_DOMAINS.items()):
        for index in range(getattr(recipe, domain)):
            body_class = recipe.classes[index % len(recipe.classes)]
            path = f"{folder}/{body_class}/{index // len(recipe.classes):04d}.{suffix}"
            jobs.append(_Job(path, domain, body_class, (recipe.seed, domain_index, index)))
    return jobs


def _render_all(root: Path, recipe: Recipe, workers: int, on_progress: Callable[[int, int], None] | None) -> None:
    jobs = _jobs(recipe)
    for folder in {(root / job.path).parent for job in jobs}:
        folder.mkdir(parents=True)
    rows: list[list[object]] = []
    for finished in _run(root, jobs, recipe.size_px, workers):
        rows += finished
        if on_progress:
            on_progress(len(rows), len(jobs))
    order = {job.path: position for position, job in enumerate(jobs)}
    rows.sort(key=lambda row: order[str(row[0])])
    with open(root / TABLE, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(_COLUMNS)
        table.writerows(rows)


def _run(root: Path, jobs: list[_Job], size_px: int, workers: int) -> Iterator[list[list[object]]]:
    """Rows of ``cars.csv`` in batches, as they are finished."""
    batches = [jobs[start : start + _BATCH] for start in range(0, len(jobs), _BATCH)]
    if workers == 1:
        yield from (_render_batch(root, batch, size_px) for batch in batches)
        return
    # Spawned, not forked: a fork copies OpenCV's and torch's thread pools in whatever state they are in.
    pool = ProcessPoolExecutor(min(workers, len(batches)), get_context("spawn"), initializer=_start_worker)
    try:
        for done in as_completed([pool.submit(_render_batch, root, batch, size_px) for batch in batches]):
            yield done.result()
    except BrokenProcessPool as error:
        raise DannError(
            "a process that rendered cars ended unexpectedly; in a script, call write_cars under "
            '`if __name__ == "__main__":`, or pass workers=1'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    cv2.setNumThreads(1)


_COLUMNS = ("path", "domain", "class", "seed", "azimuth_deg", "elevation_deg", "coverage", *proportions())


def _render_batch(root: Path, jobs: list[_Job], size_px: int) -> list[list[object]]:
    return [_render_job(root, job, size_px) for job in jobs]


def _render_job(root: Path, job: _Job, size_px: int) -> list[object]:
    style = _DOMAINS[job.domain][2]
    shot = shoot(np.random.default_rng(job.seed), job.body_class, style, size_px)
    _save(root / job.path, shot.image_HW3)
    numbers = (shot.azimuth_deg, shot.elevation_deg, shot.coverage, *astuple(shot.body)[1:])
    seed = "-".join(str(part) for part in job.seed)
    return [job.path, job.domain, job.body_class, seed, *(f"{number:.4f}" for number in numbers)]


def _save(path: Path, image_HW3: np.ndarray) -> None:
    encoded = cv2.imencode(path.suffix, image_HW3[:, :, ::-1], _ENCODING[path.suffix])[1]
    path.write_bytes(encoded.tobytes())
