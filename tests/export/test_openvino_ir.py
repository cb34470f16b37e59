"""OpenVINO's format of real exported graphs, run by OpenVINO beside onnxruntime."""

import hashlib
import logging
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from dann.export.network import ExportedModule, FeatureExtractor, InferenceNetwork, LabelClassifier
from dann.export.onnx_graph import OnnxGraph, to_onnx
from dann.infer.errors import DannError
from dann.train.model import DomainAdversarialNetwork
from dann.train.settings import ModelConfig

# not openvino itself, whose import by another than dann reports it to its makers
pytest.importorskip("dann.infer.openvino_engine", reason='needs OpenVINO: pip install "dann[openvino]"')
from dann.export.openvino_ir import OpenVinoIr, to_ir
from dann.infer.openvino_engine import core, openvino

SIZE = 32
ELSEWHERE = """
import hashlib, sys
from pathlib import Path
from dann.export.openvino_ir import to_ir
ir = to_ir(Path(sys.argv[1]).read_bytes(), precision=sys.argv[2])
print(hashlib.sha256(ir.xml + ir.bin).hexdigest())
"""


def pixels(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def by_onnxruntime(onnx: bytes, inputs: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    outputs = session.run(names, {session.get_inputs()[0].name: inputs})
    return dict(zip(names, map(np.asarray, outputs), strict=True))


def compiled(ir: OpenVinoIr) -> openvino.CompiledModel:
    model = core().read_model(ir.xml, openvino.Tensor(np.frombuffer(ir.bin, np.uint8).copy()))
    return core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def by_openvino(ir: OpenVinoIr, inputs: np.ndarray) -> dict[str, np.ndarray]:
    return {tensor.get_any_name(): values for tensor, values in compiled(ir)(inputs).items()}


@pytest.fixture(scope="module")
def network() -> DomainAdversarialNetwork:
    """Random weights, and batch statistics that are not the initial 0 and 1."""
    torch.manual_seed(0)
    settings = ModelConfig(backbone="conv6", width=0.5, normalise="imagenet")
    network = DomainAdversarialNetwork(settings, classes=3, height=SIZE, width=SIZE)
    with torch.no_grad():
        for _ in range(3):
            network.feature_extractor(torch.rand(8, 3, SIZE, SIZE))
    return network.eval()


@pytest.fixture(scope="module")
def graph(network: DomainAdversarialNetwork) -> OnnxGraph:
    metadata = {"classes": '["bus", "car", "van"]', "preprocess": '{"height": 32}'}
    return to_onnx(InferenceNetwork(network, with_features=True), torch.from_numpy(pixels(2)), metadata)


@pytest.mark.parametrize("batch", [1, 3])
def test_float32_gives_what_onnxruntime_gives(graph: OnnxGraph, batch: int):
    expected = by_onnxruntime(graph.data, pixels(batch))
    given = by_openvino(to_ir(graph.data, precision="fp32"), pixels(batch))
    assert list(given) == list(expected) == ["logits", "probabilities", "features"]
    for name, values in expected.items():
        np.testing.assert_allclose(given[name], values, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("half", [FeatureExtractor, LabelClassifier])
def test_the_halves_too_keep_their_names(network: DomainAdversarialNetwork, half: type[ExportedModule]):
    module = half(network)  # pyright: ignore[reportCallIssue]
    inputs = pixels(2) if half is FeatureExtractor else np.random.default_rng(0).random((2, 128), np.float32)
    graph = to_onnx(module, torch.from_numpy(inputs), {})
    model = compiled(to_ir(graph.data, precision="fp32"))
    said = [tensor.name for tensor in (*graph.inputs, *graph.outputs)]
    assert [tensor.get_any_name() for tensor in (*model.inputs, *model.outputs)] == said
    assert [str(tensor.get_partial_shape()[0]) for tensor in (*model.inputs, *model.outputs)] == ["?"] * len(said)
    np.testing.assert_allclose(
        model(inputs)[0], by_onnxruntime(graph.data, inputs)[graph.outputs[0].name], rtol=1e-4, atol=1e-5
    )


def test_with_fp16_the_weights_take_half_the_room(graph: OnnxGraph):
    full, half = (to_ir(graph.data, precision=precision) for precision in ("fp32", "fp16"))
    assert len(half.bin) < 0.51 * len(full.bin)
    expected, given = (by_openvino(ir, pixels(8))["logits"] for ir in (full, half))
    assert 0 < np.abs(given - expected).max() < 2**-8 * np.abs(expected).max()


def test_bf16_has_the_bytes_of_fp32(graph: OnnxGraph):
    assert to_ir(graph.data, precision="bf16") == to_ir(graph.data, precision="fp32")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_same_bytes_again_and_in_another_process(graph: OnnxGraph, precision: str, tmp_path: Path):
    ir = to_ir(graph.data, precision=precision)
    assert to_ir(graph.data, precision=precision) == ir
    (tmp_path / "m.onnx").write_bytes(graph.data)
    command = [sys.executable, "-c", ELSEWHERE, "m.onnx", precision]
    other = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()
    assert other == hashlib.sha256(ir.xml + ir.bin).hexdigest()


def test_nothing_of_the_machine_is_in_it_and_nothing_is_left_behind(
    graph: OnnxGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ir = to_ir(graph.data, precision="fp16")
    assert list(tmp_path.iterdir()) == []
    for place in (tmp_path, Path.cwd(), Path.home()):
        assert str(place).encode() not in ir.xml
    assert b"model.onnx" not in ir.xml and b"model.bin" not in ir.xml


class Calibration(CalibrationDataReader):
    def __init__(self) -> None:
        self.batches = iter([{"images": pixels(16)}])

    def get_next(self) -> dict[str, np.ndarray] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return next(self.batches, None)


@pytest.fixture
def quantised(graph: OnnxGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The graph with 8-bit weights and activations, marked by pairs of QuantizeLinear and DequantizeLinear."""
    monkeypatch.setattr(logging, "warning", lambda *_: None)  # it advises to preprocess the graph
    (tmp_path / "m.onnx").write_bytes(graph.data)
    quantize_static(
        str(tmp_path / "m.onnx"),
        str(tmp_path / "q.onnx"),
        Calibration(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,  # sums of products of 8 bits do not fit where the CPU lacks VNNI
        op_types_to_quantize=["Conv", "Gemm"],
        extra_options={"ActivationSymmetric": True, "QuantizeBias": False},
    )
    return (tmp_path / "q.onnx").read_bytes()


def test_a_quantised_graph_is_stored_and_computed_in_int8(graph: OnnxGraph, quantised: bytes):
    ir = to_ir(quantised, precision="int8")
    assert len(ir.bin) < 0.3 * len(to_ir(graph.data, precision="fp32").bin)
    layers = [node.get_rt_info() for node in compiled(ir).get_runtime_model().get_ordered_ops()]
    convolutions = [
        info["runtimePrecision"].astype(str) for info in layers if info["layerType"].astype(str) == "Convolution"
    ]
    assert convolutions and set(convolutions) <= {"i8", "u8", "I8", "U8"}
    expected, given = by_onnxruntime(quantised, pixels(8))["logits"], by_openvino(ir, pixels(8))["logits"]
    assert np.abs(given - expected).max() < 0.05 * np.abs(expected).max()


def test_what_is_no_onnx_is_refused_in_one_line(graph: OnnxGraph):
    with pytest.raises(DannError, match=r"openvino [\d.]+ cannot read the exported graph: .") as raised:
        to_ir(graph.data[: len(graph.data) // 2], precision="fp32")
    assert "\n" not in str(raised.value)
