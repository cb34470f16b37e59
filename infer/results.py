"""Predictions as rows of a file: ``preds.csv``, or JSON Lines.

    path,label,probability,status,error[,label_2,probability_2,…][,p_<class>,…]

One row per input, always, and the same names in both formats. UTF-8, a line feed after each row. A CSV row is quoted as
in RFC 4180, and a file name that is not valid UTF-8 is the bytes that it is on the disk; JSON has escapes in its place,
as Python reads and writes them.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from dann.infer.errors import UsageError, unknown_name
from dann.infer.images import spreadsheet_safe
from dann.infer.predict import Prediction

UNKNOWN = "unknown"
"""The label of an image whose most probable class is not probable enough."""

_SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_FORMATS = ("csv", "jsonl")

Cell = str | float | None


def row_format(name: str | None, out_path: Path | str) -> str:
    """``csv`` or ``jsonl``: the one that was asked for, else that of the suffix, else CSV."""
    if name is None:
        return _SUFFIXES.get(Path(out_path).suffix.lower(), "csv")
    if name not in _FORMATS:
        raise unknown_name("format", name, _FORMATS)
    return name


class Rows:
    """Turns predictions into rows.

    ``format`` is ``csv`` or ``jsonl``; ``top_k`` is how many of the most probable classes are named, 1 to K; ``probs``
    adds the probability of each class; what is less probable than ``min_probability`` is labelled :data:`UNKNOWN`.
    """

    def __init__(
        self,
        classes: Sequence[str],
        *,
        format: str = "csv",
        top_k: int = 1,
        probs: bool = False,
        min_probability: float = 0.0,
    ):
        if not 1 <= top_k <= len(classes):
            raise UsageError(
                f"top-k is {top_k}; this bundle has {len(classes)} classes, so expected 1 to {len(classes)}"
            )
        if not 0 <= min_probability <= 1:
            raise UsageError(f"the smallest probability is {min_probability}; expected 0 to 1")
        if min_probability > 0 and UNKNOWN in classes:
            raise UsageError(f"a smallest probability gives the label {UNKNOWN!r}, which is a class of this bundle")
        self._classes = classes
        self._format = format
        self._top_k = top_k
        self._probs = probs
        self._min_probability = min_probability
        ranks = [f"{column}_{rank}" for rank in range(2, top_k + 1) for column in ("label", "probability")]
        self._names = ["path", "label", "probability", "status", "error", *ranks]
        self._names += [f"p_{name}" for name in classes] if probs else []

    def header(self) -> bytes:
        """What comes before the first row."""
        return _csv_row(self._names) if self._format == "csv" else b""

    def row(self, prediction: Prediction) -> bytes:
        """The line of one input; an input that could not be read leaves its answers empty."""
        cells = self._cells(prediction)
        if self._format == "csv":
            return _csv_row(cells)
        numbered = [round(cell, 6) if isinstance(cell, float) else cell for cell in cells]
        return (json.dumps(dict(zip(self._names, numbered, strict=True))) + "\n").encode("ascii")

    def answer(self, prediction: Prediction) -> int | None:
        """The class that the row names, as its index; K for unknown, ``None`` for an error."""
        if prediction.label is None or prediction.probability is None:
            return None
        if prediction.probability < self._min_probability:
            return len(self._classes)
        return self._classes.index(prediction.label)

    def _cells(self, prediction: Prediction) -> list[Cell]:
        path = spreadsheet_safe(prediction.path)
        if prediction.probabilities is None:
            return [path, None, None, "error", prediction.error, *[None] * (len(self._names) - 5)]
        probabilities: list[float] = prediction.probabilities.tolist()
        ranked = sorted(range(len(probabilities)), key=lambda k: -probabilities[k])[: self._top_k]
        label, probability, *others = [cell for k in ranked for cell in (self._classes[k], probabilities[k])]
        if isinstance(probability, float) and probability < self._min_probability:
            label = UNKNOWN
        return [path, label, probability, "ok", None, *others, *(probabilities if self._probs else ())]


def _csv_row(cells: Iterable[Cell]) -> bytes:
    """Not the csv module: which of its versions quote a lone carriage return differs by Python."""
    return (",".join(map(_csv_cell, cells)) + "\n").encode("utf-8", sys.getfilesystemencodeerrors())


def _csv_cell(cell: Cell) -> str:
    if cell is None:
        return ""
    if not isinstance(cell, str):
        return f"{cell:.6f}"
    if any(mark in cell for mark in ',"\r\n'):
        return '"' + cell.replace('"', '""') + '"'
    return cell
