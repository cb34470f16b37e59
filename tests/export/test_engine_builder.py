"""Real engines, built by TensorRT for RTX, which needs no GPU for it."""

import os
import signal
import threading
import time

import pytest

from dann.export.engine_builder import BatchRange, build_engine
from dann.export.run_export import Exported
from dann.infer.errors import DannError, UnavailableError, UsageError
from dann.infer.tensorrt_names import TensorRT, installed, missing_names

rtx = pytest.importorskip("tensorrt_rtx", reason='needs TensorRT for RTX: pip install "dann[trt-rtx]"')
BATCH = BatchRange(min=1, opt=4, max=8)


@pytest.fixture
def trt() -> TensorRT:
    return TensorRT("tensorrt-rtx", rtx)


@pytest.fixture(scope="session")
def graphs(exported: Exported) -> dict[str, bytes]:
    """The content of the exported ONNX files by name."""
    return {file.name: file.read_bytes() for file in exported.root.glob("*.onnx")}


def test_every_name_that_is_used_is_there(trt: TensorRT):
    assert missing_names(trt) == []


def test_a_name_that_is_gone_is_found(trt: TensorRT):
    class Older:
        Builder = rtx.Builder

    assert "OnnxParser.parse" in missing_names(TensorRT("tensorrt", Older))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", ["model", "feature_extractor", "label_classifier"])
def test_engines_compute_in_the_precision_of_their_graph(trt: TensorRT, graphs: dict[str, bytes], name: str):
    full = build_engine(trt, graphs[f"{name}.onnx"], precision="fp32", batch=BATCH)
    half = build_engine(trt, graphs[f"{name}.fp16.onnx"], precision="fp16", batch=BATCH)
    assert set(full.layers) == {"FLOAT"} and half.layers == {"HALF": full.layers["FLOAT"]}
    assert full.plan != half.plan and min(len(full.plan), len(half.plan)) > 1000
    assert full.builder == f"tensorrt-rtx {rtx.__version__}"


def test_a_graph_of_another_precision_than_it_is_called_is_refused(trt: TensorRT, graphs: dict[str, bytes]):
    with pytest.raises(DannError, match=r"the graph of fp16 has layers that compute in {'FLOAT': 8}; expected none"):
        build_engine(trt, graphs["model.onnx"], precision="fp16", batch=BATCH)


def test_progress_is_told(trt: TensorRT, graphs: dict[str, bytes]):
    told: list[tuple[str, int, int]] = []
    build_engine(trt, graphs["model.onnx"], precision="fp32", batch=BATCH, on_progress=lambda *step: told.append(step))
    assert told and all(0 < done <= total for _, done, total in told)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"hello world", "found 0 inputs and 0 outputs"), (b"", "0 inputs|refuses"), (None, "refuses the graph: .*ONNX")],
    ids=["garbage", "empty", "truncated"],
)
def test_what_is_no_onnx_is_refused(trt: TensorRT, graphs: dict[str, bytes], content: bytes | None, message: str):
    whole = graphs["model.onnx"]
    with pytest.raises(DannError, match=message):
        build_engine(trt, whole[: len(whole) // 2] if content is None else content, precision="fp32", batch=BATCH)


@pytest.mark.parametrize("batch", [(0, 1, 2), (4, 2, 8), (1, 9, 8)])
def test_a_batch_that_makes_no_sense_is_refused(batch: tuple[int, int, int]):
    with pytest.raises(UsageError, match=rf"the batch is {batch[0]}:{batch[1]}:{batch[2]}; expected 1 ≤ MIN"):
        BatchRange(min=batch[0], opt=batch[1], max=batch[2])


def test_what_fails_while_it_is_told_ends_the_building(trt: TensorRT, graphs: dict[str, bytes]):
    def fail(phase: str, done: int, total: int) -> None:
        raise OSError("the terminal is gone")

    with pytest.raises(OSError, match="the terminal is gone"):
        build_engine(trt, graphs["model.onnx"], precision="fp32", batch=BATCH, on_progress=fail)


def test_ctrl_c_ends_the_building(trt: TensorRT, graphs: dict[str, bytes]):
    told: list[int] = []

    def slow(phase: str, done: int, total: int) -> None:
        told.append(done)
        if done == 1:
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        time.sleep(0.3)

    with pytest.raises(KeyboardInterrupt):
        build_engine(trt, graphs["model.onnx"], precision="fp32", batch=BATCH, on_progress=slow)
    assert told == [1]
    assert build_engine(trt, graphs["model.onnx"], precision="fp32", batch=BATCH).plan


def test_without_tensorrt_the_line_to_type_is_said(monkeypatch: pytest.MonkeyPatch):
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr("dann.infer.tensorrt_names.import_module", missing)
    with pytest.raises(UnavailableError, match=r'pip install "dann\[trt\]".*pip install "dann\[trt-rtx\]"'):
        installed()
