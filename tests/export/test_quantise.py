"""Graphs in int8: what they compute, what is in them, and what TensorRT for RTX makes of them."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from dann.export.engine_builder import build_engine
from dann.export.network import ExportedModule, InferenceNetwork
from dann.export.onnx_graph import OnnxGraph, to_onnx
from dann.export.precisions import in_precision
from dann.export.quantise import quantise, quantise_within
from dann.export.settings import BatchRange
from dann.infer.errors import DannError, UsageError
from dann.infer.tensorrt_names import TensorRT
from dann.train.model import DomainAdversarialNetwork
from dann.train.settings import ModelConfig

SIZE = 32
LAYERS = [
    *(f"feature_extractor.1.{index}" for index in (0, 5, 10, 13, 18, 21)),
    "label_classifier.0",
    "label_classifier.3",
]
BATCH = BatchRange(min=1, opt=2, max=4)
METADATA = {"classes": '["bus", "car", "van"]'}
IMAGES = np.random.default_rng(0).integers(0, 256, (48, 4, 4, 3), np.uint8).repeat(8, axis=1).repeat(8, axis=2)


@pytest.fixture(scope="module")
def network() -> DomainAdversarialNetwork:
    """Random weights, and a most probable class that is not the same for all images."""
    torch.manual_seed(0)
    network = DomainAdversarialNetwork(ModelConfig(backbone="conv6", width=0.25), classes=3, height=SIZE, width=SIZE)
    with torch.no_grad():
        for _ in range(20):
            network.feature_extractor(torch.from_numpy(IMAGES).permute(0, 3, 1, 2) / 255)
        last = network.eval().label_classifier[-1]
        assert isinstance(last, nn.Linear)
        last.bias -= InferenceNetwork(network)(torch.from_numpy(IMAGES))[0].mean(0)
    return network


@pytest.fixture(scope="module")
def logits(network: DomainAdversarialNetwork) -> np.ndarray:
    """Those of the network in float32."""
    with torch.no_grad():
        return InferenceNetwork(network)(torch.from_numpy(IMAGES))[0].numpy()


@pytest.fixture(scope="module")
def graph(network: DomainAdversarialNetwork) -> OnnxGraph:
    return to_onnx(InferenceNetwork(in_precision(network, "fp16")), torch.from_numpy(IMAGES[:2]), METADATA)


@pytest.fixture(scope="module")
def quantised(graph: OnnxGraph) -> OnnxGraph:
    return quantise(graph, IMAGES)


@pytest.fixture
def trt() -> TensorRT:
    rtx = pytest.importorskip("tensorrt_rtx", reason='needs TensorRT for RTX: pip install "dann[trt-rtx]"')
    return TensorRT("tensorrt-rtx", rtx)


def run(graph: OnnxGraph, inputs: np.ndarray) -> np.ndarray:
    """The first output in a session as anybody would open it."""
    session = onnxruntime.InferenceSession(graph.data, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {graph.inputs[0].name: inputs})[0])


def relative_error(given: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(given - expected) / np.linalg.norm(expected))


def agreement(given: np.ndarray, expected: np.ndarray) -> float:
    return float((given.argmax(1) == expected.argmax(1)).mean())


def changed(graph: OnnxGraph, **factors: tuple[Any, float]) -> OnnxGraph:
    """With parts of constants, by name and index, multiplied."""
    model = onnx.load_from_string(graph.data)
    for tensor in model.graph.initializer:
        if tensor.name in factors:
            index, factor = factors[tensor.name]
            array = numpy_helper.to_array(tensor).copy()
            array[index] *= factor
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return replace(graph, data=model.SerializeToString())


def engine_layers(trt: TensorRT, graph: OnnxGraph) -> dict[str, int]:
    return build_engine(trt, graph.data, precision="int8", batch=BATCH).layers


def multiplying(graph: OnnxGraph) -> dict[str, tuple[onnx.NodeProto, list[str]]]:
    """By layer: its node, and what made its input and its weight."""
    model = onnx.load_from_string(graph.data)
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    made_by |= {tensor.name: "constant" for tensor in model.graph.initializer}
    return {
        node.input[1].removesuffix(".dequantised").removesuffix(".weight"): (node, [made_by[n] for n in node.input[:2]])
        for node in model.graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul")
    }


def test_computes_what_the_network_computes(graph: OnnxGraph, quantised: OnnxGraph, logits: np.ndarray):
    in_float16, given = run(graph, IMAGES), run(quantised, IMAGES)
    assert relative_error(in_float16, logits) < relative_error(given, logits) < 0.2
    assert agreement(given, logits) > 0.9


def test_every_layer_multiplies_what_comes_from_int8(graph: OnnxGraph, quantised: OnnxGraph):
    found = multiplying(quantised)
    assert list(found) == list(multiplying(graph)) == LAYERS
    assert all(factors == ["DequantizeLinear"] * 2 for _, factors in found.values())
    assert len(quantised.data) < 0.6 * len(graph.data)


def test_weights_are_rounded_by_channel_and_biases_are_not(graph: OnnxGraph, quantised: OnnxGraph):
    constants = {t.name: t for t in onnx.load_from_string(quantised.data).graph.initializer}
    before = {t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(graph.data).graph.initializer}
    assert TensorProto.INT32 not in {tensor.data_type for tensor in constants.values()}
    for layer, (node, _) in multiplying(quantised).items():
        name = f"{layer}.weight"
        weight = before[name].astype(np.float32)
        integers, scales = (numpy_helper.to_array(constants[f"{name}.{part}"]) for part in ("int8", "scale"))
        assert name not in constants and integers.dtype == np.int8 and scales.shape == weight.shape[:1]
        step = scales.astype(np.float32).reshape(-1, *[1] * (weight.ndim - 1))
        assert np.abs(integers * step - weight).max() <= 0.53 * step.max(), layer
        assert (np.abs(integers).reshape(len(integers), -1).max(1) == 64).all(), (
            layer
        )  # more would overflow on CPUs without VNNI
        np.testing.assert_array_equal(numpy_helper.to_array(constants[node.input[2]]).ravel(), before[node.input[2]])


def test_says_of_itself_what_the_graph_says(graph: OnnxGraph, quantised: OnnxGraph):
    model = onnx.load_from_string(quantised.data)
    assert {entry.key: entry.value for entry in model.metadata_props} == METADATA
    assert (quantised.opset, quantised.inputs, quantised.outputs) == (graph.opset, graph.inputs, graph.outputs)


def test_same_images_give_the_same_bytes(graph: OnnxGraph, quantised: OnnxGraph):
    assert quantise(graph, IMAGES.copy()).data == quantised.data


@pytest.mark.slow
def test_another_process_writes_the_same_bytes_and_no_file(graph: OnnxGraph, quantised: OnnxGraph, tmp_path: Path):
    files = {"graph.onnx": graph.data, "images.bin": IMAGES.tobytes()}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    code = f"""if True:
        import hashlib, numpy
        from types import SimpleNamespace
        from dann.export.onnx_graph import OnnxGraph
        from dann.export.quantise import quantise
        takes = (SimpleNamespace(name="images"),)
        graph = OnnxGraph(data=open("graph.onnx", "rb").read(), opset=20, inputs=takes, outputs=(), program=None)
        images = numpy.fromfile("images.bin", "uint8").reshape({IMAGES.shape})
        print(hashlib.sha256(quantise(graph, images).data).hexdigest())
    """
    environment = {**os.environ, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    other = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert (other.stdout.strip(), other.stderr) == (hashlib.sha256(quantised.data).hexdigest(), "")
    assert {path.name for path in tmp_path.iterdir()} - {".ses"} == set(files)  # onnxruntime's, when it is imported


def check_works(trt: TensorRT, quantised: OnnxGraph) -> None:
    assert np.isfinite(run(quantised, IMAGES)).all()
    for tensor in onnx.load_from_string(quantised.data).graph.initializer:
        if tensor.name.endswith(".scale"):
            scales = numpy_helper.to_array(tensor)
            assert np.isfinite(scales).all() and (scales > 0).all(), tensor.name
    assert engine_layers(trt, quantised) == {"INT8": len(LAYERS)}


@pytest.mark.parametrize(
    "images",
    [IMAGES[:1], np.zeros_like(IMAGES[:3]), np.full_like(IMAGES[:1], 255)],
    ids=["one", "black", "constant"],
)
def test_poor_images_give_a_graph_that_works(trt: TensorRT, graph: OnnxGraph, images: np.ndarray):
    check_works(trt, quantise(graph, images))


def test_dead_layers_give_a_graph_that_works(trt: TensorRT, graph: OnnxGraph):
    everything = (slice(None), 0)
    dead = changed(graph, **{f"{LAYERS[0]}.weight": everything, f"{LAYERS[0]}.weight_bias": everything})
    quantised = quantise(dead, IMAGES)
    check_works(trt, quantised)
    assert relative_error(run(quantised, IMAGES), run(dead, IMAGES)) < 0.2


def test_small_weights_beside_a_large_bias(graph: OnnxGraph):
    # by default onnxruntime divides a bias by the scales, in float16
    graph = changed(graph, **{f"{LAYERS[6]}.weight": (slice(None), 1e-3), f"{LAYERS[6]}.bias": (slice(None), 30)})
    assert relative_error(run(quantise(graph, IMAGES), IMAGES), run(graph, IMAGES)) < 0.02


def test_what_is_kept_stays_in_float16(trt: TensorRT, graph: OnnxGraph):
    kept = {LAYERS[0], LAYERS[3], "no layer"}
    quantised = quantise(graph, IMAGES, keep=kept)
    in_float16 = [name for name, (_, factors) in multiplying(quantised).items() if "DequantizeLinear" not in factors]
    assert in_float16 == [LAYERS[0], LAYERS[3]]
    assert engine_layers(trt, quantised) == {"INT8": len(LAYERS) - 2, "HALF": 2}


def test_only_what_multiplies_in_int8_is_called_so(trt: TensorRT, graph: OnnxGraph, quantised: OnnxGraph):
    weights_only = onnx.load_from_string(quantised.data)
    for node in weights_only.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            node.input[0] = node.input[0].removesuffix(".dequantised")
    for content in (graph.data, weights_only.SerializeToString()):
        with pytest.raises(DannError, match=r"the graph of int8 has layers that compute in {'HALF': 8}; expected INT8"):
            build_engine(trt, content, precision="int8", batch=BATCH)
    with pytest.raises(DannError, match=r"the graph of fp16 has layers that compute in {'INT8': 8}; expected HALF"):
        build_engine(trt, quantised.data, precision="fp16", batch=BATCH)


class Residual(ExportedModule):
    """A sum around a convolution, one weight used twice, and a product with a matrix on its right."""

    role = "classifier"
    output_names = ("logits",)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Linear(8, 6)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        x = self.first(images.permute(0, 3, 1, 2).half()).relu()
        x = self.second(self.second(x).relu()) + x
        x = x.flatten(2).transpose(1, 2)
        return ((self.last(x).relu().mean(1) + self.last(x.mean(1))).float(),)


def test_sums_products_and_shared_weights(trt: TensorRT):
    torch.manual_seed(0)
    images = (IMAGES / 255).astype(np.float32)
    graph = to_onnx(Residual().half(), torch.from_numpy(images[:2]), {})
    quantised = quantise(graph, images)
    assert relative_error(run(quantised, images), run(graph, images)) < 0.1
    model = onnx.load_from_string(quantised.data)
    back = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    (total,) = (node for node in model.graph.node if node.op_type == "Add" and "conv2d_2" in node.input)
    assert len(back.intersection(total.input)) == 1
    scales = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer if tensor.name.endswith(".scale")}
    assert sorted(size for size in scales.values() if size) == [[6], [6], [8], [8]]  # a matrix on the right is (8, 6)
    assert engine_layers(trt, quantised) == {"INT8": 5}


def test_nothing_is_kept_where_nothing_is_lost(graph: OnnxGraph, quantised: OnnxGraph, logits: np.ndarray):
    found = quantise_within(graph, IMAGES, logits, agreement=0.9)
    assert (found.kept, found.layers, found.graph.data) == ((), len(LAYERS), quantised.data)


def test_the_layer_that_loses_most_is_kept_and_no_other(graph: OnnxGraph, logits: np.ndarray):
    # one channel between two layers 400 times as large, to no effect but on the scale of all the others
    third, fourth = (f"{layer}.weight" for layer in LAYERS[2:4])
    swollen = changed(graph, **{third: (0, 400), f"{third}_bias": (0, 400), fourth: ((slice(None), 0), 1 / 400)})
    assert relative_error(run(swollen, IMAGES), logits) < 0.02
    found = quantise_within(swollen, IMAGES, logits, agreement=0.9)
    assert (found.kept, found.layers) == ((LAYERS[3],), len(LAYERS) - 1)
    assert found.graph.data == quantise(swollen, IMAGES, keep=found.kept).data
    assert agreement(run(quantise(swollen, IMAGES), IMAGES), logits) < 0.9 <= found.agreement
    assert found.agreement == agreement(run(found.graph, IMAGES), logits)


def test_what_no_layer_can_reach_is_refused(graph: OnnxGraph, logits: np.ndarray):
    with pytest.raises(DannError, match=r"int8 keeps .* of 48 images, expected 90.0%.*export --precision fp16"):
        quantise_within(graph, IMAGES, -logits, agreement=0.9)


def test_without_images_there_is_nothing_to_calibrate_on(graph: OnnxGraph):
    with pytest.raises(UsageError, match="int8 has no images"):
        quantise(graph, IMAGES[:0])


def test_numbers_that_are_not_finite_are_refused(graph: OnnxGraph):
    with pytest.raises(DannError, match="not finite"):
        quantise(changed(graph, **{f"{LAYERS[1]}.weight": (slice(None), 3e4)}), IMAGES)
