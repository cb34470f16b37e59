"""What is rendered: the models of each class, and the photos behind them; each looked at before the first image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from dann.infer.bundle import sha256_of
from dann.infer.errors import DannError, ImageError, UsageError, unknown_name
from dann.infer.images import find_images, is_clutter
from dann.infer.preprocess import decode, read_bytes, shrunk
from dann.train.data_spec import checked_classes
from dann.train.rendering.cad_models import MODEL_SUFFIXES, CadModel, ModelError, load_model
from dann.train.rendering.car_proportions import BODY_CLASSES, CLASSES
from dann.train.rendering.render_pool import run_tasks

PROCEDURAL_CARS = "cars"

_UNREADABLE = {".3ds", ".blend", ".dae", ".fbx", ".iges", ".igs", ".max", ".skp", ".step", ".stp", ".usd", ".usdz"}
_MOST_PHOTOS = 1000
_PHOTO_PX = 640


@dataclass(frozen=True)
class ModelFile:
    """One model of a class, and what was found in it."""

    body_class: str
    name: str
    """Path under the folder of models."""
    sha256: str
    triangles: int
    up: str
    front: str
    size: tuple[float, float, float]
    notes: tuple[str, ...]


def inspect_models(
    models: Path | str,
    classes: Sequence[str] | None,
    up: str,
    front: str,
    workers: int,
    note: Callable[[str], None],
) -> tuple[list[ModelFile], list[tuple[str, str]]]:
    """The models that can be used, sorted by class and name, and name and reason of those that cannot."""
    if models == PROCEDURAL_CARS:
        chosen = _choose(CLASSES if classes is None else classes, BODY_CLASSES)
        return [ModelFile(name, "", "", 0, "z", "-x", (0.0, 0.0, 0.0), ()) for name in chosen], []
    root = Path(models)
    models_of, failed = _find_models(root)
    if classes is not None:
        chosen = _choose(classes, list(models_of))
        models_of = {name: models_of[name] for name in chosen}
        failed = [(name, reason) for name, reason in failed if name.split("/")[0] in chosen]
    checked_classes(root, [body_class for body_class, names in models_of.items() if names])
    found: list[ModelFile] = []
    files = [(body_class, name) for body_class, names in models_of.items() for name in names]
    for name, result in run_tasks(partial(_inspect_one, root, up, front), files, workers):
        if isinstance(result, str):
            failed.append((name, result))
            continue
        found.append(result)
        size = " × ".join(f"{side:.4g}" for side in result.size)
        facts = f"{name}: {result.triangles:,} triangles, {size} units, up is {result.up}, front is {result.front}"
        note("; ".join([facts, *result.notes]))
    found.sort(key=lambda model: (model.body_class, model.name))
    failed.sort()
    if not found:
        reasons = "; ".join(f"{name} {reason}" for name, reason in failed[:3]) or f"none in {', '.join(models_of)}"
        raise DannError(f"no model in {str(root)!r} can be used: {reasons}")
    for body_class, names in models_of.items():
        if not names and not any(name.startswith(f"{body_class}/") for name, _ in failed):
            note(f"{body_class}: no models in it, so it is no class")
            continue
        count = sum(model.body_class == body_class for model in found)
        if count == 0:
            failed.append((body_class, "has no model that can be used: the class is left out"))
        elif count == 1:
            note(f"{body_class}: one model only; a classifier may learn that model rather than its class")
    return found, failed


def _choose(classes: Sequence[str], known: Sequence[str]) -> list[str]:
    for name in classes:
        if name not in known:
            raise unknown_name("class", name, known)
    return sorted(set(classes))


def _has_models(folder: Path) -> bool:
    return any(path.suffix.lower() in {*MODEL_SUFFIXES, *_UNREADABLE} for path in folder.iterdir())


def _find_models(root: Path) -> tuple[dict[str, list[str]], list[tuple[str, str]]]:
    """The model files of each class folder, and name and reason of what looks like one and is left out."""
    if not root.is_dir():
        raise UsageError(f"no such folder: {str(root)!r}; expected a folder with one sub-folder of models per class")
    classes = sorted(path.name for path in root.iterdir() if path.is_dir() and not is_clutter(path.name))
    models_of: dict[str, list[str]] = {name: [] for name in classes}
    failed = []
    for path in sorted({*root.glob("*"), *root.glob("*/**/*")}):
        name, suffix = path.relative_to(root).as_posix(), path.suffix.lower()
        body_class, within, _ = name.partition("/")
        if any(is_clutter(part) for part in name.split("/")):
            continue
        if path.is_dir():
            if path.is_symlink() and within and _has_models(path):
                failed.append((name, "is a link to a folder, which is not followed; copy the folder"))
        elif path.exists() and not path.is_file():
            continue  # a pipe would be read for ever
        elif suffix in _UNREADABLE:
            failed.append((name, f"is a {suffix} file, which is not read; export it as {' or '.join(MODEL_SUFFIXES)}"))
        elif suffix in MODEL_SUFFIXES and not within:
            failed.append((name, "lies beside the class folders, so it has no class; move it into one"))
        elif suffix in MODEL_SUFFIXES:
            models_of[body_class].append(name)
    if not any(models_of.values()):
        hint = f"{failed[0][0]} {failed[0][1]}: " if failed else ""
        raise UsageError(
            f"{hint}no models in the sub-folders of {str(root)!r}; expected one sub-folder per class, with files "
            f"ending in {' '.join(MODEL_SUFFIXES)}"
        )
    return models_of, failed


def _inspect_one(root: Path, up: str, front: str, file: tuple[str, str]) -> tuple[str, ModelFile | str]:
    body_class, name = file
    try:
        model = load_model(root / name, up, front)
    except ModelError as error:
        return name, str(error)
    except OSError as error:
        return name, f"cannot be read ({error.strerror or error})"
    triangles = len(model.mesh.triangles_T3)
    return name, ModelFile(body_class, name, model.sha256, triangles, model.up, model.front, model.size, model.notes)


@lru_cache(maxsize=4)
def cached_model(path: Path, up: str, front: str) -> CadModel:
    return load_model(path, up, front)


# ---- backgrounds ----


def check_backgrounds(folder: Path | str, seed: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Name and SHA-256 of the photos that are used, at most 1,000 of them, and those that cannot be read."""
    if not Path(folder).is_dir():
        raise UsageError(f"no such folder: {str(folder)!r}; expected a folder of photos")
    images = find_images(folder)
    if len(images) > _MOST_PHOTOS:
        chosen = np.random.default_rng(seed).permutation(len(images))[:_MOST_PHOTOS]
        images = [images[i] for i in sorted(chosen)]
    good, broken = [], []
    for image in images:
        try:
            decode(read_bytes(image.path))
        except ImageError as error:
            broken.append((image.name, str(error)))
        else:
            good.append((image.name, sha256_of(image.path)))
    if not good:
        raise DannError(f"none of the {len(images)} photos in {str(folder)!r} can be read: {broken[0][1]}")
    return good, broken


@lru_cache(maxsize=128)
def cached_photo(path: Path) -> np.ndarray:
    image_HW3 = decode(read_bytes(path))
    scale = _PHOTO_PX / max(image_HW3.shape)
    return image_HW3 if scale >= 1 else shrunk(image_HW3, scale)
