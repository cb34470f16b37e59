"""The images that an export is verified on: real ones for the verdict, synthetic ones to ship with the bundle."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dann.infer.errors import DannError, UsageError
from dann.infer.preprocess import PreprocessSpec, fit
from dann.train.data import ImageSet, LabelledSet, default_data_root, open_labelled, open_unlabelled
from dann.train.data_spec import find
from dann.train.domains import is_simulated, open_target_test, specs
from dann.train.named_sets import Role
from dann.train.settings import TrainConfig

SYNTHETIC_IMAGES = 16
_MOST_LABELLED = 1000  # gives an accuracy to about two points
_SEED = 0


@dataclass(frozen=True)
class Sample:
    """Real images for a verdict, or to calibrate on."""

    images_NHWC: np.ndarray
    """uint8 RGB."""
    origin: str
    """Whose: ``target images``, ``source images``, or ``images of`` the last part of the data spec that was named."""

    def to_dict(self) -> dict[str, Any]:
        """For the manifest."""
        digest = hashlib.sha256(self.images_NHWC.tobytes()).hexdigest()
        return {"data": self.origin, "images": len(self.images_NHWC), "sha256": digest}


def sample_images(config: TrainConfig, spec: str | None, count: int, *, option: str, last: bool = False) -> Sample:
    """Up to ``count`` images of the data spec, else of the run's target, else of its source; the same every time.

    ``last`` draws others than without it, as far as there are others. ``option`` is what names another spec. Raises
    :class:`UsageError` where there are none, :class:`DannError` where none can be read.
    """
    try:
        given, role, origin = _choose(config, spec)
        # only the sample is decoded
        images = open_unlabelled(
            given, config.data.preprocess, role=role, data_root=config.data.root, memory_budget_bytes=0, checked=False
        )
    except UsageError as error:
        raise UsageError(str(error) if spec else f"{error}; name other images with {option} SPEC") from error
    return Sample(_draw(images, count, last), origin)


def calibration_images(config: TrainConfig, spec: str | None, count: int, classes: tuple[str, ...]) -> Sample:
    """As :func:`sample_images`, but others than for the verdict.

    Raises :class:`UsageError` for a data spec that is known to be of one class, too.
    """
    sample = sample_images(config, spec, count, option="--calib", last=True)
    known = set() if spec is None else _labels_in(spec, config)
    if len(known) == 1 and known < set(classes):
        raise UsageError(
            f"the images of {spec!r} to calibrate on are all of the class {known.pop()!r}; expected some of all "
            "classes, as the network will see them"
        )
    return sample


def _labels_in(spec: str, config: TrainConfig) -> set[str]:
    """What the images of a data spec are labelled, as far as it says so; a folder by its folders."""
    root = config.data.root or default_data_root()
    try:
        found = find(spec, "train", "target", root, by_class=True)
    except UsageError:  # there are no folders in it, or empty ones
        found = find(spec, "train", "target", root, by_class=False)
        return {Path(path).relative_to(spec).parts[0] for path in found.content if isinstance(path, Path)}
    return set() if found.labels is None else {found.classes[label] for label in np.unique(found.labels)}


def labelled_images(
    config: TrainConfig, spec: str | None, classes: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Target images, uint8 RGB, and their labels: up to 1,000 of the data spec, if it has labels, or of those that
    the run was tested on; ``None`` where there are none.
    """
    found = _open_labelled(config, spec, classes)
    if found is None:
        return None
    chosen = np.sort(np.random.default_rng(_SEED).permutation(len(found))[:_MOST_LABELLED])
    return found.images.read(chosen), found.labels[chosen]


def _open_labelled(config: TrainConfig, spec: str | None, classes: tuple[str, ...]) -> LabelledSet | None:
    data = config.data
    if spec is None:
        return open_target_test(data, *specs(data)[1:], classes)
    try:
        return open_labelled(spec, data.preprocess, role="target", data_root=data.root, classes=classes)
    except UsageError:  # no labels, or of other classes
        return None


def _choose(config: TrainConfig, spec: str | None) -> tuple[str, Role, str]:
    """The data spec, its role, and what to call its images."""
    source, target = (None, spec) if spec else specs(config.data)[:2]
    if target is None:
        assert source is not None
        return source, "source", "source images"
    whose = f"images of {Path(target).name}" if spec else "target images"
    return target, "target", f"{whose} (simulated photos)" if is_simulated(target) else whose


def _draw(images: ImageSet, count: int, last: bool) -> np.ndarray:
    """Up to ``count`` images at random, without those that cannot be decoded."""
    drawn: list[np.ndarray] = []
    failure: DannError | None = None
    for index in np.random.default_rng(_SEED).permutation(len(images))[:: -1 if last else 1]:
        try:
            drawn.append(images.read(np.array([index])))
        except DannError as error:
            failure = error
        if len(drawn) == count:
            break
    if not drawn:
        raise DannError(f"none of {len(images)} images can be read: {failure}")
    return np.concatenate(drawn)


def synthetic_images(preprocess: PreprocessSpec) -> np.ndarray:
    """uint8 RGB (N, H, W, 3): random colour patches, from coarse to fine, the same every time."""
    rng = np.random.default_rng(_SEED)
    sides = [2 ** (index % 4 + 1) for index in range(SYNTHETIC_IMAGES)]
    return np.stack([fit(rng.integers(0, 256, (side, side, 3), np.uint8), preprocess) for side in sides])


def verify_npz(images_NHWC: np.ndarray, logits_NK: dict[str, np.ndarray]) -> bytes:
    """An ``.npz`` of ``images`` and, by precision, the logits (float32) that they gave; it holds no date."""
    buffer = io.BytesIO()
    np.savez(buffer, images=images_NHWC, **logits_NK)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()
