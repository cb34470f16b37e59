"""A picture of a data set: some images of each class side by side, to look at before anything is trained on them."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dann.infer.errors import DannError, UsageError
from dann.infer.preprocess import PreprocessSpec
from dann.infer.whole_file import WholeFile
from dann.train.data_spec import Found, Pixels, Role, Split, find
from dann.train.image_set import images_from_arrays, images_from_files
from dann.train.named_sets import default_data_root

_ROWS_WITHOUT_CLASSES = 5
_PAPER, _INK = (255, 255, 255), (40, 40, 40)
_GAP_PX = 3
_LARGEST_JPEG_PX = 65_500
_SUFFIXES = (".jpg", ".jpeg", ".png")


def write_contact_sheet(spec: str, out_path: Path, **options: Any) -> None:
    """Write :func:`contact_sheet` to a .jpg or .png file, whole or not at all."""
    suffix = out_path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise UsageError(f"the output is {str(out_path)!r}; expected a name that ends in .jpg or .png")
    with WholeFile(out_path) as file:  # entered first: a place that cannot be written to is refused before the work
        sheet = contact_sheet(spec, **options)
        height, width, _ = sheet.shape
        if suffix != ".png" and max(height, width) > _LARGEST_JPEG_PX:
            raise UsageError(
                f"the sheet is {width} × {height} pixels, and JPEG ends at {_LARGEST_JPEG_PX:,}: write a .png, or "
                "fewer or smaller images"
            )
        file.write(cv2.imencode(suffix, sheet[:, :, ::-1])[1].tobytes())


def contact_sheet(
    spec: str,
    *,
    columns: int = 12,
    size_px: int = 96,
    seed: int = 0,
    split: Split = "train",
    role: Role = "source",
    data_root: Path | None = None,
    on_note: Callable[[str], None] | None = None,
) -> np.ndarray:
    """Random images of ``spec``: a row for each class, or rows of any image where there are no classes.

    ``split`` and ``role`` choose within a named set. Gives uint8 RGB (H, W, 3); each image is letterboxed into a square
    of ``size_px``. Images that cannot be read are left out, and ``on_note`` is told. Raises :class:`UsageError` where
    the spec cannot be used.
    """
    if not 1 <= columns <= 100 or not 16 <= size_px <= 1024:
        raise UsageError(f"{columns} columns of {size_px} px; expected 1 to 100 of 16 to 1024 px")
    found = find(spec, split, role, data_root or default_data_root(), by_class=True)
    rng, note = np.random.default_rng(seed), on_note or (lambda text: None)
    preprocess = PreprocessSpec(height=size_px, width=size_px, resize="letterbox", interpolation="area")
    if found.labels is None:
        chosen = _some(rng, np.arange(_count(found)), columns * _ROWS_WITHOUT_CLASSES)
        images = _read(found, chosen, preprocess, note)
        starts = range(0, columns * math.ceil(len(images) / columns), columns)
        return _sheet([("", images[start : start + columns]) for start in starts], columns, size_px)
    members = [np.flatnonzero(found.labels == label) for label in range(len(found.classes))]
    rows = [_read(found, _some(rng, own, columns), preprocess, note) for own in members]
    return _sheet(list(zip(found.classes, rows, strict=True)), columns, size_px)


def _count(found: Found) -> int:
    return len(found.content.images) if isinstance(found.content, Pixels) else len(found.content)


def _some(rng: np.random.Generator, indices: np.ndarray, count: int) -> np.ndarray:
    return np.sort(rng.permutation(indices)[:count])


def _read(found: Found, indices: np.ndarray, preprocess: PreprocessSpec, note: Callable[[str], None]) -> np.ndarray:
    content = found.content
    if isinstance(content, Pixels):
        images = images_from_arrays(content.images[indices], [str(content.names[int(i)]) for i in indices], preprocess)
        return images.read(np.arange(len(images)))
    paths = [content[i] for i in indices]
    try:
        images, _ = images_from_files(paths, preprocess, memory_budget_bytes=2**30)
    except DannError as error:  # none of them can be read
        note(f"left out: {error}")
        return np.zeros((0, preprocess.height, preprocess.width, 3), np.uint8)
    for path, reason in images.skipped:
        note(f"left out {path}: {reason}")
    return images.read(np.arange(len(images)))


def _sheet(rows: list[tuple[str, np.ndarray]], columns: int, size_px: int) -> np.ndarray:
    font = ImageFont.load_default(max(12, size_px // 6))
    margin = max((math.ceil(font.getlength(name)) for name, _ in rows), default=0)
    margin += 4 * _GAP_PX if margin else _GAP_PX
    step = size_px + _GAP_PX
    sheet = Image.new("RGB", (margin + columns * step, _GAP_PX + len(rows) * step), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, (name, images) in enumerate(rows):
        top = _GAP_PX + row * step
        draw.text((2 * _GAP_PX, top + size_px // 2), name, _INK, font, anchor="lm")
        for column, image in enumerate(images):
            sheet.paste(Image.fromarray(image), (margin + column * step, top))
    return np.asarray(sheet)
