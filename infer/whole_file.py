"""A file that appears whole, or not at all."""

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from dann.infer.errors import DannError, UsageError


class WholeFile:
    """A file that appears at ``out_path`` when the block ends well, and not at all when it does not.

    What stood at ``out_path`` before survives any failure. Entering raises :class:`UsageError` where the
    folder does not exist or ``out_path`` is no regular file, :class:`DannError` where the folder is not
    writable.
    """

    def __init__(self, out_path: Path | str):
        self._target = Path(os.path.realpath(out_path))
        self._temporary = self._target.with_name(f".dann-{secrets.token_hex(4)}.tmp")

    def __enter__(self) -> "WholeFile":
        check_place(self._target)
        with writing(self._target):
            self._file = open(self._temporary, "xb")
        return self

    def write(self, content: str | bytes) -> None:
        """Append text or bytes. In text, file names that are not valid UTF-8 become the bytes they are on the disk."""
        if isinstance(content, str):
            content = content.encode("utf-8", sys.getfilesystemencodeerrors())
        with writing(self._target):
            self._file.write(content)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with writing(self._target), self._file:
                if kind is None:
                    self._file.flush()
                    os.fsync(self._file.fileno())
                    os.replace(self._temporary, self._target)
        finally:
            with suppress(FileNotFoundError):
                self._temporary.unlink()


def check_place(out_path: Path) -> None:
    """Raise :class:`UsageError` where no file can be at ``out_path``."""
    if not os.path.isdir(out_path.parent):
        raise UsageError(f"the output is to go to {str(out_path.parent)!r}, which is not a folder; create it")
    if os.path.exists(out_path) and not os.path.isfile(out_path):
        raise UsageError(f"the output {str(out_path)!r} is a folder or a device; expected the name of a file")


@contextmanager
def writing(out_path: Path) -> Iterator[None]:
    """What the system refuses inside becomes a :class:`DannError` that names ``out_path``."""
    try:
        yield
    except OSError as error:
        raise DannError(
            f"cannot write {str(out_path)!r}: {error.strerror or error}; what was there before is unchanged"
        ) from error
