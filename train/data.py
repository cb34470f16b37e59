"""The sets that training and evaluation read, opened from a data spec (:mod:`dann.train.data_spec`).

An :class:`ImageSet` has no labels at all; a :class:`LabelledSet` has them beside an image set. Training holds
its target as an :class:`ImageSet`, so target labels cannot reach it.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dann.infer.errors import UsageError
from dann.infer.preprocess import PreprocessSpec
from dann.train.data_spec import Found, Pixels, find
from dann.train.image_set import ImageSet, images_from_arrays, images_from_files
from dann.train.named_sets import NAMED_SETS, Role, Split, default_data_root

__all__ = [
    "ImageSet",
    "LabelledSet",
    "default_data_root",
    "has_test_split",
    "holdout",
    "open_labelled",
    "open_unlabelled",
    "split_layout",
]

MEMORY_BUDGET_BYTES = 2 * 2**30


@dataclass(frozen=True)
class LabelledSet:
    """Images with their classes."""

    images: ImageSet

    labels: np.ndarray
    """int64 (N,), indices into ``classes``."""

    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, indices: np.ndarray) -> "LabelledSet":
        """The images at ``indices``, in that order, with the same classes."""
        return LabelledSet(self.images.subset(indices), self.labels[indices], self.classes)


def open_labelled(
    spec: str,
    preprocess: PreprocessSpec,
    *,
    split: Split = "train",
    role: Role = "source",
    data_root: Path | None = None,
    classes: tuple[str, ...] | None = None,
    memory_budget_bytes: int = MEMORY_BUDGET_BYTES,
) -> LabelledSet:
    """The images and labels that ``spec`` names.

    ``split`` and ``role`` choose within a named set; other specs are one set whatever they say. ``classes``
    are those of the trained model, where a set is to be tested: labels are indexed in that order, and the
    set may lack some of them. Without it the set defines the classes and is meant for training: it needs two,
    each with an image. Files that would decode to more than ``memory_budget_bytes`` are cached on disk, or else
    decoded at each read.
    Raises :class:`UsageError` where the spec cannot be used, :class:`DannError` where no image can be read.
    """
    found = find(spec, split, role, data_root or default_data_root(), by_class=True)
    if found.labels is None:
        raise UsageError(
            f"{spec!r} has no labels, and they are needed here; expected a folder with one sub-folder per "
            "class, a CSV with 'path,label', or an .npz with 'x' and 'y'"
        )
    if classes is None:
        _check_trainable(spec, found.labels, found.classes)
        labels = found.labels
    else:
        labels = _reindex(spec, found.labels, found.classes, classes)
    images, kept = _load(found, preprocess, memory_budget_bytes)
    if classes is None:  # again, as a class may have lost every image
        _check_trainable(spec, labels[kept], found.classes)
    return LabelledSet(images, labels[kept], found.classes if classes is None else classes)


def open_unlabelled(
    spec: str,
    preprocess: PreprocessSpec,
    *,
    split: Split = "train",
    role: Role = "target",
    data_root: Path | None = None,
    memory_budget_bytes: int = MEMORY_BUDGET_BYTES,
    checked: bool = True,
) -> ImageSet:
    """The images that ``spec`` names; labels, where it has any, end here. Raises as :func:`open_labelled`.

    ``checked=False`` does not decode the files of a set over the budget before they are read.
    """
    found = find(spec, split, role, data_root or default_data_root(), by_class=False)
    return _load(found, preprocess, memory_budget_bytes, checked)[0]


def has_test_split(spec: str) -> bool:
    """Whether ``spec`` is a named set, which has a test split of its own."""
    return spec in NAMED_SETS


def split_layout(root: Path) -> tuple[str, str, str]:
    """Specs of source, target and test under a root of the layout

    ``ROOT/train/source/<class>/…``, ``ROOT/train/target/…``, ``ROOT/test/<class>/…``.
    Raises :class:`UsageError` that lists the folders which are missing.
    """
    folders = (root / "train" / "source", root / "train" / "target", root / "test")
    missing = [f"'{folder}'" for folder in folders if not folder.is_dir()]
    if missing:
        raise UsageError(
            f"the split layout of '{root}' lacks {', '.join(missing)}; "
            "expected ROOT/train/source/<class>/…, ROOT/train/target/… and ROOT/test/<class>/…"
        )
    source, target, test = map(str, folders)
    return source, target, test


def holdout(labelled: LabelledSet, fraction: float, seed: int) -> tuple[LabelledSet, LabelledSet]:
    """``labelled`` without, and only, a random ``fraction`` of each class; the same for the same ``seed``.

    A class of two or more images has at least one on each side; a single image stays in the first.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"the fraction to hold out is {fraction}; expected a number between 0 and 1")
    held = np.zeros(len(labelled), bool)
    for label in range(len(labelled.classes)):
        members = np.flatnonzero(labelled.labels == label)
        count = min(max(1, round(len(members) * fraction)), len(members) - 1)
        held[np.random.default_rng([seed, label]).permutation(members)[: max(0, count)]] = True
    if not held.any():
        raise UsageError(
            f"nothing can be held out of {len(labelled)} images: no class has two; add images, or set data.holdout to 0"
        )
    return labelled.subset(np.flatnonzero(~held)), labelled.subset(np.flatnonzero(held))


def _load(
    found: Found, preprocess: PreprocessSpec, memory_budget_bytes: int, checked: bool = True
) -> tuple[ImageSet, np.ndarray]:
    """The images, and the positions in ``found`` of those that can be read."""
    if isinstance(found.content, Pixels):
        images = images_from_arrays(*found.content, preprocess)
        return images, np.arange(len(images))
    images, kept = images_from_files(found.content, preprocess, memory_budget_bytes, checked=checked)
    images.skipped.extend(found.skipped)
    return images, kept


def _check_trainable(spec: str, labels: np.ndarray, classes: tuple[str, ...]) -> None:
    if len(classes) < 2:
        raise UsageError(f"{spec!r} has one class only, {list(classes)}; expected two or more to tell apart")
    counts = np.bincount(labels, minlength=len(classes))
    lacking = [name for name, count in zip(classes, counts, strict=True) if not count]
    if lacking:
        raise UsageError(f"{spec!r} has no readable image of {lacking}; add some, or drop the class")


def _reindex(spec: str, labels: np.ndarray, own: tuple[str, ...], classes: tuple[str, ...]) -> np.ndarray:
    """``labels``, which index ``own``, as indices into ``classes``."""
    used = [own[i] for i in np.unique(labels)]
    foreign = [name for name in used if name not in classes]
    if foreign:
        raise UsageError(
            f"{spec!r} has classes that the model was not trained on: {foreign}; "
            f"the set has {used}, the model knows {list(classes)}"
        )
    return np.array([classes.index(name) if name in classes else -1 for name in own], np.int64)[labels]
