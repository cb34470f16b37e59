"""How many predictions are right: accuracy and confusion matrix of images whose labels are known."""

import csv
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from dann.infer.errors import DannError, UsageError
from dann.infer.images import ImageFile
from dann.infer.results import UNKNOWN

BY_FOLDER = "folder"

LabelOf = Callable[[ImageFile], str | None]
"""The true label of an image; ``None`` where it is not known."""


class Score:
    """Counts of true and predicted classes, K × (K + 1): the last column is for :data:`~dann.infer.results.UNKNOWN`."""

    def __init__(self, classes: Sequence[str]):
        self.classes = tuple(classes)
        self.confusion = [[0] * (len(classes) + 1) for _ in classes]
        """Images by true class, then by predicted class."""
        self.unlabelled = 0
        """Images without a label, or with one that is no class of the bundle."""
        self.unread = 0
        """Labelled images that have no prediction."""
        self._indices = {name: index for index, name in enumerate(classes)}

    def add(self, label: str | None, answer: int | None) -> None:
        """Count an image, whose predicted class is ``answer``, K for unknown, or ``None`` for none."""
        index = None if label is None else self._indices.get(label)
        if index is None:
            self.unlabelled += 1
        elif answer is None:
            self.unread += 1
        else:
            self.confusion[index][answer] += 1

    @property
    def images(self) -> int:
        """Images with a label and a prediction."""
        return sum(map(sum, self.confusion))

    @property
    def correct(self) -> int:
        return sum(row[index] for index, row in enumerate(self.confusion))

    @property
    def accuracy(self) -> float | None:
        """Of :attr:`images`; ``None`` where there are none."""
        return self.correct / self.images if self.images else None

    def lines(self) -> list[str]:
        """A table for people: rows are true classes, columns predicted ones."""
        left_out = [
            f"{count} {what}"
            for count, what in ((self.unlabelled, "without a known label"), (self.unread, "without a prediction"))
            if count
        ]
        if self.accuracy is None:
            return [f"accuracy: no image has a label that is a class ({', '.join(left_out) or 'no images'})"]
        named = [*self.classes, *([UNKNOWN] if any(row[-1] for row in self.confusion) else [])]
        width = max(8, *(len(name) + 1 for name in named))
        table = [
            f"{name:<{width}}"
            + "".join(f"{count:>{width}}" for count in row[: len(named)])
            + (f"{row[index] / sum(row):>{width}.3f}" if sum(row) else f"{'–':>{width}}")
            for index, (name, row) in enumerate(zip(self.classes, self.confusion, strict=True))
        ]
        return [
            f"accuracy {self.accuracy:.4f} ({self.correct}/{self.images})" + "".join(f", {text}" for text in left_out),
            "rows: true class, columns: predicted class",
            " " * width + "".join(f"{name:>{width}}" for name in [*named, "recall"]),
            *table,
        ]


def labels_from(source: Path | str, classes: Sequence[str]) -> LabelOf:
    """The labels that ``source`` gives: the word ``folder``, or a CSV file.

    ``folder`` is the name of the innermost folder of an image that is a class, within the folder that is classified. A
    CSV file has the columns ``path`` and ``label``; paths are relative to the file, or as they are in the results.
    Raises :class:`UsageError` where there is no such file or it has other columns.
    """
    if str(source) == BY_FOLDER:
        known = set(classes)
        return lambda image: next((part for part in reversed(image.name.split("/")[:-1]) if part in known), None)
    labels = _read_csv(Path(source))
    return lambda image: labels.get(os.path.abspath(image.path)) or labels.get(image.name)


def _read_csv(path: Path) -> dict[str, str]:
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.DictReader(file)
            if not {"path", "label"} <= set(reader.fieldnames or ()):
                raise UsageError(
                    f"{str(path)!r} has the columns {list(reader.fieldnames or [])}; expected path and label"
                )
            pairs = [(row["path"], row["label"]) for row in reader if row["path"] and row["label"]]
    except FileNotFoundError as error:
        raise UsageError(f"no such file: {str(path)!r}; --labels takes {BY_FOLDER!r}, or a CSV file") from error
    except (OSError, csv.Error) as error:
        raise DannError(f"{str(path)!r} cannot be read: {error}") from error
    root = os.path.abspath(path.parent)
    return {name: label for name, label in pairs} | {
        os.path.abspath(os.path.join(root, name)): label for name, label in pairs
    }
