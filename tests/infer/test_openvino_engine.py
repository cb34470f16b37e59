"""Real networks, compiled by OpenVINO for the CPU of this machine."""

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dann.infer.bundle import MANIFEST, Bundle, BundleError, file_hash, read_bundle
from dann.infer.errors import DannError, UnavailableError

# not openvino itself, whose import by another than dann reports it to its makers
pytest.importorskip("dann.infer.openvino_engine", reason='needs OpenVINO: pip install "dann[openvino]"')
from dann.export.openvino_ir import to_ir  # needs neither torch nor the onnx package
from dann.infer.openvino_engine import VERSION, OpenVinoEngine, about, core

FILES = ("openvino/model.xml", "openvino/model.bin")
HAS_BF16 = "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
OPEN = """
import os, sys, threading
import numpy
import dann.infer.openvino_engine as engine
from dann.infer.bundle import read_bundle
assert threading.active_count() == 1, threading.enumerate()
assert "openvino_telemetry" not in sys.modules
bundle = read_bundle(sys.argv[1])
network = engine.OpenVinoEngine(bundle, bundle.manifest.artefacts[0], device="cpu", threads=None)
"""
RUN = "network.run(numpy.zeros((3, 8, 8, 3), numpy.uint8))"
EMPTY_THE_FILES = "[open(bundle.root / name, 'w').close() for name in bundle.manifest.files]"


@pytest.fixture
def ir_bundle(make_bundle: Callable[..., Path]) -> Callable[..., Bundle]:
    """``ir_bundle("conv", "fp16")`` is a bundle with that golden network in OpenVINO's format alone."""

    def make(model: str = "colour", precision: str = "fp32") -> Bundle:
        bundle = read_bundle(make_bundle(model))
        (bundle.root / "openvino").mkdir()
        ir = to_ir((bundle.root / "model.onnx").read_bytes(), precision=precision)
        for name, content in zip(FILES, (ir.xml, ir.bin), strict=True):
            (bundle.root / name).write_bytes(content)
        artefact = replace(bundle.manifest.artefact(), files=FILES, format="openvino", precision=precision)
        bundle = with_manifest(bundle, artefacts=(artefact,), files=hashes(bundle.root))
        (bundle.root / MANIFEST).write_bytes(bundle.manifest.to_json())
        return bundle

    return make


def hashes(root: Path) -> dict[str, object]:
    return {name: file_hash(root / name) for name in FILES}


def with_manifest(bundle: Bundle, **changes) -> Bundle:
    return replace(bundle, manifest=replace(bundle.manifest, **changes))


def opened(bundle: Bundle, *, device: str = "cpu", threads: int | None = None) -> OpenVinoEngine:
    return OpenVinoEngine(bundle, bundle.manifest.artefacts[0], device=device, threads=threads)


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def test_outputs_come_by_name_with_one_row_per_image(ir_bundle):
    images_NHWC = np.zeros((3, 8, 8, 3), np.uint8)
    images_NHWC[1, :, :, 2] = 255
    outputs = opened(ir_bundle()).run(images_NHWC)
    assert list(outputs) == ["logits", "probabilities", "features"]
    assert outputs["features"].tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert outputs["logits"].tolist() == [[0, 0, 0], [0, 0, 8], [0, 0, 0]]
    softmax = np.exp(outputs["logits"]) / np.exp(outputs["logits"]).sum(axis=1, keepdims=True)
    assert np.abs(outputs["probabilities"] - softmax).max() < 1e-6
    assert {values.dtype for values in outputs.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(("precision", "least", "most"), [("fp32", 0, 1e-5), ("fp16", 1e-5, 1e-2)])
def test_numbers_are_those_of_onnxruntime_at_every_batch_size(ir_bundle, precision, least, most):
    """In bfloat16, which OpenVINO would choose by itself on some CPUs, they would differ by more."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs an ONNX Runtime: dann[cpu] or dann[gpu]")
    bundle = ir_bundle("conv", precision)
    session = onnxruntime.InferenceSession(bundle.root / "model.onnx", providers=["CPUExecutionProvider"])
    engine = opened(bundle)
    for batch in (1, 2, 3, 32):
        (expected,) = session.run(["logits"], {"images": noise(batch)})
        difference = np.abs(engine.run(noise(batch))["logits"] - expected).max()
        assert least <= difference <= most


def test_a_row_does_not_depend_on_its_batch(ir_bundle):
    engine = opened(ir_bundle("conv"))
    whole = engine.run(noise(32))["probabilities"]
    for batch in (1, 2, 3):
        rows = [engine.run(noise(32)[start : start + batch])["probabilities"] for start in range(0, 30, batch)]
        assert np.abs(np.concatenate(rows) - whole[:30]).max() < 1e-6


def test_results_stay_when_the_next_batch_runs(ir_bundle):
    engine = opened(ir_bundle("conv"))
    first = engine.run(noise(4))["logits"]
    kept = first.copy()
    engine.run(noise(4)[::-1])
    assert np.array_equal(first, kept)


def test_images_may_lie_scattered_in_memory(ir_bundle):
    engine = opened(ir_bundle("conv"))
    scattered = np.asfortranarray(noise(5))
    assert np.array_equal(engine.run(scattered)["logits"], engine.run(noise(5))["logits"])


def test_the_description_names_precision_version_and_device(ir_bundle):
    assert opened(ir_bundle()).description == f"openvino {VERSION} on cpu"
    assert f"openvino {VERSION} with CPU" in about()


def test_auto_is_the_cpu(ir_bundle):
    assert opened(ir_bundle("conv", "fp16"), device="auto").description == f"fp16 in openvino {VERSION} on cpu"


def test_cuda_is_refused(ir_bundle):
    with pytest.raises(UnavailableError, match="runs on the CPU, not on cuda:0") as raised:
        opened(ir_bundle(), device="cuda:0")
    assert raised.value.exit_code == 4


@pytest.mark.skipif(HAS_BF16, reason="this CPU has bfloat16")
def test_bf16_is_refused_on_a_cpu_without_it(ir_bundle):
    """OpenVINO itself takes the request, and computes in float32."""
    with pytest.raises(UnavailableError, match=r"cannot compute in bf16 \(openvino would do it in f32\)") as raised:
        opened(ir_bundle("conv", "bf16"))
    assert raised.value.exit_code == 4


@pytest.mark.skipif(not HAS_BF16, reason="needs a CPU with bfloat16")
def test_bf16_is_computed_in_bf16(ir_bundle):
    rounded = opened(ir_bundle("conv", "bf16")).run(noise(4))["logits"]
    assert 1e-4 < np.abs(rounded - opened(ir_bundle("conv")).run(noise(4))["logits"]).max() < 0.3


def test_threads_are_as_many_as_asked_for(ir_bundle):
    engine = opened(ir_bundle(), threads=1)
    assert engine._compiled.get_property("INFERENCE_NUM_THREADS") == 1


def test_several_threads_compute_a_batch_each_and_get_their_own(ir_bundle):
    bundle = ir_bundle("conv")
    engine = OpenVinoEngine(bundle, bundle.manifest.artefacts[0], device="cpu", threads=2, lanes=2)
    assert engine.lanes >= 1 and engine.elsewhere
    batches = [np.roll(noise(16), shift, axis=0) for shift in range(8)]
    expected = opened(bundle).run(noise(16))["logits"]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda images_NHWC: engine.run(images_NHWC)["logits"], batches))
    for shift, logits_NK in enumerate(found):
        assert np.abs(logits_NK - np.roll(expected, shift, axis=0)).max() < 1e-5


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_changed_since_the_export_is_refused(ir_bundle, name):
    bundle = ir_bundle()
    with open(bundle.root / name, "ab") as file:
        file.write(b"\0")
    with pytest.raises(BundleError, match="SHA-256 differs"):
        opened(bundle)


@pytest.mark.parametrize(("name", "kept"), [(FILES[0], 0), (FILES[0], 0.5), (FILES[1], 0), (FILES[1], 0.5)])
def test_a_truncated_file_is_refused_in_one_line(ir_bundle, name, kept):
    bundle = ir_bundle("conv")
    content = (bundle.root / name).read_bytes()
    (bundle.root / name).write_bytes(content[: int(kept * len(content))])
    with pytest.raises(BundleError, match=r"model\.xml cannot be loaded by openvino .* re-export") as raised:
        opened(with_manifest(bundle, files=hashes(bundle.root)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("side", ["inputs", "outputs"])
@pytest.mark.parametrize("change", [{"name": "other"}, {"dtype": "float64"}, {"shape": ("batch", 9, 8, 3)}])
def test_a_network_that_is_not_that_of_the_manifest_is_refused(ir_bundle, side, change):
    bundle = ir_bundle()
    artefact = bundle.manifest.artefacts[0]
    first, *others = getattr(artefact, side)
    artefact = replace(artefact, **{side: (replace(first, **change), *others)})
    with pytest.raises(BundleError, match="the manifest says .* re-export"):
        opened(with_manifest(bundle, artefacts=(artefact,)))


@pytest.mark.parametrize("images", [np.zeros((1, 9, 8, 3), np.uint8), np.zeros((2, 8, 8, 3), np.float32)])
def test_a_batch_that_does_not_fit_is_an_error_of_ours(ir_bundle, images):
    engine = opened(ir_bundle())
    with pytest.raises(DannError, match=f"openvino failed on a batch of {len(images)}: .") as raised:
        engine.run(images)
    assert "\n" not in str(raised.value)
    assert len(engine.run(noise(2))["logits"]) == 2


@pytest.mark.parametrize("between", ["", EMPTY_THE_FILES], ids=["", "files emptied"])
def test_it_writes_prints_and_sends_nothing_and_needs_its_files_no_more(ir_bundle, tmp_path, between):
    """By itself OpenVINO starts a thread that reports its import, writes an identifier into the home folder, and maps
    its files: one that is copied over would end the process."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "LOCALAPPDATA": str(home), "CI": ""}
    command = [sys.executable, "-W", "error", "-c", "\n".join((OPEN, between, RUN)), str(ir_bundle("conv").root)]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(home.iterdir()) == []


def test_a_signal_is_survived_after_engines_were_closed(ir_bundle):
    """What OpenVINO leaves behind of the first of two engines that goes would end the process."""
    script = """
other = engine.OpenVinoEngine(bundle, bundle.manifest.artefacts[0], device="cpu", threads=None)
del network
del other
import signal
signal.signal(signal.SIGINT, lambda number, frame: print("handled"))
signal.raise_signal(signal.SIGINT)
"""
    command = [sys.executable, "-c", OPEN + script, str(ir_bundle("conv").root)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
