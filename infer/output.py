"""Where results go: to files that appear whole at the end, or to standard output as they come.

For files, :mod:`~dann.infer.journal` records batches in the order in which they are finished, and what it holds is put
in order at the end; standard output takes them in order.
"""

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Protocol

import numpy as np

from dann.infer.errors import DannError, UsageError
from dann.infer.images import ImageFile
from dann.infer.journal import Journal, Segment
from dann.infer.tally import Tally
from dann.infer.whole_file import WholeFile, check_place, writing

STDOUT = "-"


class Output(Protocol):
    """What takes the results of a run."""

    in_order: bool
    """Whether it takes them in the order of the images alone."""

    done: list[tuple[int, int]]
    """Start and number of images of what an earlier run left, in the order of the images."""

    forgotten: bool
    """Whether an earlier run had left something that is not used."""

    def add(self, segment: Segment) -> None:
        """Take results."""
        ...

    def finish(self) -> None:
        """All of them were given: write what is not written yet, and count it."""
        ...


def check_output(out_path: Path | str, features: Path | str | None, *, resume: bool) -> None:
    """Raise :class:`UsageError` for what can be no output, :class:`DannError` where nothing can be written.

    Loading a network takes longer, so this comes before.
    """
    to_stdout = os.fspath(out_path) == STDOUT
    if to_stdout and resume:
        raise UsageError("standard output cannot be resumed; name a file with --out-path")
    for path in (*([] if to_stdout else [out_path]), *([features] if features else [])):
        place = Path(os.path.realpath(path))
        check_place(place)
        with writing(place), TemporaryFile(dir=place.parent):
            pass
    if features is not None and os.path.realpath(features) == os.path.realpath(out_path):
        raise UsageError(f"rows and features are both to go to {str(features)!r}; name another file for one of them")


@contextmanager
def open_output(
    out_path: Path | str,
    features: Path | str | None,
    *,
    header: bytes,
    shape: tuple[int, ...],
    images: Sequence[ImageFile],
    of: dict[str, Any],
    tally: Tally,
    resume: bool,
) -> Iterator[Output]:
    """The output of a run. ``header`` is what comes before the rows; ``shape`` is that of all features.

    ``of`` and ``resume`` are those of :class:`~dann.infer.journal.Journal`, and so is what is raised.
    """
    ends = _Ends(out_path, features, header, shape)
    if os.fspath(out_path) == STDOUT:
        with ends as written:
            yield _Stream(written, tally)
        return
    with Journal(out_path, of, images, resume=resume) as journal:
        yield _Recorded(journal, ends, tally)


class _Recorded:
    """To the journal, and from there to the files."""

    in_order = False

    def __init__(self, journal: Journal, ends: "_Ends", tally: Tally):
        self._journal, self._ends, self._tally = journal, ends, tally
        self.done, self.forgotten = journal.done, journal.forgotten

    def add(self, segment: Segment) -> None:
        self._journal.append(segment)

    def finish(self) -> None:
        with self._ends as ends:
            for segment in self._journal.in_order():
                ends.write(segment)
                self._tally.add(segment)
        self._journal.remove()


class _Stream:
    """Written as they come."""

    in_order = True
    forgotten = False

    def __init__(self, ends: "_Ends", tally: Tally):
        self._ends, self._tally = ends, tally
        self.done: list[tuple[int, int]] = []

    def add(self, segment: Segment) -> None:
        self._ends.write(segment)
        self._tally.add(segment)

    def finish(self) -> None:
        pass


class _Ends(AbstractContextManager["_Ends"]):
    """Rows and features, written in order."""

    def __init__(self, out_path: Path | str, features: Path | str | None, header: bytes, shape: tuple[int, ...]):
        self._out_path, self._features_path = out_path, features
        self._header, self._shape = header, shape

    def __enter__(self) -> "_Ends":
        with ExitStack() as stack:
            stdout = os.fspath(self._out_path) == STDOUT
            self._rows = stack.enter_context(nullcontext(_Stdout()) if stdout else WholeFile(self._out_path))
            self._rows.write(self._header)
            self._features = None
            if self._features_path is not None:
                self._features = stack.enter_context(WholeFile(self._features_path))
                self._features.write(_npy_header(self._shape))
            self._files = stack.pop_all()
        return self

    def write(self, segment: Segment) -> None:
        self._rows.write(segment.rows)
        if self._features is not None:
            self._features.write(segment.features)

    def __exit__(self, *exception: Any) -> None:
        self._files.__exit__(*exception)


class _Stdout:
    def write(self, content: bytes) -> None:
        try:
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
        except BrokenPipeError as error:  # `| head`
            raise DannError("standard output was closed before the last row") from error


def _npy_header(shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return header.getvalue()
