"""The images that an export is verified on: real ones for the verdict, synthetic ones to ship with the bundle."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dann.infer.errors import DannError, UsageError
from dann.infer.preprocess import PreprocessSpec, fit
from dann.train.data import ImageSet, open_unlabelled
from dann.train.domains import is_simulated, specs
from dann.train.named_sets import Role
from dann.train.settings import TrainConfig

SYNTHETIC_IMAGES = 8
_SEED = 0


@dataclass(frozen=True)
class Sample:
    """Real images for a verdict."""

    images_NHWC: np.ndarray
    """uint8 RGB."""
    origin: str
    """Whose: ``target images``, ``source images``, or ``images of`` the last part of the data spec that was named."""

    def to_dict(self) -> dict[str, Any]:
        """For the manifest."""
        digest = hashlib.sha256(self.images_NHWC.tobytes()).hexdigest()
        return {"data": self.origin, "images": len(self.images_NHWC), "sha256": digest}


def verify_sample(config: TrainConfig, verify_data: str | None, count: int) -> Sample:
    """Up to ``count`` images of ``verify_data``, else of the run's target, else of its source; the same every time.

    Raises :class:`UsageError` where there are none, :class:`DannError` where none can be read.
    """
    try:
        spec, role, origin = _choose(config, verify_data)
        # only the sample is decoded
        images = open_unlabelled(
            spec, config.data.preprocess, role=role, data_root=config.data.root, memory_budget_bytes=0, checked=False
        )
    except UsageError as error:
        hint = "" if verify_data else "; the verdict needs images: name some with --verify-data SPEC"
        raise UsageError(f"{error}{hint}") from error
    return Sample(_draw(images, count), origin)


def _choose(config: TrainConfig, verify_data: str | None) -> tuple[str, Role, str]:
    """The data spec, its role, and what to call its images."""
    source, target = (None, verify_data) if verify_data else specs(config.data)[:2]
    if target is None:
        assert source is not None
        return source, "source", "source images"
    whose = f"images of {Path(target).name}" if verify_data else "target images"
    return target, "target", f"{whose} (simulated photos)" if is_simulated(target) else whose


def _draw(images: ImageSet, count: int) -> np.ndarray:
    """Up to ``count`` images at random, without those that cannot be decoded."""
    drawn: list[np.ndarray] = []
    failure: DannError | None = None
    for index in np.random.default_rng(_SEED).permutation(len(images)):
        try:
            drawn.append(images.read(np.array([index])))
        except DannError as error:
            failure = error
        if len(drawn) == count:
            break
    if not drawn:
        raise DannError(f"none of {len(images)} images can be read for the verdict: {failure}")
    return np.concatenate(drawn)


def synthetic_images(preprocess: PreprocessSpec) -> np.ndarray:
    """uint8 RGB (N, H, W, 3): random colour patches, from coarse to fine, the same every time."""
    rng = np.random.default_rng(_SEED)
    sides = [2 ** (index % 4 + 1) for index in range(SYNTHETIC_IMAGES)]
    return np.stack([fit(rng.integers(0, 256, (side, side, 3), np.uint8), preprocess) for side in sides])


def verify_npz(images_NHWC: np.ndarray, logits_NK: np.ndarray) -> bytes:
    """An ``.npz`` of ``images`` and the trained network's ``logits`` (float32) for them; it holds no date."""
    buffer = io.BytesIO()
    np.savez(buffer, images=images_NHWC, logits=logits_NK)
    return buffer.getvalue()
