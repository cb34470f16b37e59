"""The layer where an exported graph leaves the trained network is found by what is wrong there, and by its name."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from dann.export.first_difference import LayerDifference, first_difference
from dann.export.network import ExportedModule, InferenceNetwork, LabelClassifier
from dann.export.onnx_graph import OnnxGraph, to_onnx
from dann.export.precisions import in_precision
from dann.export.quantise import quantise
from dann.infer.errors import DannError
from dann.train.model import DomainAdversarialNetwork
from dann.train.settings import ModelConfig

SIZE = 32
FEATURES = 300  # of the network below
IMAGES = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)


def network_of(backbone: str, **settings: object) -> DomainAdversarialNetwork:
    """A network with random weights, and batch statistics that are not the initial 0 and 1."""
    torch.manual_seed(0)
    config = ModelConfig(backbone=backbone, **settings)  # pyright: ignore[reportArgumentType]
    network = DomainAdversarialNetwork(config, classes=3, height=SIZE, width=SIZE)
    with torch.no_grad():
        network.feature_extractor(torch.rand(8, 3, SIZE, SIZE))
    return network.eval()


def export(module: ExportedModule, inputs: np.ndarray = IMAGES) -> OnnxGraph:
    return to_onnx(module, torch.from_numpy(inputs[:2]), {})


def changed(graph: OnnxGraph, initializer: Callable[[onnx.GraphProto], str], change: Callable) -> OnnxGraph:
    """The ONNX file of ``graph`` with one of its initializers changed."""
    model = onnx.load_from_string(graph.data)
    name = initializer(model.graph)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(change(values).astype(values.dtype), name))
    return replace(graph, data=model.SerializeToString())


def weight(operation: str, index: int) -> Callable[[onnx.GraphProto], str]:
    """A function from a graph to the name of a weight in it, quantised or not."""

    def name(graph: onnx.GraphProto) -> str:
        quantised = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
        found = [node.input[1] for node in graph.node if node.op_type == operation][index]
        return quantised.get(found, found)

    return name


def one_channel_off(values: np.ndarray) -> np.ndarray:
    return np.concatenate([-values[:1], values[1:]])


def layers_of(module: nn.Module, kind: type[nn.Module]) -> list[str]:
    return [name for name, layer in module.named_modules() if isinstance(layer, kind)]


@pytest.fixture(scope="module")
def network() -> DomainAdversarialNetwork:
    return network_of("dann-mnist", width=0.25, label_hidden=(8, 8))


@pytest.fixture(scope="module")
def reference(network: DomainAdversarialNetwork) -> InferenceNetwork:
    return InferenceNetwork(network, with_features=True)


@pytest.fixture(scope="module")
def single(reference: InferenceNetwork) -> OnnxGraph:
    return export(reference)


@pytest.fixture(scope="module")
def half(network: DomainAdversarialNetwork) -> OnnxGraph:
    return export(InferenceNetwork(in_precision(network, "fp16"), with_features=True))


@pytest.fixture(scope="module")
def quantised(half: OnnxGraph) -> OnnxGraph:
    return quantise(half, IMAGES)


def test_float32_without_damage_is_within_rounding_everywhere(reference: InferenceNetwork, single: OnnxGraph):
    found = first_difference(reference, single, IMAGES, tolerance=1e-4)
    assert not found.over
    assert 0 < found.difference < 1e-5


@pytest.mark.parametrize(("precision", "least", "most"), [("half", 1e-4, 0.01), ("quantised", 0.002, 0.05)])
def test_coarser_numbers_without_damage_are_near(
    reference: InferenceNetwork, precision: str, least: float, most: float, request: pytest.FixtureRequest
):
    exported: OnnxGraph = request.getfixturevalue(precision)
    found = first_difference(reference, exported, IMAGES, tolerance=most)
    assert not found.over
    assert found.difference > least


@pytest.mark.parametrize(
    ("operation", "index", "kinds"),
    [("Conv", 1, (nn.Conv2d, nn.BatchNorm2d)), ("Gemm", 1, (nn.Linear,)), ("Gemm", 2, (nn.Linear,))],
    ids=["convolution", "linear", "last linear, whose value has the name of an output"],
)
@pytest.mark.parametrize(("precision", "tolerance"), [("single", 1e-4), ("half", 0.01), ("quantised", 0.05)])
def test_changed_weight_is_found_where_it_is(
    reference: InferenceNetwork,
    precision: str,
    tolerance: float,
    operation: str,
    index: int,
    kinds: tuple[type[nn.Module], ...],
    request: pytest.FixtureRequest,
):
    exported: OnnxGraph = request.getfixturevalue(precision)
    graph = changed(exported, weight(operation, index), one_channel_off)
    found = first_difference(reference, graph, IMAGES, tolerance=tolerance)
    assert found.over
    # what is not in the graph, as dropout, is named with what comes after it
    assert found.layers[-len(kinds) :] == tuple(layers_of(reference, kind)[index] for kind in kinds)


def test_scale_that_cuts_off_a_layers_values_is_found_at_that_layer(reference: InferenceNetwork, quantised: OnnxGraph):
    def scale_after_pooling(graph: onnx.GraphProto) -> str:
        pooled = next(node.output[0] for node in graph.node if node.op_type == "MaxPool")
        return next(
            node.input[1] for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == pooled
        )

    graph = changed(quantised, scale_after_pooling, lambda scale: scale / 10)
    found = first_difference(reference, graph, IMAGES, tolerance=0.2)
    assert found.over
    assert found.layers == (layers_of(reference, nn.MaxPool2d)[0],)


def test_number_that_half_precision_cannot_hold_is_found_where_it_arises(network: DomainAdversarialNetwork):
    network = deepcopy(network)
    [_, normalisation] = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    for tensor in normalisation.parameters():
        nn.init.constant_(tensor, 6e4)  # float16 ends at 65504
    reference, module = (InferenceNetwork(in_precision(network, precision)) for precision in ("fp32", "fp16"))
    half = export(module)
    found = first_difference(reference, half, IMAGES, tolerance=0.01)
    assert found.layers == (layers_of(reference, nn.Conv2d)[1], layers_of(reference, nn.BatchNorm2d)[1])
    assert str(found) == (
        f"first layer over tolerance: {' + '.join(found.layers)} ({found.value}): not every value is finite"
    )


def test_weights_are_those_of_the_reference(network: DomainAdversarialNetwork, half: OnnxGraph):
    network = deepcopy(network)
    linear = [layer for layer in network.label_classifier if isinstance(layer, nn.Linear)][1]
    with torch.no_grad():
        for tensor in linear.parameters():
            tensor *= 2
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as it is trained
    found = first_difference(InferenceNetwork(network), half, IMAGES, tolerance=0.01)
    assert found.layers[-1:] == (layers_of(network, nn.Linear)[1],)
    assert found.difference == pytest.approx(0.5, abs=0.01)


def test_half_of_a_network_takes_features(network: DomainAdversarialNetwork):
    module = LabelClassifier(network)
    features = np.random.default_rng(0).normal(size=(4, FEATURES)).astype(np.float32)
    exported = export(module, features)
    found = first_difference(module, exported, features, tolerance=1e-4)
    assert not found.over
    graph = changed(exported, weight("Gemm", 1), one_channel_off)
    found = first_difference(module, graph, features, tolerance=1e-4)
    assert found.layers[-1:] == (layers_of(module, nn.Linear)[1],)


def test_graph_that_onnxruntime_refuses_is_an_error(reference: InferenceNetwork, single: OnnxGraph):
    model = onnx.load_from_string(single.data)
    model.graph.node[-1].op_type = "NoSuchOperation"
    with pytest.raises(DannError, match="onnxruntime cannot run the exported graph: .*NoSuchOperation"):
        first_difference(reference, replace(single, data=model.SerializeToString()), IMAGES, tolerance=1e-4)


def test_message_reads_as_a_sentence():
    found = LayerDifference(
        layers=("feature_extractor.1.6", "feature_extractor.1.7"), value="conv2d_3", difference=0.12, tolerance=0.01
    )
    assert str(found) == (
        "first layer over tolerance: feature_extractor.1.6 + feature_extractor.1.7 (conv2d_3): "
        "largest difference 12% of its largest value (tolerance 1%)"
    )
    within = LayerDifference(layers=(), value="probabilities", difference=2e-6, tolerance=1e-4)
    assert str(within) == (
        "no layer is over tolerance, the farthest is: probabilities: "
        "largest difference 0.0002% of its largest value (tolerance 0.01%)"
    )


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("backbone", ["conv6", "resnet18", "mobilenet_v3_small"])
def test_every_layer_that_is_damaged_is_found(backbone: str, precision: str):
    network = network_of(backbone)
    reference, module = (InferenceNetwork(in_precision(network, name)) for name in ("fp32", precision))
    exported = export(module)
    tolerance = {"fp32": 1e-4, "fp16": 0.01}[precision]
    found = first_difference(reference, exported, IMAGES, tolerance=tolerance)
    assert not found.over
    for index, convolution in enumerate(layers_of(reference, nn.Conv2d)):
        graph = changed(exported, weight("Conv", index), lambda values: values * 10)
        found = first_difference(reference, graph, IMAGES, tolerance=tolerance)
        assert convolution in found.layers
