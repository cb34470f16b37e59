"""What an unfinished run has done: a file beside the output, from which ``--resume`` goes on.

    {"of": {…}}                                      what decides the bytes of a row
    1f2e3d4c {"start": 16, …, "rows": 412, …}        a record: its CRC-32, which images, how many bytes follow
    dir/a.jpg,sedan,0.912345,ok,\n…

Records are appended as batches are finished, so not in the order of the images, and reach the system at once: what was
recorded survives the end of the process by any signal. A record that was cut off is dropped. One is used again only
where its images still stand side by side in the list and none of them has changed; so images that came or went cost
the batches around them.
"""

import json
import os
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

from dann.infer.errors import DannError, UsageError
from dann.infer.images import ImageFile
from dann.infer.whole_file import check_place, writing


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Results of images that follow each other in the list."""

    start: int
    """The position of the first one."""
    answers: list[int | None]
    """For each the class that its row names, see :meth:`~dann.infer.results.Rows.answer`."""
    rows: bytes
    features: bytes = b""
    """float32 (count, D), where they were asked for."""
    errors: dict[str, int] = field(default_factory=dict)
    """How many have none, by kind."""


class Journal:
    """The journal of the run that writes ``out_path``, open to be appended to while the block lasts.

    ``of`` is what decides the bytes of a row. With ``resume`` what an earlier run left is read, and :attr:`done` says
    what of it counts; without, it is dropped. Where the block fails it stays, which the exception notes; where it ends
    well, :meth:`remove` is to be called. Entering raises :class:`UsageError` and :class:`DannError` as
    :class:`~dann.infer.whole_file.WholeFile` does, and :class:`DannError` where another run writes the same output, or
    the earlier one was not ``of`` the same.
    """

    def __init__(self, out_path: Path | str, of: dict[str, Any], images: Sequence[ImageFile], *, resume: bool):
        self._out_path = Path(os.path.realpath(out_path))
        self.path = self._out_path.with_name(f".{self._out_path.name[:200]}.dann-journal")
        self._of = json.loads(json.dumps(of))  # as it is read back
        self._images = images
        self._resume = resume
        self._offsets: dict[int, tuple[int, int]] = {}
        self.forgotten = False
        """Whether there was one that is not used."""

    @property
    def done(self) -> list[tuple[int, int]]:
        """Where each segment starts, and how many images it has, in the order of the images."""
        return sorted((start, count) for start, (_, count) in self._offsets.items())

    @property
    def rows(self) -> int:
        """How many images are done."""
        return sum(count for _, count in self._offsets.values())

    def __enter__(self) -> "Journal":
        check_place(self._out_path)
        with writing(self._out_path):
            self._file = open(self.path, "a+b", buffering=0)
            try:
                self._lock()
                self.forgotten = not self._resume and os.fstat(self._file.fileno()).st_size > 0
                end = self._read() if self._resume else 0
                self._file.truncate(end)
                self._file.seek(end)
                if end == 0:
                    self._append(_line({"of": self._of}))
            except BaseException:
                self._file.close()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if error is not None and not self._offsets:
            self.path.unlink(missing_ok=True)
        elif error is not None:
            error.add_note(f"{self.rows} of {len(self._images)} rows are kept: add --resume to go on from there")

    def append(self, segment: Segment) -> None:
        """Record what was computed; :class:`DannError` where there is no room for it."""
        count = len(segment.answers)
        about = {
            "start": segment.start,
            "count": count,
            "first": self._images[segment.start].name,
            "files": self._files(segment.start, count),
            "answers": segment.answers,
            "errors": segment.errors,
            "rows": len(segment.rows),
            "features": len(segment.features),
        }
        at = self._file.tell()
        record = _line(about) + segment.rows + segment.features
        with writing(self._out_path):
            self._append(b"%08x " % zlib.crc32(record) + record)
        self._offsets[segment.start] = at, count

    def in_order(self) -> Iterator[Segment]:
        """All segments in the order of the images."""
        for start, (at, _) in sorted(self._offsets.items()):
            self._file.seek(at)
            _, about = self._about_here()
            yield self._segment(start, about)

    def remove(self) -> None:
        """What it held is elsewhere now."""
        with suppress(OSError):
            self.path.unlink()

    def _segment(self, start: int, about: dict[str, Any]) -> Segment:
        rows, features = (self._file.read(about[name]) for name in ("rows", "features"))
        return Segment(start=start, answers=about["answers"], errors=about["errors"], rows=rows, features=features)

    def _append(self, content: bytes) -> None:
        at = self._file.tell()
        try:
            written = 0
            while written < len(content):  # a disk that is nearly full takes a part
                written += self._file.write(content[written:])
        except OSError:
            self._file.truncate(at)
            raise

    def _lock(self) -> None:
        try:
            import fcntl
        except ModuleNotFoundError:  # Windows does not let two of them open it
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DannError(f"another run is writing {str(self._out_path)!r}; wait for it, or name another") from error
        except OSError:  # not on this file system
            return

    def _read(self) -> int:
        """Take the records of an earlier run; where they end."""
        self._file.seek(0)
        line = self._line_here()
        try:
            before = json.loads(line)["of"]
        except (ValueError, KeyError, TypeError):
            return 0  # nothing was recorded
        if before != self._of:
            raise UsageError(
                f"{self.path} is of a run with other settings ({_difference(before, self._of)}); resume with those, or "
                "leave --resume out to begin anew"
            )
        names = [image.name for image in self._images]
        is_sorted = all(before <= after for before, after in zip(names, names[1:], strict=False))
        while True:
            end = self._file.tell()
            try:
                crc, about = self._about_here()
                segment = self._segment(about["start"], about)
                if zlib.crc32(_line(about) + segment.rows + segment.features) != crc:
                    break
                start = self._place(about, names if is_sorted else None)
            except (ValueError, KeyError, TypeError, OverflowError, MemoryError):  # it was cut off
                break
            if start is not None:
                self._offsets[start] = end, about["count"]
        self._drop_overlaps()
        return end

    def _drop_overlaps(self) -> None:
        """Which there are where the list has changed and changed back."""
        reached = 0
        for start, count in self.done:
            if start < reached:
                del self._offsets[start]
            else:
                reached = start + count

    def _place(self, about: dict[str, Any], sorted_names: list[str] | None) -> int | None:
        """Where the images of a record are in the list; ``None`` where they are not, or have changed since."""
        places = [about["start"]]
        if sorted_names is not None:
            places.append(bisect_left(sorted_names, about["first"]))
        count = about["count"]
        return next((start for start in places if self._files(start, count) == about["files"]), None)

    def _files(self, start: int, count: int) -> str:
        """Names, sizes and times of images: another value where one is another file, or was written to."""
        states = [_state(image) for image in self._images[start : start + count]]
        return sha256(b"\0".join(states)).hexdigest()[:32]

    def _about_here(self) -> tuple[int, dict[str, Any]]:
        """The CRC and the line of a record; :class:`ValueError` where there is none."""
        crc, _, about = self._line_here().partition(b" ")
        return int(crc, 16), json.loads(about)

    def _line_here(self) -> bytes:
        """The line at the place of the file, which is read without a buffer, and goes behind it."""
        at, parts = self._file.tell(), []
        while b"\n" not in (part := self._file.read(4096)) and part:
            parts.append(part)
        line = b"".join([*parts, part]).partition(b"\n")[0]
        self._file.seek(at + len(line) + 1)
        return line


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode("ascii") + b"\n"


def _state(image: ImageFile) -> bytes:
    name = os.fsencode(image.name)
    try:
        status = os.stat(image.path)
    except (OSError, ValueError):
        return name
    return b"%s\0%d\0%d" % (name, status.st_size, status.st_mtime_ns)


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    key = next(key for key in {**before, **now} if before.get(key) != now.get(key))
    return f"{key} {before.get(key)!r} instead of {now.get(key)!r}"
