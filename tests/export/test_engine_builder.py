"""Real engines, built by TensorRT for RTX, which needs no GPU for it."""

import os
import signal
import threading
import time

import pytest

from dann.export.engine_builder import BuiltEngine, build_engine
from dann.export.run_export import Exported
from dann.export.settings import BatchRange, EngineConfig
from dann.infer import cuda
from dann.infer.errors import DannError, UnavailableError, UsageError
from dann.infer.tensorrt_names import TensorRT

rtx = pytest.importorskip("tensorrt_rtx", reason='needs TensorRT for RTX: pip install "dann[trt-rtx]"')
BATCH = BatchRange(min=1, opt=4, max=8)


def has_gpu() -> bool:
    try:
        return bool(cuda.devices())
    except UnavailableError:
        return False


@pytest.fixture
def trt() -> TensorRT:
    return TensorRT("tensorrt-rtx", rtx)


@pytest.fixture(scope="session")
def graphs(exported: Exported) -> dict[str, bytes]:
    """The content of the exported ONNX files by name."""
    return {file.name: file.read_bytes() for file in exported.root.glob("*.onnx")}


@pytest.mark.parametrize("name", ["model", "feature_extractor", "label_classifier"])
def test_engines_compute_in_the_precision_of_their_graph(trt: TensorRT, graphs: dict[str, bytes], name: str):
    full = build_engine(trt, graphs[f"{name}.onnx"], precision="fp32", batch=BATCH)
    half = build_engine(trt, graphs[f"{name}.fp16.onnx"], precision="fp16", batch=BATCH)
    assert set(full.layers) == {"FLOAT"} and half.layers == {"HALF": full.layers["FLOAT"]}
    assert full.plan != half.plan and min(len(full.plan), len(half.plan)) > 1000
    assert full.builder == f"tensorrt-rtx {rtx.__version__}"


def test_a_graph_of_another_precision_than_it_is_called_is_refused(trt: TensorRT, graphs: dict[str, bytes]):
    with pytest.raises(DannError, match="fp16 has layers that compute in {'FLOAT': 8}; expected HALF alone"):
        build_engine(trt, graphs["model.onnx"], precision="fp16", batch=BATCH)


def test_an_engine_is_for_every_gpu_that_one_covers_unless_some_are_named(trt: TensorRT, graphs: dict[str, bytes]):
    def build(*gpus: str) -> BuiltEngine:
        config = EngineConfig(gpus=gpus, workspace_mib=64)
        return build_engine(trt, graphs["model.fp16.onnx"], precision="fp16", batch=BATCH, config=config)

    every, named, turing = build(), build("sm120", "sm86"), build("sm75")
    assert {"tensorrt-rtx", "compute_capability"} == every.requires.keys()
    assert every.requires["tensorrt-rtx"] == rtx.__version__
    capabilities = every.requires["compute_capability"].split(", ")
    assert {"8.0", "8.6", "8.9", "12.0"} <= set(capabilities) and "7.5" not in capabilities
    assert named.requires["compute_capability"] == "8.6, 12.0" and turing.requires["compute_capability"] == "7.5"
    assert len({every.plan, named.plan, turing.plan}) == 3


def test_what_a_gpu_cannot_compute_is_named_with_its_node(trt: TensorRT, graphs: dict[str, bytes]):
    with pytest.raises(
        DannError, match="cannot build the engine: .*'node_linear' for Turing .*FP32 GEMM.*try --precision fp16"
    ):
        turing = EngineConfig(gpus=("sm75",))
        build_engine(trt, graphs["model.onnx"], precision="fp32", batch=BATCH, config=turing)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            EngineConfig(gpus=("sm90",)),
            "unknown GPU 'sm90'; .*tensorrt-rtx .*: data center GPUs as sm90 need tensorrt",
        ),
        (EngineConfig(gpus=("8.6",)), "unknown GPU '8.6'"),
        (EngineConfig(hardware_compatible=True), "has no --hardware-compatible engines; name GPUs with --gpu"),
        (EngineConfig(version_compatible=True), "has no --version-compatible engines"),
    ],
)
def test_what_tensorrt_for_rtx_cannot_build_for_is_refused(
    trt: TensorRT, graphs: dict[str, bytes], config: EngineConfig, message: str
):
    with pytest.raises(UsageError, match=message):
        build_engine(trt, graphs["model.onnx"], precision="fp32", batch=BATCH, config=config)


@pytest.mark.skipif(has_gpu(), reason="there is a GPU here")
def test_tensorrt_without_a_gpu_says_where_to_build(trt: TensorRT, graphs: dict[str, bytes]):
    with pytest.raises(UnavailableError, match=r"on the GPU that will run it, and CUDA does not .*dann\[trt-rtx\]"):
        build_engine(TensorRT("tensorrt", trt.api), graphs["model.onnx"], precision="fp32", batch=BATCH)


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
