"""The run's network as ONNX, in any precision.

The precision is in the graph itself (TensorRT calls that strongly typed): no runtime has to be told, and none can
choose another.
"""

from collections.abc import Mapping
from copy import deepcopy
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from dann.export.network import ExportedModule, FeatureExtractor, InferenceNetwork, LabelClassifier
from dann.export.onnx_graph import OnnxGraph, to_onnx
from dann.train.model import DomainAdversarialNetwork


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


class OnnxGraphs:
    """The graphs of one export, each made once.

    ``metadata`` is stored in all of them; ``example_NHWC`` is two images, uint8 RGB.
    """

    def __init__(
        self,
        network: DomainAdversarialNetwork,
        example_NHWC: np.ndarray,
        metadata: Mapping[str, str],
        *,
        with_features: bool,
    ):
        self._network = network
        self._example = torch.from_numpy(example_NHWC)
        self._metadata = metadata
        self._with_features = with_features
        self.graphs = cache(self._graphs)

    def modules(self, precision: str, *, split: bool) -> list[ExportedModule]:
        """The network in ``fp32`` or ``fp16``: whole, or as two halves of which the first feeds the second."""
        network = in_precision(self._network, precision)
        if split:
            return [FeatureExtractor(network), LabelClassifier(network)]
        return [InferenceNetwork(network, with_features=self._with_features)]

    def _graphs(self, precision: str, split: bool) -> list[tuple[str, OnnxGraph]]:
        """Role and graph of the network, or of its halves."""
        found = []
        inputs = self._example
        for module in self.modules(precision, split=split):
            found.append((module.role, to_onnx(module, inputs, self._metadata)))
            with torch.inference_mode():
                inputs = module(inputs)[0]
        return found
