"""Images of one size without labels: decoded once into memory, once into a cache on disk, or at each read.

All ways go through :mod:`dann.infer.preprocess` and give the same pixels; the memory budget and the room on disk
choose. A file that cannot be read is found and left out when the set is opened. One that a streaming set can no longer
read later ends the read with its name, because a silent substitute would change what was trained on.
"""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from dann.infer.cores import usable_cores
from dann.infer.errors import DannError, ImageError
from dann.infer.preprocess import PreprocessSpec, fit, load_image, read_bytes
from dann.train.decoded_cache import cached

_THREADS = min(32, usable_cores())
_Found = TypeVar("_Found")


class _Store(Protocol):
    """Where the pixels of a set are. Indices are positions in the whole store."""

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def shape_HWC(self) -> tuple[int, int, int]: ...

    def read(self, indices: np.ndarray) -> np.ndarray: ...

    def digest(self, indices: np.ndarray) -> str: ...


class ImageSet:
    """Images of one size, without labels: a view of some of the images of a store."""

    def __init__(self, store: _Store, indices: np.ndarray, skipped: Sequence[tuple[str, str]] = ()):
        self._store = store
        self._indices = indices
        self.skipped = list(skipped)
        """Name and reason of every image that was left out when the set was opened."""

    def __len__(self) -> int:
        return len(self._indices)

    @cached_property
    def names(self) -> list[str]:
        """For each image the path of its file, or its set and position: ``mnist/train#17``."""
        names = self._store.names
        return [names[int(i)] for i in self._indices]

    @property
    def shape_HWC(self) -> tuple[int, int, int]:
        """Of every image."""
        return self._store.shape_HWC

    @property
    def in_memory(self) -> bool:
        """Whether the pixels are in memory; otherwise each read goes to the disk, or decodes files."""
        return isinstance(self._store, _MemoryStore)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """The images at ``indices``: uint8 RGB (n, H, W, 3), a new array.

        Raises :class:`DannError` where a file of a set that streams can no longer be decoded.
        """
        return self._store.read(self._indices[indices])

    def fingerprint(self) -> str:
        """SHA-256, in hex, of the pixels; of the files and how they are decoded, for a set that is not in memory."""
        return self._store.digest(self._indices)

    def subset(self, indices: np.ndarray) -> "ImageSet":
        """The images at ``indices``, in that order; shares the pixels."""
        return ImageSet(self._store, self._indices[indices], self.skipped)


def images_from_arrays(images: np.ndarray, names: Sequence[str], preprocess: PreprocessSpec) -> ImageSet:
    """A set of arrays, uint8 (N, H, W) or (N, H, W, 3), brought to the size of ``preprocess``."""
    pixels_NHWC = images
    if images.shape[1:] != (preprocess.height, preprocess.width, 3):
        pixels_NHWC = np.empty((len(images), preprocess.height, preprocess.width, 3), np.uint8)
        for row, image in enumerate(images):
            pixels_NHWC[row] = fit(image, preprocess)
    return ImageSet(_MemoryStore(pixels_NHWC, names), np.arange(len(images)))


def images_from_files(
    paths: Sequence[Path], preprocess: PreprocessSpec, memory_budget_bytes: int, *, checked: bool = True
) -> tuple[ImageSet, np.ndarray]:
    """A set of the files that can be read, and their positions in ``paths`` (int64).

    Files that do not fit the budget are decoded once here too, into :mod:`dann.train.decoded_cache` if that has room,
    and if only to find those that cannot be read. With ``checked`` off they are not looked at before they are read.
    Raises :class:`DannError` if none can be read.
    """
    store: _Store
    if len(paths) * preprocess.height * preprocess.width * 3 <= memory_budget_bytes:
        pixels_NHWC = np.zeros((len(paths), preprocess.height, preprocess.width, 3), np.uint8)
        failures = _decode_all(paths, preprocess, pixels_NHWC)
        store = _MemoryStore(pixels_NHWC, [str(path) for path in paths])
    elif not checked:
        failures: list[str | None] = [None] * len(paths)
        store = _FileStore(paths, preprocess)
    else:
        contents = _contents(paths)
        decoded = cached(contents, preprocess, lambda pixels_NHWC: _decode_all(paths, preprocess, pixels_NHWC))
        failures = _decode_all(paths, preprocess) if decoded is None else decoded.failures
        store = _FileStore(paths, preprocess, contents, None if decoded is None else decoded.pixels_NHWC)
    kept = np.array([i for i, reason in enumerate(failures) if reason is None], np.int64)
    if not len(kept):
        raise DannError(f"none of {len(paths)} images can be read; the first, '{paths[0]}', {failures[0]}")
    skipped = [(str(path), reason) for path, reason in zip(paths, failures, strict=True) if reason is not None]
    return ImageSet(store, kept, skipped), kept


class _MemoryStore:
    def __init__(self, pixels_NHWC: np.ndarray, names: Sequence[str]):
        self.names = names
        self._pixels_NHWC = pixels_NHWC

    @property
    def shape_HWC(self) -> tuple[int, int, int]:
        return self._pixels_NHWC.shape[1], self._pixels_NHWC.shape[2], self._pixels_NHWC.shape[3]

    def read(self, indices: np.ndarray) -> np.ndarray:
        return self._pixels_NHWC[indices]

    def digest(self, indices: np.ndarray) -> str:
        digest = hashlib.sha256(repr((len(indices), *self._pixels_NHWC.shape[1:])).encode())
        for at in range(0, len(indices), 1024):  # in pieces, as indexing copies
            digest.update(self._pixels_NHWC[indices[at : at + 1024]].data)
        return digest.hexdigest()


class _FileStore:
    """Decodes at each read, unless ``decoded_NHWC`` has all images already. ``contents`` are the files' hashes."""

    def __init__(
        self,
        paths: Sequence[Path],
        preprocess: PreprocessSpec,
        contents: Sequence[bytes] | None = None,
        decoded_NHWC: np.ndarray | None = None,
    ):
        self.names = [str(path) for path in paths]
        self._paths = paths
        self._preprocess = preprocess
        self.shape_HWC = (preprocess.height, preprocess.width, 3)
        self._contents = contents
        self._decoded_NHWC = decoded_NHWC
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="dann-decode")

    def read(self, indices: np.ndarray) -> np.ndarray:
        pixels_NHWC = np.empty((len(indices), *self.shape_HWC), np.uint8)
        if self._decoded_NHWC is not None:
            return np.take(self._decoded_NHWC, indices, axis=0, out=pixels_NHWC)
        for row, image_HWC in enumerate(self._pool.map(self._decode, indices.tolist())):
            pixels_NHWC[row] = image_HWC
        return pixels_NHWC

    def digest(self, indices: np.ndarray) -> str:
        if self._contents is None:
            self._contents = _contents(self._paths)
        digest = hashlib.sha256(repr(self._preprocess).encode())
        for index in indices.tolist():
            digest.update(self._contents[index])
        return digest.hexdigest()

    def _decode(self, index: int) -> np.ndarray:
        try:
            return load_image(self._paths[index], self._preprocess)
        except ImageError as error:
            raise DannError(f"'{self._paths[index]}' {error}; repair it, or take it out") from error


def _contents(paths: Sequence[Path]) -> list[bytes]:
    """The SHA-256 of every file; of the reason, where one cannot be read."""

    def content(index: int) -> bytes:
        try:
            return hashlib.sha256(read_bytes(paths[index])).digest()
        except ImageError as error:
            return hashlib.sha256(str(error).encode()).digest()

    return _in_threads(content, len(paths))


def _decode_all(
    paths: Sequence[Path], preprocess: PreprocessSpec, pixels_NHWC: np.ndarray | None = None
) -> list[str | None]:
    """For each file the reason why it cannot be decoded, if so; the others go into ``pixels_NHWC``, where given."""

    def decode(index: int) -> str | None:
        try:
            image_HWC = load_image(paths[index], preprocess)
        except ImageError as error:
            return str(error)
        if pixels_NHWC is not None:
            pixels_NHWC[index] = image_HWC
        return None

    return _in_threads(decode, len(paths))


def _in_threads(function: Callable[[int], _Found], count: int) -> list[_Found]:
    """``function(i)`` for every ``i < count``, in order; 64 to a task, as a task costs a kilobyte."""
    chunks = [range(at, min(at + 64, count)) for at in range(0, count, 64)]
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = pool.map(lambda chunk: [function(i) for i in chunk], chunks)
        return [result for part in parts for result in part]
