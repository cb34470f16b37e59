"""What dann asks of CUDA, of a driver that watches, and of the real runtime where there is no driver."""

import sys

import numpy as np
import pytest
from fake_gpu import FakeCuda

from dann.infer import cuda
from dann.infer.errors import DannError, UnavailableError


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return use(monkeypatch, FakeCuda("8.6", "12.0"))


def use(monkeypatch: pytest.MonkeyPatch, fake: FakeCuda) -> FakeCuda:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake)
    return fake


def test_devices_are_described(fake: FakeCuda):
    assert cuda.devices() == [
        cuda.Device(index=0, name="Fake 0", compute_capability="8.6", memory_bytes=8 * 2**30),
        cuda.Device(index=1, name="Fake 1", compute_capability="12.0", memory_bytes=8 * 2**30),
    ]
    assert cuda.driver() == "13.0"


@pytest.mark.parametrize(
    ("driver", "reason"),
    [(0, "no NVIDIA driver is installed"), (12020, r"no device \(cudaErrorNoDevice\), with a driver for CUDA 12.2")],
)
def test_why_there_are_no_devices_is_said(monkeypatch: pytest.MonkeyPatch, driver: int, reason: str):
    use(monkeypatch, FakeCuda(driver=driver))
    with pytest.raises(UnavailableError, match=f"CUDA does not work here: {reason}$") as raised:
        cuda.devices()
    assert raised.value.exit_code == 4


def test_the_way_of_cuda_python_12_8_is_understood_too(monkeypatch: pytest.MonkeyPatch):
    """It raises where there is no driver; measured with cuda-bindings 12.8.0, and no more with 12.9.0."""

    class Older(FakeCuda):
        def cudaGetDeviceCount(self):
            raise RuntimeError("Failed to dlopen libcuda.so.1")

    use(monkeypatch, Older())
    with pytest.raises(UnavailableError, match="CUDA does not work here: Failed to dlopen libcuda.so.1"):
        cuda.devices()


def test_without_cuda_python_the_line_to_type_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(UnavailableError, match="needs cuda-python, .*; run: pip install cuda-python$"):
        cuda.devices()


def test_bytes_go_to_the_device_and_back_through_a_graph(fake: FakeCuda):
    with cuda.Resources() as given:
        rows, device, stream = given.pinned((2, 3), "float32"), given.memory(24), given.stream()
        host, kinds = rows.ctypes.data, cuda.api().cudaMemcpyKind

        def there_and_back() -> None:
            cuda.call(fake.cudaMemcpyAsync, device, host, 24, kinds.cudaMemcpyHostToDevice, stream)
            cuda.call(fake.cudaMemcpyAsync, host, device, 12, kinds.cudaMemcpyDeviceToHost, stream)

        graph = given.captured(stream, there_and_back)
        rows[:] = np.arange(6, dtype=np.float32).reshape(2, 3)
        cuda.call(fake.cudaGraphLaunch, graph, stream)
        cuda.call(fake.cudaStreamSynchronize, stream)
        assert rows.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert fake.living == {}


def test_what_fails_is_named(fake: FakeCuda):
    fake.failing = ("cudaMalloc", 1)
    with pytest.raises(DannError, match=r"CUDA failed in cudaMalloc: out of memory \(cudaErrorMemoryAllocation\)"):
        cuda.Resources().memory(1)


def test_an_error_in_the_block_is_not_hidden_by_one_of_giving_back(fake: FakeCuda):
    fake.failing = ("cudaFree", 1)
    with pytest.raises(ZeroDivisionError), cuda.Resources() as given:
        given.memory(1)
        given.stream()
        raise ZeroDivisionError
    assert fake.living == {}


def test_giving_back_may_fail_too(fake: FakeCuda):
    fake.failing = ("cudaFree", 1)
    with pytest.raises(DannError, match="CUDA failed in cudaFree"), cuda.Resources() as given:
        given.memory(1)


def test_a_capture_that_fails_is_ended(fake: FakeCuda):
    def fail() -> None:
        raise ZeroDivisionError

    with cuda.Resources() as given:
        stream = given.stream()
        with pytest.raises(ZeroDivisionError):
            given.captured(stream, fail)
        assert not fake.is_capturing(stream)
    assert fake.living == {}


def test_the_real_runtime_answers_without_a_driver():
    runtime = pytest.importorskip("cuda.bindings.runtime", reason='needs cuda-python: pip install "dann[trt]"')
    if cuda.driver() is not None:
        pytest.skip("this machine has an NVIDIA driver")
    with pytest.raises(UnavailableError, match="CUDA does not work here: no NVIDIA driver is installed$"):
        cuda.devices()
    with pytest.raises(DannError, match=r"CUDA failed in cudaMalloc: .+ \(cudaErrorInsufficientDriver\)"):
        cuda.call(runtime.cudaMalloc, 16)


def test_the_real_runtime_has_every_name_that_is_used():
    runtime = pytest.importorskip("cuda.bindings.runtime", reason='needs cuda-python: pip install "dann[trt]"')
    names = [name for name in vars(FakeCuda) if name.startswith("cuda")]
    assert len(names) > 20 and [name for name in names if not hasattr(runtime, name)] == []
    for enum in ("cudaError_t", "cudaMemcpyKind", "cudaStreamCaptureMode"):
        assert getattr(FakeCuda, enum).__members__.keys() <= getattr(runtime, enum).__members__.keys()


@pytest.mark.gpu
def test_a_real_device_copies_there_and_back():
    pytest.importorskip("cuda.bindings.runtime", reason='needs cuda-python: pip install "dann[trt]"')
    if cuda.driver() is None:
        pytest.skip("needs a CUDA device")
    runtime, kinds = cuda.api(), cuda.api().cudaMemcpyKind
    with cuda.Resources() as given:
        rows, device, stream = given.pinned((4,), "uint8"), given.memory(4), given.stream()
        host = rows.ctypes.data

        def there_and_back() -> None:
            cuda.call(runtime.cudaMemcpyAsync, device, host, 4, kinds.cudaMemcpyHostToDevice, stream)
            cuda.call(runtime.cudaMemcpyAsync, host, device, 2, kinds.cudaMemcpyDeviceToHost, stream)

        graph = given.captured(stream, there_and_back)
        rows[:] = 1, 2, 3, 4
        cuda.call(runtime.cudaGraphLaunch, graph, stream)
        cuda.call(runtime.cudaStreamSynchronize, stream)
        assert rows.tolist() == [1, 2, 3, 4]
