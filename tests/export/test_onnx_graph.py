"""The ONNX file: what it computes, what it says, and what it must not hold."""

import json
import logging
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

from dann.export.network import ExportedModule, InferenceNetwork
from dann.export.onnx_graph import OnnxGraph, check, to_onnx
from dann.infer.errors import DannError
from dann.train.model import DomainAdversarialNetwork
from dann.train.settings import ModelConfig

SIZE = 32
PLAIN_OPERATIONS = {
    *("Cast", "Transpose", "Div", "Sub", "Conv", "LeakyRelu", "MaxPool", "ReduceMean", "Reshape"),
    *("Gemm", "Relu", "Softmax"),
}
METADATA = {"preprocess": '{"height": 32}', "classes": '["bus", "car", "van"]'}


def network_of(**settings: object) -> InferenceNetwork:
    """A network with random weights, and batch statistics that are not the initial 0 and 1."""
    torch.manual_seed(0)
    config = ModelConfig(**settings)  # pyright: ignore[reportArgumentType]
    network = DomainAdversarialNetwork(config, classes=3, height=SIZE, width=SIZE)
    with torch.no_grad():
        for _ in range(3):
            network.feature_extractor(torch.rand(8, 3, SIZE, SIZE))
    return InferenceNetwork(network.eval(), with_features=True)


def pixels(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, SIZE, SIZE, 3), dtype=torch.uint8, generator=generator)


def run(graph: OnnxGraph, images: Tensor) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(graph.data, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    outputs = session.run(names, {session.get_inputs()[0].name: images.numpy()})
    return dict(zip(names, map(np.asarray, outputs), strict=True))


@pytest.fixture(scope="module")
def network() -> InferenceNetwork:
    return network_of(backbone="conv6", width=0.25)


@pytest.fixture(scope="module")
def graph(network: InferenceNetwork) -> OnnxGraph:
    return to_onnx(network, pixels(2), METADATA)


@pytest.fixture(scope="module")
def model(graph: OnnxGraph) -> onnx.ModelProto:
    return onnx.load_from_string(graph.data)


@pytest.mark.parametrize(
    ("backbone", "settings"),
    [
        ("conv6", {"width": 0.25, "normalise": "half"}),
        ("conv6", {"width": 0.25, "normalise": "instance"}),
        ("conv6", {"width": 0.25, "normalise": "local-contrast", "pool": "max", "bottleneck": 7, "mix_style": 2}),
        ("conv9", {"width": 0.25, "normalise": "imagenet", "dropout": 0.5}),
        ("dann-mnist", {"batch_norm": False}),
        ("resnet18", {"normalise": "imagenet"}),
        pytest.param("mobilenet_v3_small", {"normalise": "instance"}, marks=pytest.mark.slow),
    ],
    ids=lambda value: value if isinstance(value, str) else value.get("normalise", ""),
)
def test_every_batch_size_gives_what_torch_gives(backbone: str, settings: dict[str, object], tmp_path: Path):
    network = network_of(backbone=backbone, **settings)
    graph = to_onnx(network, pixels(2), {})
    for batch in (1, 5):
        given = run(graph, pixels(batch))
        with torch.no_grad():
            expected = network(pixels(batch))
        for name, value in zip(network.output_names, expected, strict=True):
            np.testing.assert_allclose(given[name], value.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)


def test_inputs_and_outputs_are_named_and_the_batch_is_free(graph: OnnxGraph):
    (images,) = graph.inputs
    assert (images.name, images.dtype, images.shape) == ("images", "uint8", ("batch", 32, 32, 3))
    assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in graph.outputs] == [
        ("logits", "float32", ("batch", 3)),
        ("probabilities", "float32", ("batch", 3)),
        ("features", "float32", ("batch", 64)),
    ]


def test_opset_is_the_pinned_one_and_the_only_one(graph: OnnxGraph, model: onnx.ModelProto):
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert graph.opset == 20


def test_cast_comes_before_the_change_of_layout(model: onnx.ModelProto):
    taking_images = [node.op_type for node in model.graph.node if "images" in node.input]
    assert taking_images == ["Cast"]
    assert [node.op_type for node in model.graph.node[:2]] == ["Cast", "Transpose"]


def test_graph_has_plain_operations_only_and_batch_norm_is_folded(model: onnx.ModelProto):
    assert {node.op_type for node in model.graph.node} == PLAIN_OPERATIONS
    assert not [node for node in model.graph.node if node.domain]


def test_domain_head_is_not_in_the_graph(model: onnx.ModelProto):
    names = [tensor.name for tensor in model.graph.initializer]
    names += [name for node in model.graph.node for name in (node.name, *node.input, *node.output)]
    assert names and not [name for name in names if "domain" in name or "reversal" in name]


def test_file_holds_its_metadata_sorted_and_nothing_of_the_machine(graph: OnnxGraph, model: onnx.ModelProto):
    stored = [(entry.key, entry.value) for entry in model.metadata_props]
    assert stored == sorted(METADATA.items())
    assert json.loads(stored[0][1]) == ["bus", "car", "van"]
    assert not any(value.metadata_props for value in (*model.graph.node, *model.graph.input, model.graph))
    for trace in (b"stack_trace", b"File ", b".py", b"site-packages", os.fsencode(Path.home())):
        assert trace not in graph.data, trace


def test_weights_are_inside_the_file(graph: OnnxGraph, model: onnx.ModelProto):
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert len(graph.data) > sum(len(tensor.raw_data) for tensor in model.graph.initializer) > 100_000


def test_same_network_gives_the_same_bytes(network: InferenceNetwork, graph: OnnxGraph):
    assert to_onnx(network, pixels(2), dict(reversed(METADATA.items()))).data == graph.data


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_process():
    script = textwrap.dedent("""
        import hashlib, torch
        from dann.export.network import InferenceNetwork
        from dann.export.onnx_graph import to_onnx
        from dann.train.settings import ModelConfig
        from dann.train.model import DomainAdversarialNetwork
        torch.manual_seed(0)
        config = ModelConfig(backbone="conv6", width=0.25)
        network = DomainAdversarialNetwork(config, classes=3, height=16, width=16)
        graph = to_onnx(InferenceNetwork(network), torch.zeros(2, 16, 16, 3, dtype=torch.uint8), {"b": "1", "a": "2"})
        print(hashlib.sha256(graph.data).hexdigest())
    """)
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


class Talkative(ExportedModule):
    role = "classifier"
    output_names = ("logits",)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        print("tracing")
        warnings.warn("tracing", stacklevel=1)
        logging.getLogger("torch.onnx").warning("tracing")
        return (images.float().flatten(1),)


def test_tracing_says_nothing_on_the_terminal(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture):
    to_onnx(Talkative(), pixels(2), {})
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno >= logging.INFO]
    logging.getLogger("torch.onnx").warning("logging works again")
    assert "logging works again" in caplog.text


class Unsupported(ExportedModule):
    role = "classifier"
    output_names = ("logits",)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (torch.linalg.eigvals(images[:, :3, :3, 0].float()).real,)


class FixedBatch(ExportedModule):
    role = "classifier"
    output_names = ("logits",)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (images.float().sum(0, keepdim=True),)


class Huge(ExportedModule):
    role = "classifier"
    output_names = ("logits",)

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2**16, 2**14, device="meta")


def test_operation_that_onnx_lacks_is_named(capfd: pytest.CaptureFixture[str]):
    with pytest.raises(DannError, match="cannot be written as ONNX: .*linalg_eig.*choose another --backbone"):
        to_onnx(Unsupported(), pixels(2), {})
    assert capfd.readouterr() == ("", "")


def test_output_without_free_batch_is_refused():
    with pytest.raises(DannError, match="fixed batch: logits is"):
        to_onnx(FixedBatch(), pixels(2), {})


def test_network_too_large_for_one_file_is_refused():
    with pytest.raises(DannError, match="4295032832 bytes of weights, one ONNX file holds"):
        to_onnx(Huge(), pixels(2), {})


def hand_made(operation: str = "Relu", domain: str = "", opset: int = 20) -> onnx.ModelProto:
    value = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node(operation, ["x"], ["y"], domain=domain)], "g", value[:1], value[1:])
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def test_hand_made_graph_that_is_right_passes():
    check(hand_made())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (hand_made(opset=17), "wrote opset 17; expected 20 or 18"),
        (hand_made("Gelu", domain="com.microsoft"), "operations outside ONNX .'com.microsoft'."),
        (hand_made("NoSuchOperation"), "not valid ONNX: .*NoSuchOperation"),
    ],
    ids=["older opset", "custom operation", "unknown operation"],
)
def test_graph_that_is_not_what_was_asked_for_is_refused(model: onnx.ModelProto, message: str):
    with pytest.raises(DannError, match=message):
        check(model)
