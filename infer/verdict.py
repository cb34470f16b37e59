"""The verdict: does an artefact still answer as the network that was trained?

Every image goes through the artefact once per batch size, since engines have been wrong at some batch sizes only. At
the export the reference is the trained network in float32 on the CPU; on another machine it is what the artefact
itself answered at the export, for the images in ``verify.npz``.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

BATCH_SIZES = (1, 2, 3, 32)

Execute = Callable[[np.ndarray], dict[str, np.ndarray]]
"""Outputs by name, float32 (N, …), for uint8 RGB images (N, H, W, 3)."""


@dataclass(frozen=True, kw_only=True)
class Standard:
    """What an artefact has to reach beside its reference."""

    largest_difference: float | None = None
    """Of a logit or a probability; of a feature, relative to the largest one. ``None``: any that is finite."""
    largest_share: float | None = None
    """Of a logit, as a share of the largest one. ``None``: any."""
    tie: float
    """An image whose two most probable classes are closer, as a share of the largest logit of all, is not counted."""
    agreement: float
    """Share of the images that have to have the same most probable class."""
    accuracy_drop: float | None = None
    """Most points of accuracy to lose, where labels are known; ``None``: any."""


STANDARDS = {
    "fp32": Standard(largest_difference=1e-4, tie=0.0, agreement=1.0),
    "fp16": Standard(largest_difference=None, tie=2**-8, agreement=0.999),  # eight times its rounding
    "bf16": Standard(largest_difference=None, tie=2**-5, agreement=0.999),  # likewise
    "int8": Standard(largest_difference=None, tie=0.0, agreement=0.98, accuracy_drop=1.0),
}
"""By precision, beside the trained network in float32."""

ELSEWHERE = {
    precision: Standard(largest_share=share, tie=2 * share, agreement=1.0)
    for precision, share in {"fp32": 1e-4, "fp16": 2**-6, "bf16": 2**-4, "int8": 2**-4}.items()
}
"""By precision, beside the same precision where the bundle was made: another runtime on another device may round at
other places, but is no other network."""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Images whose class is known, and what the trained network says of them."""

    images_NHWC: np.ndarray
    labels_N: np.ndarray
    logits_NK: np.ndarray


@dataclass(frozen=True, kw_only=True)
class AccuracyDrop:
    """How much less often an artefact is right than the trained network, on the same images."""

    points: float
    """Hundredths of the images; negative where the artefact is right more often."""
    low: float
    high: float
    """The 95 % interval, in points (Agresti and Min 2005: Wald's for matched pairs, with half an image more in each
    cell)."""
    images: int

    def __str__(self) -> str:
        return (
            f"accuracy {0 - self.points:+.1f} points (95 %: {0 - self.high:+.1f} to {0 - self.low:+.1f}) "
            f"on {self.images} labelled images"
        )


def accuracy_drop(labelled: Labelled, logits_NK: np.ndarray) -> AccuracyDrop:
    """Of an artefact that answers ``logits_NK`` for the images of ``labelled``."""
    right_before, right_now = (each.argmax(1) == labelled.labels_N for each in (labelled.logits_NK, logits_NK))
    lost, won = int((right_before & ~right_now).sum()), int((right_now & ~right_before).sum())
    count = len(labelled.labels_N)
    middle, cells = (lost - won) / (count + 2), lost + won + 1
    margin = 1.96 * np.sqrt(cells - (lost - won) ** 2 / (count + 2)) / (count + 2)
    return AccuracyDrop(
        points=100 * (lost - won) / count,
        low=100 * float(middle - margin),
        high=100 * float(middle + margin),
        images=count,
    )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How an artefact compares with its reference."""

    passed: bool
    """Whether it reaches its :class:`Standard`, and every number is finite."""
    tolerance: float | None
    """Largest difference that is allowed of a logit or a probability; ``None`` where any is."""
    max_abs_logit_difference: float
    max_abs_probability_difference: float | None
    """``None`` where the reference has none; so it is with features."""
    max_rel_feature_difference: float | None
    """Relative to the largest feature; ``None`` for an artefact without features."""
    top1_agreement: float
    """Share of the images, ties not counted, with the same most probable class, in the worst batch size; 0 to 1."""
    ties: tuple[int, ...]
    """Positions of the images whose two most probable classes the reference holds for nearly as probable."""
    accuracy_drop: AccuracyDrop | None
    """``None`` where no labels are known."""
    images: int
    batch_sizes: tuple[int, ...]
    executor: str
    """What ran the artefact: ``onnxruntime 1.31.1 CPU``."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        counted = self.images - len(self.ties)
        tolerance = "" if self.tolerance is None else f" (tolerance {self.tolerance:.0e})"
        ties = f" ({len(self.ties)} more are ties)" if self.ties else ""
        return (
            f"{'passed' if self.passed else 'FAILED'}, max |Δ logit| {self.max_abs_logit_difference:.1e}{tolerance}, "
            f"same top-1 on {round(self.top1_agreement * counted)} of {counted} images{ties}, "
            + (f"{self.accuracy_drop}, " if self.accuracy_drop else "")
            + f"batches {', '.join(map(str, self.batch_sizes))}, {self.executor}"
        )


def compare(
    reference: dict[str, np.ndarray],
    execute: Execute,
    images_NHWC: np.ndarray,
    *,
    executor: str,
    standard: Standard = STANDARDS["fp32"],
    batch_sizes: Sequence[int] = BATCH_SIZES,
    labelled: Labelled | None = None,
) -> Verdict:
    """The verdict on ``execute`` against ``reference``, the outputs by name that are expected for these images.

    Only outputs that the reference has are compared; ``logits`` have to be there. ``labelled`` adds the accuracy that
    is lost on other images.
    """
    ties = _ties(reference["logits"], standard.tie)
    counted = np.setdiff1d(np.arange(len(images_NHWC)), ties)
    uncounted = 1.0 if standard.largest_share else 0.0  # where all are ties, only bounded numbers say something
    differences: dict[str, list[float]] = {}
    agreements = []
    for batch_size in batch_sizes:
        given = run_in_batches(execute, images_NHWC, batch_size)
        for name in given.keys() & reference.keys():
            values = given[name]
            differences.setdefault(name, []).append(float(np.abs(values - reference[name]).max()))
        agreeing = given["logits"].argmax(1) == reference["logits"].argmax(1)
        agreements.append(float(agreeing[counted].mean()) if len(counted) else uncounted)
    # np.max, unlike max, lets a NaN through, and no comparison with a NaN is true
    largest = {name: float(np.max(values)) for name, values in differences.items()}
    if "features" in largest:
        largest["features"] /= max(float(np.abs(reference["features"]).max()), 1e-12)
    share = largest["logits"] / max(float(np.abs(reference["logits"]).max()), 1e-12)
    drop = None
    if labelled is not None:
        logits_NK = run_in_batches(execute, labelled.images_NHWC, max(batch_sizes))["logits"]
        drop = accuracy_drop(labelled, logits_NK)
    return Verdict(
        passed=all(np.isfinite(value) and _within(value, standard.largest_difference) for value in largest.values())
        and _within(share, standard.largest_share)
        and min(agreements) >= standard.agreement
        and (drop is None or _within(drop.points, standard.accuracy_drop)),
        tolerance=standard.largest_difference,
        max_abs_logit_difference=largest["logits"],
        max_abs_probability_difference=largest.get("probabilities"),
        max_rel_feature_difference=largest.get("features"),
        top1_agreement=min(agreements),
        ties=ties,
        images=len(images_NHWC),
        accuracy_drop=drop,
        batch_sizes=tuple(batch_sizes),
        executor=executor,
    )


def _within(value: float, limit: float | None) -> bool:
    return limit is None or value <= limit


def _ties(logits_NK: np.ndarray, share: float) -> tuple[int, ...]:
    """Positions of the images whose best class leads by less than ``share`` of the largest logit."""
    second_N, first_N = np.sort(logits_NK, axis=1)[:, -2:].T
    return tuple(np.flatnonzero(first_N - second_N < share * np.abs(logits_NK).max()).tolist())


def run_in_batches(execute: Execute, images_NHWC: np.ndarray, batch_size: int) -> dict[str, np.ndarray]:
    """The outputs for every image; the last batch is filled up, and what filled it dropped."""
    count = len(images_NHWC)
    batches = [
        execute(images_NHWC.take(range(start, start + batch_size), axis=0, mode="wrap"))
        for start in range(0, count, batch_size)
    ]
    return {name: np.concatenate([batch[name] for batch in batches])[:count] for name in batches[0]}
