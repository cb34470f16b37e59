"""From a data spec to the files or arrays that it names, before any image is decoded.

    cars/renders    a folder with one sub-folder per class: names sorted, anything deeper belongs to the class
    photos/         a flat folder, where no labels are needed
    list.csv        columns path,label (or path alone), paths relative to the folder of the CSV
    digits.npz      x uint8 N×H×W[×3], y integers, and optionally classes: the names that y indexes
    mnist           a named set (dann.train.named_sets); ./mnist is a folder of that name

Images are found as inference finds them (dann.infer.images), without hidden files; and a class folder may be
a link.
"""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dann.infer.bundle import is_one_line
from dann.infer.errors import UsageError, unknown_name
from dann.infer.images import SUFFIXES, find_images, is_clutter, is_image_name
from dann.train.named_sets import (
    CARS,
    DIGIT_SETS,
    NAMED_SETS,
    Role,
    Split,
    cars_folder,
    read_digits,
    read_npz,
)

_EXPECTED = f"expected a folder, a .csv, an .npz, or a named set: {', '.join(NAMED_SETS)}"


class Pixels(NamedTuple):
    """Images that are in memory already."""

    images: np.ndarray
    """uint8 (N, H, W) or (N, H, W, 3)."""
    names: Sequence[str]


@dataclass(frozen=True)
class Found:
    """What a spec names."""

    content: Pixels | list[Path]
    labels: np.ndarray | None = None
    """int64 (N,), indices into ``classes``; ``None`` where the spec has no labels."""
    classes: tuple[str, ...] = ()
    skipped: Sequence[tuple[str, str]] = ()
    """Name and reason of images that belong to no class."""


def find(spec: str, split: Split, role: Role, data_root: Path, *, by_class: bool) -> Found:
    """What ``spec`` names; a folder has labels only where ``by_class`` asks for them.

    Raises :class:`UsageError` where it names nothing, or something that cannot be used.
    """
    if spec == CARS:
        return _find_folder(cars_folder(split, role, data_root), by_class)
    if spec in DIGIT_SETS:
        digits = read_digits(spec, split, data_root)
        return _found_arrays(digits.images, digits.labels, digits.classes, f"{spec}/{split}")
    path = Path(spec)
    if not os.path.exists(spec):  # Path.exists raises for a name that is too long
        raise _missing(spec)
    if path.is_dir():
        return _find_folder(path, by_class)
    if path.suffix.lower() == ".csv":
        return _find_csv(path)
    if path.suffix.lower() == ".npz":
        return _find_npz(path)
    raise UsageError(f"'{path}' is a file that is no data set; {_EXPECTED}")


def _missing(spec: str) -> UsageError:
    path = Path(spec)
    if path.name != spec or path.suffix.lower() in (".csv", ".npz"):
        return UsageError(f"{spec!r} does not exist; {_EXPECTED}")
    return unknown_name("data set or folder", spec, NAMED_SETS)


def _find_folder(root: Path, by_class: bool) -> Found:
    loose, paths_by_folder = _list(root)
    if not by_class or not paths_by_folder:
        paths = sorted([*loose, *(path for below in paths_by_folder.values() for path in below)])
        if not paths:
            raise UsageError(f"no images in '{root}'; expected files like {' '.join(sorted(SUFFIXES))}")
        return Found(paths)
    empty = [name for name, below in paths_by_folder.items() if not below]
    if empty:
        raise UsageError(f"'{root}' has class folders without images: {empty}; fill them or take them away")
    classes = checked_classes(root, list(paths_by_folder))
    paths = [path for below in paths_by_folder.values() for path in below]
    labels = np.repeat(np.arange(len(classes)), [len(below) for below in paths_by_folder.values()])
    skipped = [(str(path), "lies beside the class folders, so it has no class") for path in loose]
    return Found(paths, labels, classes, skipped)


def _list(root: Path) -> tuple[list[Path], dict[str, list[Path]]]:
    """The image files directly in ``root``, and for each of its folders (or links to one) all below it."""
    try:
        entries = sorted(path for path in root.iterdir() if not is_clutter(path.name))
    except OSError as error:
        raise UsageError(f"'{root}' cannot be listed: {error.strerror or error}") from error
    loose = [path for path in entries if is_image_name(path.name) and path.is_file()]
    return loose, {path.name: _images_below(path) for path in entries if path.is_dir()}


def _images_below(folder: Path) -> list[Path]:
    try:
        return [image.path for image in find_images(folder)]
    except UsageError:  # there are none, which the caller knows more about
        return []


def _find_csv(path: Path) -> Found:
    columns, rows = _csv_rows(path)
    if "path" not in columns:
        raise UsageError(f"'{path}' has the columns {columns}; its first line must be 'path,label' (or 'path')")
    if not rows:
        raise UsageError(f"'{path}' has no rows; expected one image per line")
    for line, row in rows:
        if not row["path"] or ("label" in columns and not row["label"]):
            raise UsageError(f"line {line} of '{path}' is incomplete: {row}; expected path and label")
    content = [path.parent / row["path"] for _, row in rows]
    if "label" not in columns:
        return Found(content)
    values, labels = np.unique([row["label"] for _, row in rows], return_inverse=True)
    return Found(content, labels, checked_classes(path, values.tolist()))


def _csv_rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The columns and, with its line number, each row of a CSV; a byte-order mark is fine."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or ())
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"'{path}' cannot be read as a UTF-8 CSV: {error}") from error
    return columns, rows


def _find_npz(path: Path) -> Found:
    stored = read_npz(path)
    if "x" not in stored:
        raise UsageError(f"'{path}' has the arrays {sorted(stored)}; expected 'x' and, for labels, 'y'")
    images = stored["x"]
    shaped = images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)
    if images.dtype != np.uint8 or not shaped or 0 in images.shape:
        raise UsageError(f"'{path}' has x {images.dtype}{images.shape}; expected uint8 N×H×W or N×H×W×3")
    if "y" not in stored:
        return _found_arrays(images, None, (), str(path))
    labels = stored["y"]
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise UsageError(f"'{path}' has y {labels.dtype}{labels.shape}; expected {len(images)} integers")
    if "classes" in stored:
        names = stored["classes"].astype(str).ravel().tolist()
        if labels.min() < 0 or labels.max() >= len(names):
            raise UsageError(f"'{path}' has y from {labels.min()} to {labels.max()}, but {len(names)} 'classes'")
    else:
        values, labels = np.unique(labels, return_inverse=True)
        names = [str(value) for value in values]
    return _found_arrays(images, labels, checked_classes(path, names), str(path))


def _found_arrays(images: np.ndarray, labels: np.ndarray | None, classes: tuple[str, ...], origin: str) -> Found:
    names = [f"{origin}#{i}" for i in range(len(images))]
    return Found(Pixels(images, names), None if labels is None else labels.astype(np.int64), classes)


def checked_classes(origin: Path, names: Sequence[str]) -> tuple[str, ...]:
    """``names``, where none of them would break a CSV, a spreadsheet, a terminal or a file system."""
    seen: dict[str, str] = {}
    for name in names:
        if not is_one_line(name) or name[0] in "=+-@":
            raise UsageError(
                f"'{origin}' has the class {name!r}; expected a name that is not empty, has no control "
                "characters and does not begin with = + - @: rename it"
            )
        if name.casefold() in seen:
            raise UsageError(
                f"'{origin}' has the classes {seen[name.casefold()]!r} and {name!r}; expected names that "
                "differ in more than upper and lower case: merge or rename them"
            )
        seen[name.casefold()] = name
    return tuple(names)
