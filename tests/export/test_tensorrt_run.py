"""An engine that TensorRT for RTX built for real, given to the runtime: refused without a GPU, run on one."""

import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_gpu import FakeCuda

from dann.export.engine_builder import build_engine
from dann.export.run_export import Exported
from dann.export.settings import BatchRange
from dann.infer.bundle import Bundle, file_hash, read_bundle
from dann.infer.engine import open_engine
from dann.infer.errors import UnavailableError
from dann.infer.tensorrt_engine import TensorRtEngine
from dann.infer.tensorrt_names import TensorRT

rtx = pytest.importorskip("tensorrt_rtx", reason='needs TensorRT for RTX: pip install "dann[trt-rtx]"')
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="is for machines without CUDA")


@pytest.fixture(scope="session")
def built(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with the network as ONNX and as an engine for batches of 1 to 8."""
    bundle = read_bundle(exported.root)
    onnx = bundle.manifest.artefact()
    root = tmp_path_factory.mktemp("built")
    content = bundle.file(onnx).read_bytes()
    (root / "model.onnx").write_bytes(content)
    batch = BatchRange(min=1, opt=4, max=8)
    engine = build_engine(TensorRT("tensorrt-rtx", rtx), content, precision="fp32", batch=batch)
    (root / "model.engine").write_bytes(engine.plan)
    artefact = replace(onnx, files=("model.engine",), format="tensorrt-rtx", requires=engine.requires)
    files = {path.name: file_hash(path) for path in root.iterdir()}
    artefacts = (replace(onnx, files=("model.onnx",)), artefact)
    return Bundle(root, replace(bundle.manifest, files=files, artefacts=artefacts))


@pytest.fixture
def opened(built: Bundle) -> Callable[[], TensorRtEngine]:
    artefact = built.manifest.artefact(format="tensorrt-rtx")
    return lambda: TensorRtEngine(built, artefact, device="cuda:0")


@without_gpu
def test_without_a_driver_it_is_refused(opened: Callable[[], TensorRtEngine]):
    pytest.importorskip("cuda.bindings.runtime", reason='needs cuda-python: pip install "dann[trt-rtx]"')
    with pytest.raises(UnavailableError, match="CUDA does not work here: "):
        opened()


@without_gpu
def test_tensorrt_is_asked_where_all_fits_and_its_refusal_is_told(
    opened: Callable[[], TensorRtEngine], monkeypatch: pytest.MonkeyPatch
):
    """The driver is faked, TensorRT is not: it finds no driver."""
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", FakeCuda("8.6"))
    with pytest.raises(UnavailableError, match=r"tensorrt-rtx [\d.]+ refuses it here: .*cudaError 35: .+ --format"):
        opened()


@pytest.mark.parametrize("capability", ["9.0", "10.0"])
def test_a_gpu_that_it_was_not_built_for_is_refused(
    opened: Callable[[], TensorRtEngine], monkeypatch: pytest.MonkeyPatch, capability: str
):
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", FakeCuda(capability))
    with pytest.raises(
        UnavailableError, match=rf"needs compute capability 8\.0, .+; cuda:0 \(Fake 0\) has {capability};"
    ):
        opened()


@pytest.mark.gpu
@pytest.mark.trt
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_it_gives_the_numbers_of_the_cpu(built: Bundle, opened: Callable[[], TensorRtEngine]):
    engine, cpu = opened(), open_engine(built, device="cpu", engine="ort")
    spec = built.manifest.preprocess
    rng = np.random.default_rng(0)
    for count in (4, 4, 4, 1, 2, 3, 8, 8, 8, 4):
        images_NHWC = rng.integers(0, 256, (count, spec.height, spec.width, 3), dtype=np.uint8)
        given, expected = engine.run(images_NHWC), cpu.run(images_NHWC)
        assert {name: np.abs(given[name] - rows).max() < 1e-3 for name, rows in expected.items()} == {
            name: True for name in expected
        }
    engine.close()
