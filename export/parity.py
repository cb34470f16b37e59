"""The verdict: is an exported artefact still the network that was trained?

Every image goes through the artefact once per batch size, since engines have been wrong at some batch sizes only.
The reference is the trained network in float32 on the CPU.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from dann.export.network import InferenceNetwork
from dann.export.precisions import STANDARDS, Standard

BATCH_SIZES = (1, 2, 3, 32)

Execute = Callable[[np.ndarray], dict[str, np.ndarray]]
"""Outputs by name, float32 (N, …), for uint8 RGB images (N, H, W, 3)."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How an artefact compares with the trained network."""

    passed: bool
    """Whether it reaches its :class:`~dann.export.precisions.Standard`, and every number is finite."""
    tolerance: float | None
    """Largest difference that is allowed of a logit or a probability; ``None`` where any is."""
    max_abs_logit_difference: float
    max_abs_probability_difference: float
    max_rel_feature_difference: float | None
    """Relative to the largest feature; ``None`` for an artefact without features."""
    top1_agreement: float
    """Share of the images, ties not counted, with the same most probable class, in the worst batch size; 0 to 1."""
    ties: tuple[int, ...]
    """Positions of the images whose two most probable classes the trained network holds for nearly as probable."""
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
            f"batches {', '.join(map(str, self.batch_sizes))}, {self.executor}"
        )


def compare(
    reference: dict[str, np.ndarray],
    execute: Execute,
    images_NHWC: np.ndarray,
    *,
    executor: str,
    standard: Standard = STANDARDS["fp32"],
    batch_sizes: tuple[int, ...] = BATCH_SIZES,
) -> Verdict:
    """The verdict on ``execute`` against ``reference``, the trained network's :func:`outputs` for these images."""
    ties = _ties(reference["logits"], standard.tie)
    counted = np.setdiff1d(np.arange(len(images_NHWC)), ties)
    differences: dict[str, list[float]] = {}
    agreements = []
    for batch_size in batch_sizes:
        given = run_in_batches(execute, images_NHWC, batch_size)
        for name, values in given.items():
            differences.setdefault(name, []).append(float(np.abs(values - reference[name]).max()))
        agreeing = given["logits"].argmax(1) == reference["logits"].argmax(1)
        agreements.append(float(agreeing[counted].mean()) if len(counted) else 0.0)
    # np.max, unlike max, lets a NaN through, and no comparison with a NaN is true
    largest = {name: float(np.max(values)) for name, values in differences.items()}
    if "features" in largest:
        largest["features"] /= max(float(np.abs(reference["features"]).max()), 1e-12)
    limit = standard.largest_difference
    return Verdict(
        passed=all(value <= (np.finfo(np.float32).max if limit is None else limit) for value in largest.values())
        and min(agreements) >= standard.agreement,
        tolerance=limit,
        max_abs_logit_difference=largest["logits"],
        max_abs_probability_difference=largest["probabilities"],
        max_rel_feature_difference=largest.get("features"),
        top1_agreement=min(agreements),
        ties=ties,
        images=len(images_NHWC),
        batch_sizes=batch_sizes,
        executor=executor,
    )


def _ties(logits_NK: np.ndarray, share: float) -> tuple[int, ...]:
    """Positions of the images whose best class leads by less than ``share`` of the largest logit."""
    second_N, first_N = np.sort(logits_NK, axis=1)[:, -2:].T
    return tuple(np.flatnonzero(first_N - second_N < share * np.abs(logits_NK).max()).tolist())


@torch.inference_mode()
def outputs(network: InferenceNetwork, images_NHWC: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs of ``network`` by name, float32 (N, …)."""
    network.eval()

    def execute(batch_NHWC: np.ndarray) -> dict[str, np.ndarray]:
        values = network(torch.from_numpy(batch_NHWC))
        return dict(zip(network.output_names, (value.numpy() for value in values), strict=True))

    return run_in_batches(execute, images_NHWC, max(BATCH_SIZES))


def run_in_batches(execute: Execute, images_NHWC: np.ndarray, batch_size: int) -> dict[str, np.ndarray]:
    """The outputs for every image; the last batch is filled up, and what filled it dropped."""
    count = len(images_NHWC)
    batches = [
        execute(images_NHWC.take(range(start, start + batch_size), axis=0, mode="wrap"))
        for start in range(0, count, batch_size)
    ]
    return {name: np.concatenate([batch[name] for batch in batches])[:count] for name in batches[0]}
