"""A bundle's folder is written whole or not at all.

It is built beside its place and moved there by renaming; an earlier bundle is moved aside first, put back if the
second renaming fails, and removed last.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dann.infer.bundle import MANIFEST, VERIFY
from dann.infer.errors import DannError, UsageError

_OWN_NAMES = (MANIFEST, VERIFY, "openvino", "triton")
_OWN_SUFFIXES = (".onnx", ".engine")


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A new, empty folder that becomes ``out`` when the block ends without an exception, and is removed otherwise.

    Raises :class:`UsageError` where ``out`` exists and is no bundle, or is in a folder that does not exist, and
    :class:`DannError` where that folder cannot be written to. In each case what was at ``out`` stays.
    """
    place = Path(os.path.realpath(out))  # through a link, its target is replaced
    staging = place.with_name(f".{place.name}.{os.getpid()}.new")
    try:
        _check_replaceable(out)
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        yield staging
        _swap(staging, place)
    except OSError as error:
        raise DannError(f"the bundle {str(out)!r} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _swap(staging: Path, place: Path) -> None:
    if not place.exists():
        staging.rename(place)
        return
    aside = place.with_name(f".{place.name}.{os.getpid()}.old")
    place.rename(aside)
    try:
        staging.rename(place)
    except BaseException:
        aside.rename(place)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _check_replaceable(out: Path) -> None:
    """Refuse whatever dann did not write: replacing a bundle removes everything in its folder."""
    if not out.parent.is_dir():
        raise UsageError(f"the bundle {str(out)!r} should be in {str(out.parent)!r}, which is not a folder; make it")
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"{str(out)!r} is a file; the bundle is a folder: name another with --out")
    names = sorted(entry.name for entry in out.iterdir())
    foreign = [name for name in names if name not in _OWN_NAMES and not name.endswith(_OWN_SUFFIXES)]
    if names and (foreign or MANIFEST not in names):
        raise UsageError(
            f"{str(out)!r} holds files that are no bundle's (first: {(foreign or names)[0]!r}), and would be "
            "replaced whole; name another folder with --out"
        )
