"""Write predictions to a file: ``preds.csv``.

    path,label,probability,status,error[,label_2,probability_2,…][,p_<class>,…]

One row per input, always. UTF-8, a line feed after each row, quotes as in RFC 4180. The file is written whole
or not at all: rows go to a temporary file beside it, which takes its name once the last row is on the disk.
"""

import os
import secrets
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from dann.infer.errors import DannError, UsageError
from dann.infer.images import spreadsheet_safe
from dann.infer.predict import Prediction


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
        if not os.path.isdir(self._target.parent):
            raise UsageError(f"the output is to go to {str(self._target.parent)!r}, which is not a folder; create it")
        if os.path.exists(self._target) and not os.path.isfile(self._target):
            raise UsageError(f"the output {str(self._target)!r} is a folder or a device; expected the name of a file")
        with self._failure_named():
            self._file = open(self._temporary, "xb")
        return self

    def write(self, content: str | bytes) -> None:
        """Append text or bytes. In text, file names that are not valid UTF-8 become the bytes they are on the disk."""
        if isinstance(content, str):
            content = content.encode("utf-8", sys.getfilesystemencodeerrors())
        with self._failure_named():
            self._file.write(content)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._failure_named(), self._file:
                if kind is None:
                    self._file.flush()
                    os.fsync(self._file.fileno())
                    os.replace(self._temporary, self._target)
        finally:
            with suppress(FileNotFoundError):
                self._temporary.unlink()

    @contextmanager
    def _failure_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DannError(
                f"cannot write {str(self._target)!r}: {error.strerror or error}; what was there before is unchanged"
            ) from error


class CsvRows:
    """Turns predictions into rows of ``preds.csv``.

    ``top_k`` is how many of the most probable classes are named, 1 to K; ``probs`` adds the probability of
    each class.
    """

    def __init__(self, classes: Sequence[str], *, top_k: int = 1, probs: bool = False):
        if not 1 <= top_k <= len(classes):
            raise UsageError(
                f"top-k is {top_k}; this bundle has {len(classes)} classes, so expected 1 to {len(classes)}"
            )
        self._classes = classes
        self._top_k = top_k
        self._probs = probs

    def header(self) -> str:
        """The first line."""
        ranks = (f"{column}_{rank}" for rank in range(2, self._top_k + 1) for column in ("label", "probability"))
        probs = (f"p_{name}" for name in self._classes) if self._probs else ()
        return _row(["path", "label", "probability", "status", "error", *ranks, *probs])

    def row(self, prediction: Prediction) -> str:
        """The line of one input; an input that could not be read leaves its answers empty."""
        path = spreadsheet_safe(prediction.path)
        if prediction.probabilities is None:
            empty = 2 * (self._top_k - 1) + self._probs * len(self._classes)
            return _row([path, "", "", "error", prediction.error or "", *[""] * empty])
        probabilities = prediction.probabilities.tolist()
        ranked = sorted(range(len(probabilities)), key=lambda k: -probabilities[k])[: self._top_k]
        answers = [cell for k in ranked for cell in (self._classes[k], _number(probabilities[k]))]
        probs = map(_number, probabilities) if self._probs else ()
        return _row([path, *answers[:2], "ok", "", *answers[2:], *probs])


def _number(probability: float) -> str:
    return f"{probability:.6f}"


def _row(cells: Iterable[str]) -> str:
    """One CSV line. Not the csv module: which of its versions quote a lone carriage return differs by
    Python."""
    return ",".join(map(_cell, cells)) + "\n"


def _cell(text: str) -> str:
    if any(mark in text for mark in ',"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text
