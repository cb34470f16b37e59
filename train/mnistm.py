"""MNIST-M: every digit of MNIST, blended into a random patch of a random photo.

As the paper does (Ganin et al. 2016, section 5.2): a patch is cut from a photo at each digit's own place, and
the result is |patch − digit| in each of the three channels, so strokes invert the photo. Images stay 28×28.
The paper sets no photos apart for the test images, and neither does this; but their patches are drawn by a
generator of their own, so neither split depends on the size of the other.

The same MNIST, photos (by their names and pixels) and seed give the same bytes: photos are taken in the order
of their names, random numbers come from one seeded generator per split, and arrays are stored without
compression, as deflate differs between zlib versions and photos hardly compress.
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dann.infer.errors import DannError, ImageError, UsageError
from dann.infer.images import find_images
from dann.infer.preprocess import decode, read_bytes
from dann.train.named_sets import find_mnist, read_mnist

SIDE = 28

Progress = Callable[[str, int, int], None]
"""Called with the file's name, the digits that are done, and those in all."""


@dataclass(frozen=True)
class MnistmReport:
    """What a build wrote."""

    train: Path
    test: Path
    photo_count: int
    """Photos that patches could be cut from."""
    skipped: list[tuple[str, str]]
    """Name and reason of every photo that could not be read."""


@dataclass(frozen=True)
class _Photo:
    path: Path
    height: int
    width: int


def build_mnistm(
    mnist_root: Path,
    photos: Path,
    out: Path,
    *,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> MnistmReport:
    """Write ``mnistm_{train,test}.npz`` to ``out``: ``x`` uint8 (N, 28, 28, 3) and ``y`` uint8 (N,).

    ``mnist_root`` is a data root, or the folder with the idx files. Photos are decoded twice and only one is
    held at a time, so there may be any number of them.
    Raises :class:`UsageError` where MNIST or photos are missing or a photo is smaller than a patch, and
    :class:`DannError` where no photo can be read or nothing can be written.
    """
    raw = find_mnist(mnist_root)
    digits = {split: read_mnist(raw, split) for split in ("train", "test")}
    usable, skipped = _survey(photos)
    written = []
    for stream, (split, (images, labels)) in enumerate(digits.items()):
        random = np.random.default_rng([seed, stream])
        path = out / f"mnistm_{split}.npz"
        written.append(_write(path, _blend(images, usable, random, path.name, on_progress), labels))
    train, test = written
    return MnistmReport(train, test, len(usable), skipped)


def _survey(folder: Path) -> tuple[list[_Photo], list[tuple[str, str]]]:
    """The photos that can be used, in the order of their names, and those that cannot be read."""
    usable, skipped = [], []
    for image in find_images(folder):
        try:
            height, width = decode(read_bytes(image.path)).shape[:2]
        except ImageError as error:
            skipped.append((str(image.path), str(error)))
            continue
        if min(height, width) < SIDE:
            raise UsageError(
                f"photo '{image.path}' is {width}×{height} pixels; a patch needs {SIDE}×{SIDE}: take it out"
            )
        usable.append(_Photo(image.path, height, width))
    if not usable:
        path, reason = skipped[0]
        raise DannError(f"none of {len(skipped)} photos in '{folder}' can be read; the first, '{path}', {reason}")
    return usable, skipped


def _blend(
    digits_NHW: np.ndarray,
    photos: list[_Photo],
    random: np.random.Generator,
    name: str,
    on_progress: Progress | None,
) -> np.ndarray:
    """|patch − digit| per channel, uint8 (N, 28, 28, 3), with a random patch for each digit."""
    chosen = (random.random(len(digits_NHW)) * len(photos)).astype(np.int64)
    where = random.random((len(digits_NHW), 2))
    blended = np.empty((*digits_NHW.shape, 3), np.uint8)
    done = 0
    for index in np.unique(chosen):
        rows = np.flatnonzero(chosen == index)
        patches = _cut(photos[index], where[rows])
        difference = patches.astype(np.int16) - digits_NHW[rows, :, :, None]
        blended[rows] = np.abs(difference)
        done += len(rows)
        if on_progress:
            on_progress(name, done, len(digits_NHW))
    return blended


def _cut(photo: _Photo, where_N2: np.ndarray) -> np.ndarray:
    """Patches uint8 (N, 28, 28, 3) of one photo, at fractions of the way down and across."""
    pixels_HWC = decode(read_bytes(photo.path))
    windows = np.lib.stride_tricks.sliding_window_view(pixels_HWC, (SIDE, SIDE), axis=(0, 1))
    corners = (where_N2 * windows.shape[:2]).astype(np.int64)
    return windows[corners[:, 0], corners[:, 1]].transpose(0, 2, 3, 1)


def _write(path: Path, x: np.ndarray, labels: np.ndarray) -> Path:
    """The arrays in an ``.npz`` at ``path``, which appears whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            np.savez(file, x=x, y=labels.astype(np.uint8))
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise DannError(
            f"cannot write '{path}': {error.strerror or error}; choose another folder with --out"
        ) from error
    return path
