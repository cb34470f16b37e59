"""Decoded images of a set that is too large for memory, kept on disk from run to run and read through a memory map.

In ``dann/decoded`` of the user's cache there is a folder for each set at a size. Its name is a hash of the content of
all files and of how they are preprocessed, so that a changed image is never taken for what it was. ``DANN_CACHE_GB``
bounds what all of them take (50, 0 for none); the ones that were not used for longest make room. It is safe to delete,
also while it is in use.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from dann.infer.errors import UsageError
from dann.infer.preprocess import PreprocessSpec
from dann.infer.user_cache import user_cache

_PIXELS, _FAILURES, _PART = "pixels.npy", "failures.json", ".part-"
_LIMIT_GB = 50.0
_KEPT_FREE = 0.05  # of the disk

log = logging.getLogger(__name__)
_in_use: set[Path] = set()  # by this process, and therefore not to be deleted for what it opens next

Decode = Callable[[np.ndarray], list[str | None]]
"""Writes every image into an array (N, H, W, 3) of uint8, and says for each why it cannot be decoded, if so."""


@dataclass(frozen=True)
class Decoded:
    """All images of a set, of which those with a reason in ``failures`` are zeros."""

    pixels_NHWC: np.ndarray
    """uint8 (N, H, W, 3), mapped from disk, read only."""
    failures: list[str | None]


def cached(contents: Sequence[bytes], preprocess: PreprocessSpec, decode: Decode) -> Decoded | None:
    """The images whose files hash to ``contents``, from the cache, or through ``decode`` into it.

    ``None`` where there is no room for them, or the cache cannot be written.
    """
    if not (limit_bytes := _limit_bytes()):
        return None
    shape = (len(contents), preprocess.height, preprocess.width, 3)
    folder = user_cache() / "decoded" / _key(contents, preprocess)
    try:
        if (found := _open(folder, shape)) is not None:
            return found
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.parent / "writing.lock"):  # the processes of a run all come here: one decodes
            if (found := _open(folder, shape)) is not None:
                return found
            needed = int(np.prod(shape))
            if not _make_room(folder.parent, needed, limit_bytes):
                log.info("%.1f GB of decoded images are not kept: that is more than is allowed or free", needed / 1e9)
                return None
            _write(folder, shape, decode)
        return _open(folder, shape)
    except OSError as error:
        log.warning("decoded images are not kept: %s", error)
        return None


def _key(contents: Sequence[bytes], preprocess: PreprocessSpec) -> str:
    digest = hashlib.sha256(repr((preprocess, cv2.__version__)).encode())
    for content in contents:
        digest.update(content)
    return digest.hexdigest()


def _open(folder: Path, shape: tuple[int, ...]) -> Decoded | None:
    try:
        pixels_NHWC = np.load(folder / _PIXELS, mmap_mode="r")
        failures = json.loads((folder / _FAILURES).read_text(encoding="utf-8"))
    except (FileNotFoundError, EOFError, ValueError):  # not there, or damaged
        return None
    if pixels_NHWC.shape != shape or len(failures) != len(pixels_NHWC):
        return None
    os.utime(folder)  # used now
    _in_use.add(folder)
    return Decoded(pixels_NHWC, failures)


def _write(folder: Path, shape: tuple[int, ...], decode: Decode) -> None:
    part = Path(tempfile.mkdtemp(prefix=_PART, dir=folder.parent))
    try:
        with open(part / _PIXELS, "wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            begin = file.tell()
            if hasattr(os, "posix_fallocate"):  # where the disk is full, an error here, and no signal later
                os.posix_fallocate(file.fileno(), 0, begin + int(np.prod(shape)))
            else:
                file.truncate(begin + int(np.prod(shape)))
        pixels_NHWC = np.memmap(part / _PIXELS, np.uint8, "r+", begin, shape)
        failures = decode(pixels_NHWC)
        pixels_NHWC.flush()
        (part / _FAILURES).write_text(json.dumps(failures), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w") as file:
        with contextlib.suppress(ModuleNotFoundError):  # Windows: two that write at once do the work twice
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make_room(root: Path, needed: int, limit: float) -> bool:
    """Whether ``needed`` bytes may be written; the sets that were not used for longest are deleted for it."""
    if needed > limit:
        return False
    for left_over in root.glob(f"{_PART}*"):  # by a process that was killed: another is not writing now
        shutil.rmtree(left_over, ignore_errors=True)
    kept = sorted((folder for folder in root.iterdir() if folder.is_dir()), key=lambda folder: folder.stat().st_mtime)
    sizes = {folder: sum(file.stat().st_size for file in folder.iterdir()) for folder in kept}
    for folder in kept:
        if sum(sizes.values()) + needed <= limit:
            break
        if folder not in _in_use:
            shutil.rmtree(folder, ignore_errors=True)
            del sizes[folder]
    if sum(sizes.values()) + needed > limit:
        return False
    disk = shutil.disk_usage(root)
    return needed <= disk.free - _KEPT_FREE * disk.total


def _limit_bytes() -> float:
    given = os.environ.get("DANN_CACHE_GB") or str(_LIMIT_GB)
    try:
        limit = float(given)
    except ValueError:
        limit = -1.0
    if not limit >= 0:
        raise UsageError(f"DANN_CACHE_GB is {given!r}; expected how many GB of disk to use, 0 for none")
    return limit * 1e9
