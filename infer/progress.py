"""Progress on standard error: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import TextIO

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """A context whose :meth:`update` may be called as often as one likes.

    With ``unit``, the name of what is counted, it says how many of them are done a second, and how long the rest takes,
    from the first update on.
    """

    def __init__(self, title: str, *, unit: str | None = None, stream: TextIO | None = None, quiet: bool = False):
        self.title = title
        self.unit = unit
        self.stream = stream or sys.stderr
        self.quiet = quiet or self.stream is None  # a daemon may have no standard error
        self._began = self._line_due = time.monotonic()
        self._before: int | None = None
        self._text = ""
        self._bar = None

    def __enter__(self) -> "Progress":
        if not self.quiet and self.stream.isatty():
            self._bar = _rich_bar(self.stream)
            self._task = self._bar.add_task(self.title, total=None, text="")
            self._bar.start()
        return self

    def update(self, done: int, total: int, text: str = "") -> None:
        """``done`` of ``total``; ``text``, if any, stays until the next one."""
        now, rate = time.monotonic(), 0.0
        if self.unit and self._before is None:
            self._began, self._before = now, done
        elif self.unit and self._before is not None:
            rate = (done - self._before) / max(now - self._began, 1e-9)
        seconds = now - self._began
        self._text = f"{rate:.0f} {self.unit}/s" if self.unit else text or self._text
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, text=self._text)
        elif not self.quiet and (now >= self._line_due and done != self._before or done == total):
            self._line_due = now + _SECONDS_BETWEEN_LINES
            left = f", {(total - done) / rate:.0f} s left" if 0 < rate and done < total else ""
            print(f"{self.title}: {done}/{total} {self._text} ({seconds:.0f} s{left})", file=self.stream, flush=True)

    def message(self, text: str) -> None:
        """A line that stays, above the bar if there is one."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        elif not self.quiet:
            print(text, file=self.stream, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def _rich_bar(stream: TextIO):
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}", markup=False),
        console=Console(file=stream),
        refresh_per_second=4,  # drawing takes the interpreter lock, which threads that decode need
    )
