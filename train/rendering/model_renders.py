"""A labelled data set from 3-D models: ``dann data render``.

    OUT/<class>/NNNNN.jpg   renders, cropped to the model
    OUT/renders.csv         every image with its class, model and all numbers of its scene
    OUT/render.json         the recipe: the same recipe and models give the same bytes

The models are a folder with one sub-folder per class, or the built-in procedural cars. An interrupted rendering is
taken up where it stopped; each image has its own seed, so nothing depends on when or by which process it was drawn.
"""

import contextlib
import csv
import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from dann.infer.errors import DannError, UsageError
from dann.train.rendering import scene as scenes
from dann.train.rendering.car_proportions import proportions
from dann.train.rendering.cars import RENDERER
from dann.train.rendering.orientation import AXES
from dann.train.rendering.photograph import Model, check_size, photograph
from dann.train.rendering.procedural_car import sample_car
from dann.train.rendering.render_inputs import (
    PROCEDURAL_CARS,
    ModelFile,
    cached_model,
    cached_photo,
    check_backgrounds,
    inspect_models,
)
from dann.train.rendering.render_pool import process_count, run_tasks, save_image, write_whole
from dann.train.rendering.scene import draw_scene
from dann.train.rendering.styles import VARIED, Style

RECIPE = "render.json"
TABLE = "renders.csv"

_UNFINISHED_TABLE = ".renders.csv.unfinished"
_ENCODING = [cv2.IMWRITE_JPEG_QUALITY, 95]  # the camera's own compression is in the pixels already
_BATCH = 4  # small, as what is under way is lost when rendering is interrupted


@dataclass(frozen=True)
class Rendered:
    """What :func:`render_models` did."""

    out: Path
    images: int
    kept: int
    """So many of them were there from before."""
    failed: list[tuple[str, str]]
    """Name of every model and background that could not be used, and why."""


class _Job(NamedTuple):
    path: str
    body_class: str
    model: str
    """Empty for procedural cars."""
    seed: tuple[int, int, int]


def render_models(
    models: Path | str,
    out: Path | str,
    *,
    classes: Sequence[str] | None = None,
    per_class: int = 500,
    size_px: int = 128,
    seed: int = 0,
    style: Style = VARIED,
    backgrounds: Path | str | None = None,
    up: str = "auto",
    front: str = "auto",
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Rendered:
    """Render every class of ``models`` into ``out``; see the top of this module for its layout.

    ``models`` is a folder with one sub-folder per class, or :data:`PROCEDURAL_CARS`. ``classes`` names those to render:
    where it is ``None`` all sub-folders, or five of the seven classes of procedural cars
    (:data:`~.car_proportions.BODY_CLASSES`). ``per_class`` images of each are spread over its models; ``size_px`` is
    the larger side of an image. ``backgrounds``, a folder of photos, may stand behind the models. ``up`` and ``front``
    say which way the top and the nose point in all files, or ``auto``. ``on_note`` is told what was found in each
    model. ``workers`` processes (``None``: one per usable core) change the time, not the bytes; with more than one,
    scripts need ``if __name__ == "__main__"``.

    A model that cannot be used is left out and named in the result. Raises :class:`UsageError` for values that make no
    sense and where ``out`` holds something else, :class:`DannError` where no model is left or ``out`` cannot be
    written.
    """
    _check(models, per_class, size_px, seed)
    up, front = up.removeprefix("+"), front.removeprefix("+")
    _check_axes(models, up, front)
    out, note, processes = Path(out), on_note or (lambda text: None), process_count(workers)
    _check_folder(out)  # and the photos, before the models, which can take long
    photos, broken = check_backgrounds(backgrounds, seed) if backgrounds is not None else ([], [])
    found, failed = inspect_models(models, classes, up, front, processes, note)
    for body_class, count in Counter(model.body_class for model in found).items():
        if count > per_class:
            note(f"{body_class}: {per_class} of its {count} models are used, one for each image")
    recipe = {
        "renderer": RENDERER,
        "seed": seed,
        "per_class": per_class,
        "size_px": size_px,
        "style": asdict(style),
        "models": {m.name or m.body_class: [m.sha256, m.up, m.front] for m in found},
        "backgrounds": dict(photos),
    }
    jobs = _jobs(found, per_class, seed)
    kept = _begin(out, recipe, jobs)
    done = {row[0] for row in kept}
    left = [job for job in jobs if job.path not in done]
    root = None if models == PROCEDURAL_CARS else Path(models)
    names = [name for name, _ in photos]
    axes = {m.name: (m.up, m.front) for m in found}
    work = partial(_render_batch, root, out, size_px, style, Path(backgrounds or "."), names, axes)
    try:
        rows, unrendered = _render(out, work, left, kept, processes, on_progress)
        _finish(out, rows, jobs)
    except KeyboardInterrupt:
        note("what was rendered is kept; the same command goes on with it")
        raise
    except OSError as error:
        raise DannError(
            f"{str(out)!r} cannot be written: {error.strerror or error}; what was rendered is kept, and the same "
            "command goes on with it"
        ) from error
    if not rows:
        raise DannError(f"none of the models in {str(models)!r} can be rendered: {unrendered[0][0]} {unrendered[0][1]}")
    return Rendered(out, len(rows), len(kept), [*failed, *broken, *unrendered])


def _check(models: Path | str, per_class: int, size_px: int, seed: int) -> None:
    if per_class < 1:
        raise UsageError(f"the number of images per class is {per_class}; expected 1 or more")
    check_size(size_px)
    if seed < 0:
        raise UsageError(f"the seed is {seed}; expected 0 or more")


def _check_axes(models: Path | str, up: str, front: str) -> None:
    for name, axis in (("up axis", up), ("front", front)):
        if axis != "auto" and axis not in AXES:
            raise UsageError(f"the {name} is {axis!r}; expected auto, {', '.join(AXES)}")
        if models == PROCEDURAL_CARS and axis != "auto":
            raise UsageError(f"the {name} {axis!r} is for models of your own; procedural cars stand as they should")
    if up != "auto" and up[-1] == front[-1]:
        raise UsageError(f"the front is {front!r} where up is {up!r}; expected one at right angles to the other")


# ---- images ----


def _jobs(models: Sequence[ModelFile], per_class: int, seed: int) -> list[_Job]:
    """Every image of the set, in the order of the table."""
    jobs = []
    for body_class in sorted({model.body_class for model in models}):
        names = [model.name for model in models if model.body_class == body_class]
        own = zlib.crc32(os.fsencode(body_class))  # so that another class does not change the images of this one
        for index in range(per_class):
            path = f"{body_class}/{index:05d}.jpg"
            jobs.append(_Job(path, body_class, names[index % len(names)], (seed, own, index)))
    return jobs


def _render(
    out: Path,
    work: Callable[[list[_Job]], "_Batch"],
    jobs: list[_Job],
    kept: list[list[str]],
    workers: int,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[list[list[str]], list[tuple[str, str]]]:
    """The rows of all images, those of ``jobs`` rendered now, and the models that could not be.

    A row is on the disk after its image.
    """
    for body_class in {job.body_class for job in jobs}:
        (out / body_class).mkdir(exist_ok=True)
    jobs = sorted(jobs, key=lambda job: job.model)  # a process then loads few models
    batches = [jobs[start : start + _BATCH] for start in range(0, len(jobs), _BATCH)]
    rows, failed, done, total = list(kept), dict[str, str](), len(kept), len(kept) + len(jobs)
    with open(out / _UNFINISHED_TABLE, "ab") as table:
        for batch in run_tasks(work, batches, workers):
            table.write(_as_csv(batch.rows))
            table.flush()
            rows += batch.rows
            failed |= batch.failed
            done += batch.images
            if on_progress:
                on_progress(done, total)
    return rows, sorted(failed.items())


class _Batch(NamedTuple):
    """What became of some jobs."""

    images: int
    rows: list[list[str]]
    failed: dict[str, str]
    """Models that could not be rendered, and why."""


COLUMNS = (
    "path",
    "label",
    "model",
    "kind",
    "set_seed",
    "left",
    "top",
    "right",
    "bottom",
    "coverage",
    "distance_m",
    *scenes.columns(),
    *proportions(),
)


def _render_batch(
    root: Path | None,
    out: Path,
    size_px: int,
    style: Style,
    photos_root: Path,
    photos: list[str],
    axes: dict[str, tuple[str, str]],
    jobs: list[_Job],
) -> _Batch:
    rows, failed = [], {}
    for job in jobs:
        scene = draw_scene(np.random.default_rng([*job.seed, 0]), style, photos)
        model: Model
        try:
            if root is None:
                car = sample_car(np.random.default_rng([*job.seed, 1]), job.body_class)
                model, kind, measures = car, car.body.kind, [f"{measure:.4f}" for measure in astuple(car.body)[2:]]
            else:
                model, kind, measures = cached_model(root / job.model, *axes[job.model]), "", [""] * len(proportions())
            shot = photograph(model, scene, size_px=size_px, photo=lambda name: cached_photo(photos_root / name))
        except Exception as error:  # models come from anywhere, and what one of them does is not to stop the others
            if root is None:
                raise
            failed[job.model] = f"could be read, but not rendered ({type(error).__name__}: {error})"
            continue
        save_image(out / job.path, shot.image_HW3, _ENCODING)
        seed = "-".join(str(part) for part in job.seed)
        place = [f"{share:.4f}" for share in (*shot.box, shot.coverage, shot.distance)]
        rows.append([job.path, job.body_class, job.model, kind, seed, *place, *scenes.cells(scene), *measures])
    return _Batch(len(jobs), rows, failed)


# ---- the folder ----


def _check_folder(out: Path) -> None:
    """Refuse what is no folder, or one that holds something else."""
    try:
        if out.is_file() or (out.exists() and any(out.iterdir()) and not (out / RECIPE).is_file()):
            raise UsageError(f"{str(out)!r} exists and holds no renders of dann; choose another folder")
    except OSError as error:
        raise DannError(f"{str(out)!r} cannot be used: {error.strerror or error}; choose another folder") from error


def _begin(out: Path, recipe: dict[str, object], jobs: Iterable[_Job]) -> list[list[str]]:
    """Make ``out`` ready; gives the rows of the images that an earlier run of the same recipe left."""
    text = (json.dumps(recipe, indent=2) + "\n").encode()
    try:
        if not out.exists() or not any(out.iterdir()):
            out.mkdir(parents=True, exist_ok=True)
            write_whole(out / RECIPE, text)
            return []
        if (out / RECIPE).read_bytes() != text:
            raise UsageError(
                f"{str(out)!r} holds renders of another recipe or of other models (see its {RECIPE}); choose another "
                "folder, or delete it"
            )
        expected = {job.path for job in jobs}
        table = out / TABLE if (out / TABLE).is_file() else out / _UNFINISHED_TABLE
        rows = _read_rows(table) if table.is_file() else []
        rows = [row for row in rows if row[0] in expected and _is_there(out / row[0])]
        write_whole(out / _UNFINISHED_TABLE, _as_csv(rows))
        for partial_file in out.glob("**/.*.partial"):
            partial_file.unlink()
        return rows
    except OSError as error:
        raise DannError(
            f"{str(out)!r} cannot be written: {error.strerror or error}; choose a writable folder"
        ) from error


def _is_there(image: Path) -> bool:
    """Whether it is a file, and not one that a power cut left empty."""
    return image.is_file() and image.stat().st_size > 0


def _as_csv(rows: Iterable[Sequence[str]]) -> bytes:
    text = StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode(errors="surrogateescape")  # a file name that is not UTF-8


def _read_rows(table: Path) -> list[list[str]]:
    """The whole rows of a table, each image once; a row that was cut off, and what is behind damage, is left out."""
    content = table.read_bytes()
    text = content[: content.rfind(b"\n") + 1].decode(errors="surrogateescape")
    rows: dict[str, list[str]] = {}
    with contextlib.suppress(csv.Error):
        rows.update((row[0], row) for row in csv.reader(StringIO(text, newline="")) if len(row) == len(COLUMNS))
    rows.pop("path", None)
    return list(rows.values())


def _finish(out: Path, rows: Sequence[list[str]], jobs: Sequence[_Job]) -> None:
    """Write the table in order."""
    order = {job.path: position for position, job in enumerate(jobs)}
    write_whole(out / TABLE, _as_csv([COLUMNS, *sorted(rows, key=lambda row: order[row[0]])]))
    (out / _UNFINISHED_TABLE).unlink(missing_ok=True)
