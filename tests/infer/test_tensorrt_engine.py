"""TensorRT engines on a driver and a TensorRT that compute on the host and watch how they are used (`fake_gpu`).

Nothing here says that a GPU computes the same; `tests/export/test_tensorrt_run.py` does, where there is one.
"""

import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_gpu import FakeCuda, FakeTensorRT

from dann.infer.bundle import Artefact, Bundle, BundleError, file_hash, read_bundle
from dann.infer.errors import DannError, UnavailableError
from dann.infer.tensorrt_engine import TensorRtEngine
from dann.infer.tensorrt_slot import Slot

BUILT = {"tensorrt": "10.13.3.9", "compute_capability": "8.6"}
OPTIONS = "--precision fp32 --batch 1:4:8"
"""With which the engine was built."""


class Machine:
    """A faked machine with TensorRT 10.13.3.9 or RTX 1.7.1.116, and a bundle with a plan for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bundle: Bundle):
        self._monkeypatch, self._bundle, self._site = monkeypatch, bundle, tmp_path / "site"
        monkeypatch.syspath_prepend(str(self._site))
        self.cuda = self.with_cuda(FakeCuda("8.6", "8.6"))
        for name, version in (("tensorrt", "10.13.3.9"), ("tensorrt_rtx", "1.7.1.116")):
            monkeypatch.setitem(sys.modules, name, FakeTensorRT(self.cuda, version))
            self.install(name, version)

    @property
    def trt(self) -> FakeTensorRT:
        fake: Any = sys.modules["tensorrt"]
        return fake

    def with_cuda(self, fake: FakeCuda) -> FakeCuda:
        self._monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake)
        return fake

    def install(self, package: str, version: str) -> None:
        """Leave the metadata that pip leaves."""
        folder = self._site / f"{package}-0.dist-info"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")

    def artefact(self, **changes: Any) -> Artefact:
        onnx = self._bundle.manifest.artefact()
        return replace(
            onnx,
            **{
                "files": ("model.engine",),
                "format": "tensorrt",
                "requires": BUILT,
                "batch": {"min": 1, "opt": 4, "max": 8},
                **changes,
            },
        )

    def open(self, *, device: str = "cuda:0", content: bytes = b"plan", **changes: Any) -> TensorRtEngine:
        artefact = self.artefact(**changes)
        path = self._bundle.root / "model.engine"
        path.write_bytes(b"plan")
        files = {"model.engine": file_hash(path)}
        path.write_bytes(content)
        manifest = replace(self._bundle.manifest, files=files, artefacts=(artefact,))
        return TensorRtEngine(replace(self._bundle, manifest=manifest), artefact, device=device)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bundle: Path) -> Machine:
    return Machine(monkeypatch, tmp_path, read_bundle(bundle))


def batch(*channels: int) -> np.ndarray:
    """One image for each, of that channel alone."""
    images_NHWC = np.zeros((len(channels), 8, 8, 3), np.uint8)
    for image_HWC, channel in zip(images_NHWC, channels, strict=True):
        image_HWC[:, :, channel] = 255
    return images_NHWC


def check(outputs: dict[str, np.ndarray], *channels: int) -> None:
    expected = np.eye(3, dtype=np.float32)[list(channels)]
    assert outputs.keys() == {"features", "logits", "probabilities"}
    assert all(rows.dtype == np.float32 for rows in outputs.values())
    assert np.array_equal(outputs["features"], expected) and np.array_equal(outputs["logits"], 8 * expected)
    assert np.array_equal(outputs["probabilities"].round(2), expected)


# running --------------------------------------------------------------------------------------------------------


def test_batches_of_one_size_become_a_graph_and_others_end_it(machine: Machine):
    engine = machine.open()
    launches = []
    kept = engine.run(batch(0, 1, 2))
    without_graph = len(machine.cuda.living)
    for channels in [(1, 1, 1), (2, 1, 0), (0, 0, 0), (1, 2), (0, 2, 1, 1), (1, 1, 0, 0), (2, 2, 2, 2)]:
        before = machine.cuda.calls.count("cudaGraphLaunch")
        check(engine.run(batch(*channels)), *channels)
        launches.append(machine.cuda.calls.count("cudaGraphLaunch") - before)
        assert len(machine.cuda.living) == without_graph + 2 * launches[-1], "a graph and what runs it"
    assert launches == [1, 1, 1, 0, 0, 1, 1] and machine.cuda.calls.count("cudaGraphInstantiate") == 2
    check(kept, 0, 1, 2)
    engine.close()
    assert machine.cuda.living == {}


def at_once(engine: TensorRtEngine, *batches: tuple[int, ...]) -> list[BaseException]:
    """Run batches in a thread each, and check them; what failed."""
    failures: list[BaseException] = []

    def use(channels: tuple[int, ...]) -> None:
        try:
            check(engine.run(batch(*channels)), *channels)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=use, args=(channels,)) for channels in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def test_two_threads_have_a_batch_under_way_each_and_a_third_waits(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    engine = machine.open()
    end, both, under_way, most = Slot.end, threading.Barrier(2, timeout=30), 0, 0

    def end_when_both_have_begun(slot: Slot) -> dict[str, np.ndarray]:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        both.wait()
        outputs = end(slot)
        under_way -= 1
        return outputs

    monkeypatch.setattr(Slot, "end", end_when_both_have_begun)
    for _ in range(5):
        assert at_once(engine, (0, 1), (1, 2, 0), (2, 2), (0, 0, 1)) == []
    assert (engine.lanes, most, machine.cuda.calls.count("cudaStreamCreateWithFlags")) == (2, 2, 2)
    engine.close()
    assert machine.cuda.living == {}


def test_an_engine_may_be_used_in_another_thread_than_it_was_opened_in(machine: Machine):
    engine = machine.open(device="cuda:1")
    failures: list[BaseException] = []

    def use() -> None:
        try:
            for _ in range(3):
                check(engine.run(batch(2, 0)), 2, 0)
            engine.close()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert failures == [] and machine.cuda.living == {}


def test_what_runs_where_is_said(machine: Machine):
    assert machine.open().description == "tensorrt 10.13.3.9 on cuda:0"
    half = machine.open(device="auto", precision="fp16").description
    assert half == "fp16 in tensorrt 10.13.3.9 on cuda:0 (auto: CUDA works here)"


def test_rtx_captures_graphs_by_itself(machine: Machine):
    engine = machine.open(format="tensorrt-rtx", requires={"tensorrt-rtx": "1.7.1.116"})
    rtx: Any = sys.modules["tensorrt_rtx"]
    for _ in range(3):
        check(engine.run(batch(1, 2)), 1, 2)
    assert rtx.strategies == ["WHOLE_GRAPH_CAPTURE"] and "cudaStreamBeginCapture" not in machine.cuda.calls
    machine.open()
    assert machine.trt.strategies == [None]


@pytest.mark.parametrize(
    "images_NHWC",
    [batch(0), batch(0, 0, 0, 0, 0), batch(0, 0)[:, 1:], batch(0, 0)[0], batch(0, 0).astype(np.float32)],
    ids=["too few", "too many", "height", "no batch", "type"],
)
def test_a_batch_that_does_not_fit_is_refused_and_the_engine_goes_on(machine: Machine, images_NHWC: np.ndarray):
    engine = machine.open()
    with pytest.raises(DannError, match=r"was given a batch of .*; expected 2 to 4 of uint8 \(8, 8, 3\)"):
        engine.run(images_NHWC)
    check(engine.run(batch(0, 1)), 0, 1)


# failures -------------------------------------------------------------------------------------------------------

CUDA_CALLS = (
    "cudaGetDeviceProperties cudaSetDevice cudaMalloc cudaFree cudaMallocHost cudaFreeHost cudaMemcpyAsync "
    "cudaStreamCreateWithFlags cudaStreamSynchronize cudaStreamDestroy cudaStreamBeginCapture cudaStreamEndCapture "
    "cudaGraphInstantiate cudaGraphLaunch cudaGraphDestroy cudaGraphExecDestroy cudaGetDeviceCount"
).split()


def use_all(machine: Machine) -> None:
    """Open an engine, run it directly, by capture and by replay, with another size, two at a time, and close it."""
    engine = machine.open()
    try:
        for channels in [(0, 1, 2), (1, 1, 1), (2, 0, 1), (0, 1)]:
            check(engine.run(batch(*channels)), *channels)
        slot = engine._slots._free.pop()  # as if another thread used it
        try:
            check(engine.run(batch(1, 1)), 1, 1)
        finally:
            engine._slots._free.append(slot)
    finally:
        engine.close()


def test_every_call_of_cuda_is_one_whose_failure_is_tested(machine: Machine):
    use_all(machine)
    assert set(machine.cuda.calls) == set(CUDA_CALLS)


@pytest.mark.parametrize("name", CUDA_CALLS)
def test_a_call_of_cuda_that_fails_is_one_error_and_nothing_stays(machine: Machine, name: str):
    use_all(machine)
    for occurrence in range(1, machine.cuda.calls.count(name) + 1):
        machine.cuda.calls.clear()
        machine.cuda.failing = (name, occurrence)
        with pytest.raises(DannError, match=rf"CUDA (failed in {name}|does not work here): out of memory"):
            use_all(machine)
        assert machine.cuda.living == {}, occurrence


@pytest.mark.parametrize("name", "cudaMemcpyAsync cudaStreamEndCapture cudaGraphLaunch cudaStreamSynchronize".split())
def test_after_a_batch_that_failed_the_next_may_work(machine: Machine, name: str):
    engine = machine.open()
    machine.cuda.failing = (name, 1)
    with pytest.raises(DannError, match=name):
        for _ in range(2):
            engine.run(batch(0, 0))
    check(engine.run(batch(2, 1)), 2, 1)
    engine.close()
    assert machine.cuda.living == {}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("create_execution_context", "failed in making an execution context"),
        ("set_tensor_address", "failed in giving memory to images"),
        ("set_input_shape", "failed in taking a batch of 3"),
        ("infer_shapes", "failed in taking a batch of 3"),
        ("execute_async_v3", "failed in running"),
    ],
)
def test_what_tensorrt_fails_in_is_said_with_its_log(machine: Machine, name: str, message: str):
    machine.trt.failing = name
    with pytest.raises(DannError, match=f"^tensorrt 10.13.3.9 {message}: {name} said no$") as raised:
        use_all(machine)
    assert raised.value.exit_code == 1 and machine.cuda.living == {}


@pytest.mark.parametrize("name", ["Runtime", "deserialize_cuda_engine"])
def test_a_plan_that_tensorrt_does_not_take_is_refused(machine: Machine, name: str):
    machine.trt.failing = name
    message = {"Runtime": "cannot start here: Runtime said no; `dann doctor`"}.get(
        name, f"refuses it here: deserialize_cuda_engine said no; rebuild it .*: dann export --format trt {OPTIONS}$"
    )
    for _ in range(2):  # what was said of one is not said of the next
        with pytest.raises(UnavailableError, match=f"tensorrt 10.13.3.9 {message}"):
            machine.open()


# what does not fit ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "needs", "fits"),
    [
        ("10.13.3.9", "10.13.3.9", True),
        ("10.13.3.9.post1", "10.13.3.9", True),
        ("10.13.3.10", "10.13.3.9", False),
        ("11.0.0.114", "10.13.3.9", False),
        ("10.13.3.9", ">=10.13", True),
        ("11.0.0.114", ">=10.13", True),
        ("10.9.0.34", ">=10.13", False),
    ],
)
def test_another_version_is_refused_before_cuda_is_asked(machine: Machine, version: str, needs: str, fits: bool):
    machine.install("tensorrt", version)
    if fits:
        machine.open(requires={"tensorrt": needs})
        assert machine.trt.host_code_allowed is needs.startswith(">=") and machine.trt.plans == [b"plan"]
        return
    with pytest.raises(UnavailableError) as raised:
        machine.open(requires={"tensorrt": needs})
    rebuild = f"rebuild it with what will run it: dann export --format trt {OPTIONS}"
    assert str(raised.value) == f"model.engine needs tensorrt {needs}; this machine has {version}; {rebuild}"
    assert raised.value.exit_code == 4 and machine.cuda.calls == [] and machine.trt.plans == []


def test_an_older_release_for_rtx_is_refused(machine: Machine):
    with pytest.raises(UnavailableError, match=r"needs tensorrt-rtx 1\.6\.0\.1; this machine has .* --batch 1:4:8$"):
        machine.open(format="tensorrt-rtx", requires={"tensorrt-rtx": "1.6.0.1"})


@pytest.mark.parametrize(
    ("here", "needs", "fits"),
    [
        ("8.6", "8.6", True),
        ("8.9", "8.6", False),
        ("8.9", "8.0, 8.6, 8.9, 12.0", True),
        ("9.0", "8.0, 8.6, 8.9, 12.0", False),
        ("8.0", "8.0+", True),
        ("12.0", "8.0+", True),
        ("7.5", "8.0+", False),
        ("10.0", "9.0", False),
        ("7.5", "8.0, 8.6, 12.0+", False),
    ],
)
def test_another_device_is_refused_before_tensorrt_sees_it(machine: Machine, here: str, needs: str, fits: bool):
    machine.with_cuda(machine.cuda)
    machine.cuda.capabilities = ("6.1", here)
    requires = {"tensorrt": "10.13.3.9", "compute_capability": needs}
    if fits:
        machine.open(device="cuda:1", requires=requires)
        return
    with pytest.raises(UnavailableError) as raised:
        machine.open(device="cuda:1", requires=requires)
    rebuild = f"rebuild it with what will run it: dann export --format trt {OPTIONS}"
    assert str(raised.value) == (
        f"model.engine needs compute capability {needs}; cuda:1 (Fake 1) has {here}; {rebuild}"
    )
    assert raised.value.exit_code == 4 and machine.trt.plans == [] and machine.cuda.living == {}


@pytest.mark.parametrize(
    ("device", "message"),
    [("cpu", "runs on CUDA alone, and cpu was asked for"), ("cuda:2", "cuda:2 .* the last one .* is cuda:1")],
)
def test_a_device_that_is_not_there_is_refused(machine: Machine, device: str, message: str):
    with pytest.raises(UnavailableError, match=message):
        machine.open(device=device)


def test_without_a_driver_tensorrt_is_not_asked(machine: Machine):
    machine.with_cuda(FakeCuda(driver=0))
    with pytest.raises(UnavailableError, match="no NVIDIA driver"):
        machine.open(device="auto")
    assert machine.trt.plans == []


def test_where_it_is_not_installed_the_line_to_type_is_said(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(UnavailableError, match=r"needs tensorrt, which is not installed; run: .*dann\[trt\]"):
        machine.open()
    assert machine.cuda.calls == []


def test_a_plan_that_was_changed_is_refused_before_tensorrt_sees_it(machine: Machine):
    with pytest.raises(BundleError, match="SHA-256 differs"):
        machine.open(content=b"PLAN")
    assert machine.trt.plans == []


def _rename(fake: FakeTensorRT) -> None:
    fake.tensors["logit"] = fake.tensors.pop("logits")


@pytest.mark.parametrize(
    "change",
    [
        lambda fake: fake.tensors.update(images=("UINT8", (-1, 9, 9, 3))),
        lambda fake: fake.tensors.update(images=("FLOAT", (-1, 8, 8, 3))),
        lambda fake: fake.tensors.update(probabilities=("FLOAT", (-1, 4))),
        lambda fake: fake.tensors.update(probabilities=("HALF", (-1, 3))),
        lambda fake: fake.tensors.pop("features"),
        _rename,
    ],
    ids=["size", "input type", "classes", "output type", "missing", "name"],
)
def test_a_plan_of_another_network_is_refused(machine: Machine, change: Callable[[FakeTensorRT], None]):
    change(machine.trt)
    with pytest.raises(BundleError, match=r"model.engine takes .* and gives .*; the manifest says .*; re-export"):
        machine.open()
    assert machine.cuda.living == {}


# the real TensorRT for RTX ----------------------------------------------------------------------------------------


def test_the_real_tensorrt_for_rtx_says_why_it_takes_no_garbage(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "tensorrt_rtx")
    rtx = pytest.importorskip("tensorrt_rtx", reason='needs TensorRT for RTX: pip install "dann[trt-rtx]"')
    machine.install("tensorrt_rtx", rtx.__version__)
    with pytest.raises(UnavailableError, match=r"tensorrt-rtx [\d.]+ refuses it here: .+ --batch 1:4:8$"):
        machine.open(format="tensorrt-rtx", requires={"tensorrt-rtx": rtx.__version__})
