"""``examples/triton_client.py``, run as a reader of it would.

The server speaks Triton's gRPC protocol with Triton's own messages, and runs the ONNX file with onnxruntime. That
Triton itself loads the repository is not tested here.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
from project import ROOT

from dann.export.triton_repository import write_model
from dann.infer.bundle import Artefact, TensorSpec
from dann.infer.preprocess import PreprocessSpec, load_image

grpc = pytest.importorskip("grpc", reason='needs pip install "tritonclient[grpc]"')
triton = pytest.importorskip("tritonclient.grpc", reason='needs pip install "tritonclient[grpc]"')
utils = pytest.importorskip("tritonclient.utils")
text_format = pytest.importorskip("google.protobuf.text_format")

CLASSES = ("red: all of it", "grün", "blue")
SPEC = PreprocessSpec(height=8, width=8, resize="letterbox")
MODEL = ROOT / "tests" / "infer" / "golden" / "colour.onnx"


class Server(triton.service_pb2_grpc.GRPCInferenceServiceServicer):
    """One model of a repository, as Triton's protocol and its classification extension describe them."""

    def __init__(self, repository: Path, name: str):
        folder = repository / name
        text = (folder / "config.pbtxt").read_text(encoding="utf-8")
        self.config = text_format.Parse(text, triton.model_config_pb2.ModelConfig())
        label_file = {output.name: output.label_filename for output in self.config.output}["probabilities"]
        self.labels = (folder / label_file).read_text(encoding="utf-8").split("\n")
        self.session = onnxruntime.InferenceSession(folder / "1" / "model.onnx", providers=["CPUExecutionProvider"])
        self.batches: list[np.ndarray] = []

    def ModelReady(self, request, context):
        return triton.service_pb2.ModelReadyResponse(ready=request.name == self.config.name)

    def ModelConfig(self, request, context):
        return triton.service_pb2.ModelConfigResponse(config=self.config)

    def ModelInfer(self, request, context):
        (tensor,), (output,) = request.inputs, request.outputs
        if (tensor.name, tensor.datatype) != ("images", "UINT8") or tensor.shape[0] > self.config.max_batch_size:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"unexpected {tensor.datatype} {list(tensor.shape)}")
        images_NHWC = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(tensor.shape)
        self.batches.append(images_NHWC)
        values_NK = np.asarray(self.session.run([output.name], {tensor.name: images_NHWC})[0])
        order_NC = np.argsort(-values_NK, axis=1)[:, : output.parameters["classification"].int64_param]
        answers_NC = [
            [f"{values_K[k]:.6f}:{k}:{self.labels[k]}".encode() for k in order_C]
            for values_K, order_C in zip(values_NK, order_NC, strict=True)
        ]
        response = triton.service_pb2.ModelInferResponse(model_name=request.model_name)
        response.outputs.add(name=output.name, datatype="BYTES", shape=order_NC.shape)
        response.raw_output_contents.append(utils.serialize_byte_tensor(np.array(answers_NC, object)).item())
        return response


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository of one model that answers the dominant colour, in batches of at most 4."""
    tensors = {"logits": 3, "probabilities": 3, "features": 3}
    artefact = Artefact(
        files=("model.onnx",),
        format="onnx",
        inputs=(TensorSpec(name="images", dtype="uint8", shape=("batch", 8, 8, 3)),),
        outputs=tuple(TensorSpec(name=name, dtype="float32", shape=("batch", n)) for name, n in tensors.items()),
        batch={"min": 1, "opt": 2, "max": 4},
    )
    root = tmp_path / "triton"
    write_model(root, name="model", artefact=artefact, model=MODEL, classes=CLASSES, preprocess=SPEC, largest=8)
    return root


@pytest.fixture
def server(repository: Path) -> Iterator[tuple[Server, str]]:
    """What serves the repository, and its address."""
    servicer = Server(repository, "model_fp32")
    with ThreadPoolExecutor(2) as pool:
        listener = grpc.server(pool)
        triton.service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, listener)
        port = listener.add_insecure_port("127.0.0.1:0")
        listener.start()
        yield servicer, f"127.0.0.1:{port}"
        listener.stop(grace=None).wait()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Nine pictures of plain colour, wider than high, red, green and blue in turn."""
    folder = tmp_path / "imgs"
    folder.mkdir()
    for number in range(9):
        image_HWC = np.zeros((20, 40, 3), np.uint8)
        image_HWC[..., 2 - number % 3] = 255  # OpenCV writes BGR
        assert cv2.imwrite(str(folder / f"{number}.png"), image_HWC)
    return folder


def client(*options: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "examples" / "triton_client.py", *options]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "no_proxy": "127.0.0.1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8")


def test_every_image_gets_its_label_and_probability_from_the_server(server: tuple[Server, str], pictures: Path):
    servicer, address = server
    ran = client("--server", address, "--model", "model_fp32", pictures)
    assert ran.returncode == 0, ran.stderr
    rows = [line.split("\t") for line in ran.stdout.splitlines()]
    assert [row[:2] for row in rows] == [[str(pictures / f"{n}.png"), CLASSES[n % 3]] for n in range(9)]

    expected_NHWC = np.stack([load_image(pictures / f"{n}.png", SPEC) for n in range(9)])
    assert [len(batch) for batch in servicer.batches] == [4, 4, 1]  # no more than the model takes
    assert np.array_equal(np.concatenate(servicer.batches), expected_NHWC)
    (probabilities_NK,) = servicer.session.run(["probabilities"], {"images": expected_NHWC})
    assert [row[2] for row in rows] == [f"{row.max():.6f}" for row in np.asarray(probabilities_NK)]


@pytest.mark.parametrize("others", [(), ("0.png", "2.png")], ids=["alone", "among others"])
def test_an_image_that_cannot_be_read_is_named_and_the_others_are_classified(
    server: tuple[Server, str], pictures: Path, others: tuple[str, ...]
):
    (pictures / "1.png").write_bytes(b"")
    images = [pictures / name for name in sorted(("1.png", *others))]
    ran = client("--server", server[1], "--model", "model_fp32", *images)
    assert ran.returncode == 3
    assert ran.stderr == f"{pictures / '1.png'} is empty (0 bytes)\n"
    assert [line.split("\t")[0] for line in ran.stdout.splitlines()] == [str(pictures / name) for name in others]


def test_a_model_that_is_not_served_is_said_in_one_line(server: tuple[Server, str], pictures: Path):
    ran = client("--server", server[1], "--model", "model_fp16", pictures)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("error: the server has no model 'model_fp16' that is ready") and one_line(ran.stderr)


def test_a_model_of_others_is_said_in_one_line(server: tuple[Server, str], pictures: Path):
    del server[0].config.parameters["preprocess"]
    ran = client("--server", server[1], "--model", "model_fp32", pictures)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("error: the model 'model_fp32' does not say how images are") and one_line(ran.stderr)


def test_a_server_that_is_not_there_is_said_in_one_line(pictures: Path):
    ran = client("--server", "127.0.0.1:1", "--model", "model_fp32", pictures)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("error: the server at 127.0.0.1:1: ") and one_line(ran.stderr)


def test_a_path_that_does_not_exist_is_said_in_one_line(tmp_path: Path):
    ran = client("--model", "model_fp32", tmp_path / "nothing")
    assert ran.returncode == 2 and ran.stderr.startswith("error: no such file or folder") and one_line(ran.stderr)


def one_line(text: str) -> bool:
    return text.count("\n") == 1 and text.endswith("\n")
