import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from dann.infer.bundle import Bundle, BundleError, file_hash, read_bundle
from dann.infer.engine import open_artefact, open_engine
from dann.infer.errors import DannError, UnavailableError, UsageError
from dann.infer.lanes import Lanes

onnxruntime = pytest.importorskip("onnxruntime", reason="needs an ONNX Runtime: dann[cpu] or dann[gpu]")
HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
without_cuda = pytest.mark.skipif(HAS_CUDA, reason="this onnxruntime has CUDA")


def opened(bundle: Bundle, **changes) -> Bundle:
    return replace(bundle, manifest=replace(bundle.manifest, **changes))


def test_outputs_come_by_name_with_one_row_per_image(bundle):
    images_NHWC = np.zeros((2, 8, 8, 3), np.uint8)
    images_NHWC[1, :, :, 2] = 255
    engine = open_engine(read_bundle(bundle), device="cpu")
    outputs = engine.run(images_NHWC)
    engine.close()
    assert outputs["features"].tolist() == [[0, 0, 0], [0, 0, 1]]
    assert outputs["logits"].tolist() == [[0, 0, 0], [0, 0, 8]]
    softmax = np.exp(outputs["logits"]) / np.exp(outputs["logits"]).sum(axis=1, keepdims=True)
    assert np.abs(outputs["probabilities"] - softmax).max() < 1e-6


def test_the_cpu_is_named_where_it_was_asked_for(bundle):
    engine = open_engine(read_bundle(bundle), device="cpu", threads=1)
    assert engine.description == f"onnxruntime {onnxruntime.__version__} on cpu"


@without_cuda
def test_auto_says_why_it_chose_the_cpu(bundle):
    engine = open_engine(read_bundle(bundle), device="auto")
    assert "on cpu (auto: onnxruntime has no CUDA here)" in engine.description


@without_cuda
def test_cuda_is_refused_where_there_is_none(bundle):
    with pytest.raises(UnavailableError, match=r'cuda:1 needs .* pip install "dann\[gpu\]"') as raised:
        open_engine(read_bundle(bundle), device="cuda:1")
    assert raised.value.exit_code == 4


@without_cuda
@pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider'")
def test_cuda_is_refused_where_onnxruntime_would_serve_it_from_the_cpu(bundle, monkeypatch):
    """Where CUDA is compiled in but broken, a session is made all the same, on the CPU."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(UnavailableError, match="fell back to CPUExecutionProvider"):
        open_engine(read_bundle(bundle), device="cuda:0")
    assert "on cpu (auto: onnxruntime cannot use cuda:0" in open_engine(read_bundle(bundle)).description


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_CUDA, reason="needs onnxruntime-gpu")
def test_cuda_gives_the_numbers_of_the_cpu(make_bundle):
    bundle = read_bundle(make_bundle("conv"))
    images_NHWC = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    cuda, cpu = (open_engine(bundle, device=device).run(images_NHWC) for device in ("cuda:0", "cpu"))
    assert np.abs(cuda["logits"] - cpu["logits"]).max() < 1e-4


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "CPU", "", "cpu\n"])
def test_an_unknown_device_is_refused(bundle, device):
    with pytest.raises(UsageError, match="unknown device"):
        open_engine(read_bundle(bundle), device=device)


def test_a_number_of_threads_below_one_is_refused(bundle):
    with pytest.raises(UsageError, match="0 engine threads"):
        open_engine(read_bundle(bundle), threads=0)


def test_without_onnxruntime_the_line_that_installs_it_is_given(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "dann.infer.ort_engine", raising=False)
    with pytest.raises(UnavailableError, match=r'pip install "dann\[cpu\]"'):
        open_engine(read_bundle(bundle))


def test_a_model_that_changed_since_the_export_is_refused(bundle):
    with open(bundle / "model.onnx", "ab") as file:
        file.write(b"\0")
    with pytest.raises(BundleError, match="SHA-256 differs"):
        open_engine(read_bundle(bundle))


def test_a_file_that_is_no_model_is_refused(bundle):
    model = bundle / "model.onnx"
    model.write_bytes(b"hello world")
    good = read_bundle(bundle)
    with pytest.raises(BundleError, match="cannot be loaded by onnxruntime"):
        open_engine(opened(good, files={"model.onnx": file_hash(model)}))


@pytest.mark.parametrize("what", ["classes", "size"])
def test_a_model_that_does_not_fit_the_manifest_is_refused(bundle, what):
    good = read_bundle(bundle)
    bad = {
        "classes": opened(good, classes=("red", "green")),
        "size": opened(good, preprocess=replace(good.manifest.preprocess, height=9)),
    }
    with pytest.raises(BundleError, match="re-export"):
        open_engine(bad[what])


@pytest.mark.parametrize(("needs", "fits"), [(">=1.21", True), (">=999.0", False), ("0.1", False)])
def test_an_onnxruntime_that_an_artefact_does_not_allow_is_refused(bundle, needs, fits):
    good = read_bundle(bundle)
    artefact = replace(good.manifest.artefact(), requires={"onnxruntime": needs})
    if fits:
        open_engine(opened(good, artefacts=(artefact,)))
        return
    with pytest.raises(UnavailableError, match=rf"model.onnx needs onnxruntime {needs}; this machine has "):
        open_engine(opened(good, artefacts=(artefact,)))


def test_tensors_that_the_manifest_calls_otherwise_are_refused(bundle):
    good = read_bundle(bundle)
    artefact = good.manifest.artefact()
    features = replace(artefact.outputs[2], shape=("batch", 9))
    with pytest.raises(BundleError, match=r"gives .*\('features', 'float32', \[3\]\).* the manifest says .*re-export"):
        open_engine(opened(good, artefacts=(replace(artefact, outputs=(*artefact.outputs[:2], features)),)))


def test_a_batch_that_onnxruntime_refuses_is_an_error_of_ours(bundle):
    engine = open_engine(read_bundle(bundle), device="cpu")
    with pytest.raises(DannError, match="failed on a batch of 1"):
        engine.run(np.zeros((1, 9, 9, 3), np.uint8))


# several threads -------------------------------------------------------------------------------------------------


def random_batches(count):
    return np.random.default_rng(0).integers(0, 256, (count, 4, 8, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize(("threads", "lanes", "expected"), [(1, 4, 1), (2, 4, 2), (4, 2, 2), (4, 1, 1)])
def test_threads_are_shared_among_batches_that_are_computed_at_once(make_bundle, threads, lanes, expected):
    engine = open_engine(read_bundle(make_bundle("conv")), device="cpu", threads=threads, lanes=lanes)
    assert (engine.lanes, engine.elsewhere) == (expected, False)
    batches = random_batches(12)
    one_by_one = [engine.run(batch)["logits"] for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(lambda batch: engine.run(batch)["logits"], batches))
    assert np.array_equal(one_by_one, at_once)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_numbers_do_not_depend_on_how_threads_are_shared(make_bundle, threads):
    bundle = read_bundle(make_bundle("conv"))
    alone = open_engine(bundle, device="cpu", threads=1)
    shared = open_engine(bundle, device="cpu", threads=threads, lanes=threads)
    together = open_engine(bundle, device="cpu", threads=threads, lanes=1)
    for batch in random_batches(3):
        assert np.array_equal(alone.run(batch)["logits"], shared.run(batch)["logits"])
        assert np.array_equal(alone.run(batch)["logits"], together.run(batch)["logits"])


def test_a_batch_goes_through_buffers_of_a_device(make_bundle):
    """On the CPU as the device: the calls are those that CUDA gets."""
    from dann.infer.ort_engine import OnDevice

    session = onnxruntime.InferenceSession(make_bundle("conv") / "model.onnx", providers=["CPUExecutionProvider"])
    lane, names = OnDevice(session, "cpu", 0), ["logits", "probabilities"]
    first, second, third = random_batches(3)
    kept = lane.run(first, names)
    for batch in (second, third[:2], first):
        expected = session.run(names, {"images": batch})
        assert all(np.array_equal(*pair) for pair in zip(lane.run(batch, names), expected, strict=True))
    assert all(np.array_equal(*pair) for pair in zip(kept, session.run(names, {"images": first}), strict=True))
    lane.close()


def test_a_lane_that_failed_is_not_used_again():
    made = iter("abc")
    lanes = Lanes(lambda: next(made), 2)
    with lanes.lane() as first:
        assert first == "a"
    with pytest.raises(ValueError, match="broken"), lanes.lane() as again:
        assert again == "a"
        raise ValueError("broken")
    with lanes.lane() as fresh, lanes.lane() as other:
        assert (fresh, other) == ("b", "c")
    assert sorted(lanes.taken_down()) == ["b", "c"] and lanes.taken_down() == []


# which engine ----------------------------------------------------------------------------------------------------


def with_engine_for_a_gpu(bundle) -> Bundle:
    """``bundle``, with a file that is called an engine of TensorRT for RTX, of a release that nobody has."""
    good = read_bundle(bundle)
    (bundle / "model.rtx.engine").write_bytes(b"hello world")
    artefact = replace(
        good.manifest.artefact(), files=("model.rtx.engine",), format="tensorrt-rtx", requires={"tensorrt-rtx": "0.0.1"}
    )
    files = {**good.manifest.files, "model.rtx.engine": file_hash(bundle / "model.rtx.engine")}
    return opened(good, files=files, artefacts=(artefact, good.manifest.artefact()))


def test_an_engine_that_cannot_run_here_gives_way_to_onnx_and_says_why(bundle):
    engine = open_engine(with_engine_for_a_gpu(bundle), device="auto")
    assert engine.artefact.format == "onnx"
    assert re.search(r"on (cpu|cuda:0) .*; not tensorrt-rtx: .*tensorrt-rtx", engine.description)


def test_an_engine_that_was_asked_for_never_gives_way(bundle):
    with pytest.raises(UnavailableError, match="tensorrt-rtx"):
        open_engine(with_engine_for_a_gpu(bundle), engine="trt-rtx")


def test_the_cpu_is_asked_of_nothing_that_has_none(bundle):
    engine = open_engine(with_engine_for_a_gpu(bundle), device="cpu")
    assert engine.description == f"onnxruntime {onnxruntime.__version__} on cpu"


def test_an_engine_without_an_artefact_names_those_that_there_are(bundle):
    with pytest.raises(UsageError, match="no openvino/classifier artefact; it has: onnx/fp32/classifier"):
        open_engine(read_bundle(bundle), engine="openvino")


def test_an_unknown_engine_is_refused(bundle):
    with pytest.raises(UsageError, match="unknown engine 'tensorrt'; .*Known: auto, openvino, ort, trt, trt-rtx"):
        open_engine(read_bundle(bundle), engine="tensorrt")


def test_what_dann_does_not_run_itself_is_refused(bundle):
    good = read_bundle(bundle)
    triton = replace(good.manifest.artefact(), format="triton")
    with pytest.raises(UsageError, match="model.onnx is of the format 'triton', which dann does not run itself"):
        open_artefact(opened(good, artefacts=(triton,)), triton, device="cpu")
