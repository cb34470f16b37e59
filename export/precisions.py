"""The run's network as ONNX, in any precision.

The precision is in the graph itself (TensorRT calls that strongly typed): no runtime has to be told, and none can
choose another.
"""

from collections import OrderedDict
from collections.abc import Mapping
from copy import deepcopy
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from dann.export.network import ExportedModule, FeatureExtractor, InferenceNetwork, LabelClassifier, outputs
from dann.export.onnx_graph import OnnxGraph, to_onnx
from dann.export.quantise import Quantised, quantise, quantise_within
from dann.train.model import DomainAdversarialNetwork


def in_precision(network: DomainAdversarialNetwork, precision: str) -> DomainAdversarialNetwork:
    """``network``, or a copy of it that computes in ``precision`` from its scaled input on, for images in float32.

    The scaling stays in float32: local contrast is a difference of nearly equal numbers.
    """
    if precision == "fp32":
        return network
    network = deepcopy(network)
    (first, scaling), *layers = network.feature_extractor.named_children()
    halved = {first: scaling, "to_half": _ToHalf(), **{name: layer.half() for name, layer in layers}}
    network.feature_extractor = nn.Sequential(OrderedDict(halved))
    classifier = {"to_half": _ToHalf(), **dict(network.label_classifier.half().named_children())}
    network.label_classifier = nn.Sequential(OrderedDict(classifier))
    return network


class _ToHalf(nn.Module):
    """It has a name, not a number, so that those of the layers are as in the trained network."""

    def forward(self, x: Tensor) -> Tensor:
        return x.to(torch.float16)


class OnnxGraphs:
    """The graphs of one export, each made once.

    ``metadata`` is stored in all of them; ``images_NHWC``, uint8 RGB, are what int8 is calibrated on.
    """

    def __init__(
        self,
        network: DomainAdversarialNetwork,
        images_NHWC: np.ndarray,
        metadata: Mapping[str, str],
        *,
        with_features: bool,
    ):
        self._network = network
        self._images_NHWC = images_NHWC
        self._metadata = metadata
        self._with_features = with_features
        self.graphs = cache(self._graphs)
        self.quantised = cache(self._quantised)

    def modules(self, precision: str, *, split: bool) -> list[ExportedModule]:
        """The network in ``fp32`` or ``fp16``: whole, or as two halves of which the first feeds the second."""
        network = in_precision(self._network, precision)
        if split:
            return [FeatureExtractor(network), LabelClassifier(network)]
        return [InferenceNetwork(network, with_features=self._with_features)]

    def _graphs(self, precision: str, split: bool) -> list[tuple[str, OnnxGraph]]:
        """Role and graph of the network, or of its halves."""
        if precision == "int8":
            return self._int8(split)
        found = []
        inputs = torch.from_numpy(self._images_NHWC.take(range(2), axis=0, mode="wrap"))
        for module in self.modules(precision, split=split):
            found.append((module.role, to_onnx(module, inputs, self._metadata)))
            with torch.inference_mode():
                inputs = module(inputs)[0]
        return found

    def _quantised(self) -> Quantised:
        """The whole network in int8, and what was left out of it."""
        [(_, graph)] = self.graphs("fp16", False)
        [reference] = self.modules("fp32", split=False)
        return quantise_within(graph, self._images_NHWC, outputs(reference, self._images_NHWC)["logits"])

    def _int8(self, split: bool) -> list[tuple[str, OnnxGraph]]:
        whole = self.quantised()
        if not split:
            return [("classifier", whole.graph)]
        found = []
        inputs = self._images_NHWC
        for (role, graph), module in zip(self.graphs("fp16", True), self.modules("fp32", split=True), strict=True):
            found.append((role, quantise(graph, inputs, keep=whole.kept)))
            inputs = outputs(module, inputs)[module.output_names[0]]
        return found
