"""Scores of a network on labelled images, and how well its domains can be told apart.

Legend: N images, K classes. Evaluation is in float32 and evaluation mode, on exactly the pixels that inference sees.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import softmax

from dann.infer.errors import Diverged
from dann.train.adaptation_state import evaluating
from dann.train.batch_norm import SOURCE, TARGET
from dann.train.data import ImageSet, LabelledSet
from dann.train.model import DomainAdversarialNetwork

ECE_BINS = 15


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How a network does on one labelled set."""

    images: int
    correct: int
    accuracy: float
    recall: dict[str, float | None]
    """Share of each class's images that were found; ``None`` for a class without images."""
    mean_recall: float
    """Mean over the classes that have images."""
    confusion: list[list[int]]
    """Rows are the true classes, columns the predicted ones, both in class order."""
    ece: float
    """Expected calibration error: mean |confidence − accuracy| over 15 equal bins (Guo et al., arXiv 1706.04599)."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def scores(logits_NK: np.ndarray, labels_N: np.ndarray, classes: tuple[str, ...]) -> Scores:
    """The scores of ``logits_NK`` (float) against ``labels_N`` (ints below K); :class:`Diverged` unless finite."""
    if not np.isfinite(logits_NK).all():
        raise Diverged("the network's logits are not finite: it has diverged; train it with a smaller --lr")
    predicted = logits_NK.argmax(axis=1)
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (labels_N, predicted), 1)
    per_class = confusion.sum(axis=1)
    found = confusion.diagonal()
    recall = {
        name: float(hits / count) if count else None
        for name, hits, count in zip(classes, found, per_class, strict=True)
    }
    return Scores(
        images=len(labels_N),
        correct=int(found.sum()),
        accuracy=float(found.sum() / len(labels_N)),
        recall=recall,
        mean_recall=float(np.mean([value for value in recall.values() if value is not None])),
        confusion=confusion.tolist(),
        ece=calibration_error(logits_NK, labels_N),
    )


def calibration_error(logits_NK: np.ndarray, labels_N: np.ndarray) -> float:
    """Expected calibration error of the softmax of ``logits_NK`` with equal-width bins."""
    bins = confidence_bins(logits_NK, labels_N)
    return sum(inside.images * abs(inside.confidence - inside.accuracy) for inside in bins) / len(labels_N)


@dataclass(frozen=True, kw_only=True)
class ConfidenceBin:
    """The images whose confidence lies in one interval."""

    images: int
    confidence: float
    """Their mean."""
    accuracy: float
    """The share of them that is right."""


def confidence_bins(logits_NK: np.ndarray, labels_N: np.ndarray) -> list[ConfidenceBin]:
    """Of equally wide intervals of confidence those that have images, in order."""
    confidence = softmax(logits_NK.astype(np.float64), axis=1).max(axis=1)
    right = logits_NK.argmax(axis=1) == labels_N
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    return [
        ConfidenceBin(
            images=int(inside.sum()), confidence=float(confidence[inside].mean()), accuracy=float(right[inside].mean())
        )
        for inside in (bins == number for number in np.unique(bins))
    ]


def evaluation_subset(count: int, limit: int, seed: int) -> np.ndarray:
    """At most ``limit`` of the indices below ``count``, sorted: the same for the same arguments, in every run."""
    if count <= limit:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, limit, replace=False))


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a network says of N images, float32."""

    logits_NK: np.ndarray
    domain_logits_N: np.ndarray
    """Above 0 means target."""
    features_ND: np.ndarray


@torch.no_grad()
def outputs(
    network: DomainAdversarialNetwork,
    images: ImageSet,
    *,
    device: torch.device,
    domain: int = TARGET,
    batch_size: int = 256,
) -> Outputs:
    """The outputs for every image, in order, with the batch statistics of ``domain``."""
    labels, domains, features = [], [], []
    with evaluating(network):
        for pixels_NHWC in batches(images, batch_size):
            features_ND = network.features(to_float(torch.from_numpy(pixels_NHWC).to(device)), domain)
            logits_NK = network.label_classifier(features_ND)
            labels.append(logits_NK.cpu().numpy())
            domains.append(network.domain_logits(features_ND, logits_NK).cpu().numpy())
            features.append(features_ND.cpu().numpy())
    return Outputs(
        logits_NK=np.concatenate(labels), domain_logits_N=np.concatenate(domains), features_ND=np.concatenate(features)
    )


def batches(images: ImageSet, batch_size: int = 256) -> Iterator[np.ndarray]:
    """All images in order, uint8 (n, H, W, 3), at most ``batch_size`` at a time."""
    for start in range(0, len(images), batch_size):
        yield images.read(np.arange(start, min(start + batch_size, len(images))))


def to_float(pixels_NHWC: torch.Tensor) -> torch.Tensor:
    """uint8 (N, H, W, 3) → float32 (N, 3, H, W) in [0, 1]."""
    return pixels_NHWC.permute(0, 3, 1, 2).float() / 255


@dataclass(frozen=True, kw_only=True)
class DomainScores:
    """Scores on the labelled sets at hand, and on telling their domains apart."""

    source: Scores | None
    target: Scores | None
    domain_accuracy: float | None
    """Mean over both domains of the share that the domain classifier tells rightly; 0.5 is chance. ``None`` without a
    trained domain classifier, or without images of both domains."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(
    network: DomainAdversarialNetwork,
    *,
    source: LabelledSet | None,
    target: LabelledSet | None,
    classes: tuple[str, ...],
    adapted: bool,
    device: torch.device,
) -> DomainScores:
    """Evaluate on whichever of the two sets is there, each with the batch statistics of its domain.

    ``adapted`` says whether the domain classifier was trained.
    """
    of_source = outputs(network, source.images, device=device, domain=SOURCE) if source is not None else None
    of_target = outputs(network, target.images, device=device, domain=TARGET) if target is not None else None
    return domain_scores(source, of_source, target, of_target, classes=classes, adapted=adapted)


def domain_scores(
    source: LabelledSet | None,
    of_source: Outputs | None,
    target: LabelledSet | None,
    of_target: Outputs | None,
    *,
    classes: tuple[str, ...],
    adapted: bool,
) -> DomainScores:
    """The scores of outputs that are already there."""
    domain_accuracy = None
    if adapted and of_source is not None and of_target is not None:
        domain_accuracy = told(of_source, of_target)
    return DomainScores(
        source=scores(of_source.logits_NK, source.labels, classes)
        if source is not None and of_source is not None
        else None,
        target=scores(of_target.logits_NK, target.labels, classes)
        if target is not None and of_target is not None
        else None,
        domain_accuracy=domain_accuracy,
    )


def told(of_source: Outputs, of_target: Outputs) -> float:
    """Mean over both domains of the share whose domain is told rightly; 0.5 is chance."""
    return float(0.5 * ((of_source.domain_logits_N < 0).mean() + (of_target.domain_logits_N >= 0).mean()))
