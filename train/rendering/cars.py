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
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from dann.infer.errors import DannError, UsageError
from dann.train.rendering import scene as scenes
from dann.train.rendering.car_proportions import CLASSES, Body, proportions
from dann.train.rendering.photograph import Shot, check_size, photograph
from dann.train.rendering.procedural_car import sample_car
from dann.train.rendering.render_pool import process_count, run_tasks, save_image
from dann.train.rendering.scene import Scene, draw_scene
from dann.train.rendering.styles import SIMULATED_PHOTO, STUDIO, Style

RENDERER = 4  # raised whenever the same seed gives other bytes
RECIPE = "cars.json"
TABLE = "cars.csv"

# The simulated camera's own compression is already in the pixels; the file adds next to nothing.
_ENCODING = {"jpg": [cv2.IMWRITE_JPEG_QUALITY, 95], "png": []}
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


class CarShot(NamedTuple):
    """One rendered image and what it shows."""

    shot: Shot
    body: Body
    scene: Scene


def shoot(seed: Sequence[int], body_class: str, style: Style, size_px: int) -> CarShot:
    """An image of a random car of ``body_class`` in a scene of ``style``; the same seed gives the same pixels."""
    scene = draw_scene(np.random.default_rng([*seed, 0]), style)
    car = sample_car(np.random.default_rng([*seed, 1]), body_class)
    return CarShot(photograph(car, scene, size_px=size_px), car.body, scene)


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
        check_size(self.size_px)


_DOMAINS = {  # name: (folder, file type, look)
    "source": ("train/source", "png", STUDIO),
    "target": ("train/target", "jpg", SIMULATED_PHOTO),
    "test": ("test", "jpg", SIMULATED_PHOTO),
}


def write_cars(
    out: Path,
    *,
    seed: int = 0,
    source: int = 5000,
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
    out, processes = Path(out), process_count(workers)
    recipe = Recipe(seed=seed, source=source, target=target, test=test, size_px=size_px)
    if _is_already_there(out, recipe):
        return out
    unfinished = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        unfinished.mkdir(parents=True)
        _render_all(unfinished, recipe, processes, on_progress)
        (unfinished / "README.txt").write_text(_README, encoding="utf-8")
        (unfinished / RECIPE).write_text(_as_json(recipe), encoding="utf-8")
        if out.exists():
            out.rmdir()  # it is empty; renaming onto a folder works on POSIX only
        unfinished.rename(out)
    except OSError as error:
        raise DannError(
            f"the cars cannot be written to {str(out)!r}: {error.strerror or error}; choose a writable folder"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
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
    rows: list[list[str]] = []
    batches = [jobs[start : start + _BATCH] for start in range(0, len(jobs), _BATCH)]
    for finished in run_tasks(partial(_render_batch, root, recipe.size_px), batches, workers):
        rows += finished
        if on_progress:
            on_progress(len(rows), len(jobs))
    order = {job.path: position for position, job in enumerate(jobs)}
    rows.sort(key=lambda row: order[row[0]])
    with open(root / TABLE, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(_COLUMNS)
        table.writerows(rows)


_COLUMNS = ("path", "domain", "label", "kind", "set_seed", "coverage", *scenes.columns(), *proportions())


def _render_batch(root: Path, size_px: int, jobs: list[_Job]) -> list[list[str]]:
    return [_render_job(root, size_px, job) for job in jobs]


def _render_job(root: Path, size_px: int, job: _Job) -> list[str]:
    _, suffix, style = _DOMAINS[job.domain]
    shot, body, scene = shoot(job.seed, job.body_class, style, size_px)
    save_image(root / job.path, shot.image_HW3, _ENCODING[suffix])
    seed = "-".join(str(part) for part in job.seed)
    measures = (f"{measure:.4f}" for measure in astuple(body)[2:])
    coverage = f"{shot.coverage:.4f}"
    return [job.path, job.domain, job.body_class, body.kind, seed, coverage, *scenes.cells(scene), *measures]
