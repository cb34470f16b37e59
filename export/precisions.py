"""The precisions of an export: how a network comes to one, and what its artefact has to reach beside the trained one.

The precision is in the graph itself (TensorRT calls that strongly typed): no runtime has to be told, and none can
choose another.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dann.infer.errors import UsageError, unknown_name
from dann.train.model import DomainAdversarialNetwork


@dataclass(frozen=True, kw_only=True)
class Standard:
    """What an artefact has to reach, beside the trained network in float32."""

    largest_difference: float | None
    """Of a logit or a probability; of a feature, relative to the largest one. ``None``: any."""
    tie: float
    """An image whose two most probable classes are closer, as a share of the largest logit of all, is not counted."""
    agreement: float
    """Share of the images that have to have the same most probable class."""


STANDARDS = {
    "fp32": Standard(largest_difference=1e-4, tie=0.0, agreement=1.0),
    "fp16": Standard(largest_difference=None, tie=2**-8, agreement=0.999),  # eight times its rounding
}


def check_precisions(names: Sequence[str]) -> None:
    """Raise :class:`UsageError` for what is no precision, none at all, or one that is named twice."""
    for name in names:
        if name not in STANDARDS:
            raise unknown_name("precision", name, STANDARDS)
    if not names or len(set(names)) < len(names):
        raise UsageError(f"the precisions are {list(names)}; expected one or more, each once")


def in_precision(network: DomainAdversarialNetwork, precision: str) -> DomainAdversarialNetwork:
    """``network``, or a copy of it that computes in ``precision`` from its scaled input on, for images in float32.

    The scaling stays in float32: local contrast is a difference of nearly equal numbers.
    """
    if precision == "fp32":
        return network
    network = deepcopy(network)
    scaling, *layers = network.feature_extractor
    network.feature_extractor = nn.Sequential(scaling, _ToHalf(), *(layer.half() for layer in layers))
    network.label_classifier = nn.Sequential(_ToHalf(), *network.label_classifier).half()
    return network


class _ToHalf(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.to(torch.float16)
