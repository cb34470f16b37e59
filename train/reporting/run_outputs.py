"""What the network of a run says of the run's own images, where they are still to be had."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from dann.infer.errors import DannError
from dann.train.batch_norm import SOURCE, TARGET
from dann.train.data import ImageSet, open_unlabelled
from dann.train.device import find_device
from dann.train.domains import open_target_test, specs
from dann.train.evaluate import evaluation_subset, outputs
from dann.train.model import DomainAdversarialNetwork
from dann.train.run_dir import RunDir
from dann.train.run_evaluation import source_test_of
from dann.train.trained import load_trained


@dataclass(frozen=True, kw_only=True)
class ImageOutputs:
    """Images of one domain, and what the network says of them (N images, K classes, D features)."""

    images: ImageSet
    labels_N: np.ndarray | None
    """Their classes; ``None`` for images without labels."""
    logits_NK: np.ndarray
    features_ND: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, indices: np.ndarray) -> "ImageOutputs":
        """Those of the images at ``indices``."""
        return ImageOutputs(
            images=self.images.subset(indices),
            labels_N=None if self.labels_N is None else self.labels_N[indices],
            logits_NK=self.logits_NK[indices],
            features_ND=self.features_ND[indices],
        )


@dataclass(frozen=True, kw_only=True)
class RunOutputs:
    """Both domains; a text says why one is missing."""

    classes: tuple[str, ...]
    source: ImageOutputs | str
    """On source images that were held out of training."""
    target: ImageOutputs | str
    """On the labelled target images; without any, on a fixed subset of the unlabelled ones."""


def run_outputs(run: RunDir, *, device: str, unlabelled: int, seed: int) -> RunOutputs:
    """Run the exported checkpoint of ``run`` over its images, at most ``unlabelled`` of those without labels.

    Raises only where ``device`` cannot be had: a run without a checkpoint, or whose images are gone, says so instead.
    """
    config, about = run.read_config()
    where = find_device(config, device)
    try:
        config, classes, network = load_trained(run)
    except DannError as error:
        reason = f"The network cannot be loaded: {error}."
        return RunOutputs(classes=tuple(about.get("classes", ())), source=reason, target=reason)
    network = network.to(where)

    def source() -> ImageOutputs | str:
        held_out, notes = source_test_of(run, config)
        return notes[0] if held_out is None else _outputs(network, held_out.images, held_out.labels, SOURCE, where)

    def target() -> ImageOutputs | str:
        _, spec, test = specs(config.data)
        labelled = open_target_test(config.data, spec, test, classes)
        if labelled is not None:
            return _outputs(network, labelled.images, labelled.labels, TARGET, where)
        if spec is None:
            return "The run has no target images."
        images = open_unlabelled(spec, config.data.preprocess, data_root=config.data.root)
        subset = images.subset(evaluation_subset(len(images), unlabelled, seed))
        return _outputs(network, subset, None, TARGET, where)

    return RunOutputs(classes=classes, source=_or_reason(source), target=_or_reason(target))


def _outputs(
    network: DomainAdversarialNetwork,
    images: ImageSet,
    labels_N: np.ndarray | None,
    domain: int,
    device: torch.device,
) -> ImageOutputs:
    found = outputs(network, images, device=device, domain=domain)
    if not np.isfinite(found.features_ND).all() or not np.isfinite(found.logits_NK).all():
        raise DannError("The network has diverged: what it says is not finite")
    return ImageOutputs(images=images, labels_N=labels_N, logits_NK=found.logits_NK, features_ND=found.features_ND)


def _or_reason(find: Callable[[], ImageOutputs | str]) -> ImageOutputs | str:
    try:
        return find()
    except DannError as error:
        return f"{error}."
