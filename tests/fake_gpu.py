"""A CUDA driver and a TensorRT that compute on the host and watch how they are used.

The driver keeps what is put on a stream until the stream is waited for, as a device may; so who reads too early, or
overwrites what is still to be copied, gets wrong numbers. Misuse is an ``AssertionError``: memory that was freed or is
too small, a host buffer that is not pinned, another device than the stream's, a stream that is destroyed unfinished.
:attr:`FakeCuda.living` is what was not given back. A function fails at its Nth call when ``failing`` says so.
"""

import threading
from collections.abc import Callable
from enum import Enum, IntEnum
from functools import wraps
from types import SimpleNamespace
from typing import Any

import numpy as np

Operation = Callable[[], None]


class cudaError_t(IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100


def _cuda(function: Callable[..., Any]) -> Any:
    """A function of the driver: gives ``(error, value)``, and fails when it is to."""

    @wraps(function)
    def called(self: "FakeCuda", *arguments: Any) -> tuple[Any, ...]:
        name = function.__name__
        self.calls.append(name)
        if self.failing == (name, self.calls.count(name)):
            if name.startswith(("cudaFree", "cudaStreamEnd", "cudaStreamSync")) or name.endswith("Destroy"):
                function(self, *arguments)  # what it was called for is over all the same
            return cudaError_t.cudaErrorMemoryAllocation, None
        value = function(self, *arguments)
        if isinstance(value, cudaError_t):
            return value, None
        return (cudaError_t.cudaSuccess,) if value is None else (cudaError_t.cudaSuccess, value)

    return called


class FakeCuda:
    """Stands for the module ``cuda.bindings.runtime``."""

    cudaError_t = cudaError_t
    cudaMemcpyKind = Enum("cudaMemcpyKind", ["cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost"])
    cudaStreamCaptureMode = Enum("cudaStreamCaptureMode", ["cudaStreamCaptureModeThreadLocal"])
    cudaStreamNonBlocking = 1

    def __init__(self, *capabilities: str, driver: int = 13000):
        self.capabilities, self.driver = capabilities, driver
        self.calls: list[str] = []
        self.failing: tuple[str, int] | None = None
        self.living: dict[int, Any] = {}
        self._handles = iter(range(1, 1_000_000))
        self._kept: list[np.ndarray] = []  # freed memory keeps its address, so that its use is found out
        self._capturing: dict[int, list[Operation]] = {}
        self._thread = threading.local()

    # devices

    @_cuda
    def cudaDriverGetVersion(self):
        return self.driver

    @_cuda
    def cudaGetDeviceCount(self):
        if self.driver == 0:
            return cudaError_t.cudaErrorInsufficientDriver
        return len(self.capabilities) or cudaError_t.cudaErrorNoDevice

    @_cuda
    def cudaGetDeviceProperties(self, index):
        major, minor = map(int, self.capabilities[index].split("."))
        return SimpleNamespace(name=f"Fake {index}".encode(), major=major, minor=minor, totalGlobalMem=8 * 2**30)

    @_cuda
    def cudaSetDevice(self, index):
        assert index < len(self.capabilities)
        self._thread.device = index

    def cudaGetErrorString(self, error):
        return cudaError_t.cudaSuccess, {2: b"out of memory", 35: b"driver too old", 100: b"no device"}[error]

    # memory

    def _allocated(self, kind, nbytes):
        assert nbytes > 0 and not self._capturing
        content = np.full(nbytes, 0xA5, np.uint8)
        self.living[content.ctypes.data] = (kind, content, self._device())
        return content.ctypes.data

    def _freed(self, kind, address):
        was, content, _ = self.living.pop(address)
        assert was == kind
        content[:] = 0xDD
        self._kept.append(content)

    @_cuda
    def cudaMalloc(self, nbytes):
        return self._allocated("device", nbytes)

    @_cuda
    def cudaFree(self, address):
        self._freed("device", address)

    @_cuda
    def cudaMallocHost(self, nbytes):
        return self._allocated("host", nbytes)

    @_cuda
    def cudaFreeHost(self, address):
        self._freed("host", address)

    def bytes_at(self, address: int, nbytes: int, kind: str) -> np.ndarray:
        was, content, _ = self.living[address]
        assert was == kind and nbytes <= len(content)
        return content[:nbytes]

    @_cuda
    def cudaMemcpyAsync(self, target, source, nbytes, kind, stream):
        to_device = kind is self.cudaMemcpyKind["cudaMemcpyHostToDevice"]
        kinds = ("device", "host") if to_device else ("host", "device")

        def copy() -> None:
            self.bytes_at(target, nbytes, kinds[0])[:] = self.bytes_at(source, nbytes, kinds[1])

        assert nbytes > 0
        self.enqueue(stream, copy)

    # streams and graphs

    def _device(self) -> int:
        return getattr(self._thread, "device", 0)

    def _new(self, what: Any) -> int:
        handle = next(self._handles)
        self.living[handle] = what
        return handle

    def enqueue(self, stream: int, operation: Operation) -> None:
        device, pending = self.living[stream]
        assert device == self._device()
        (self._capturing[stream] if stream in self._capturing else pending).append(operation)

    def is_capturing(self, stream: int) -> bool:
        return stream in self._capturing

    @_cuda
    def cudaStreamCreateWithFlags(self, flags):
        assert flags == self.cudaStreamNonBlocking
        return self._new((self._device(), []))

    @_cuda
    def cudaStreamSynchronize(self, stream):
        device, pending = self.living[stream]
        assert stream not in self._capturing and device == self._device()
        while pending:
            pending.pop(0)()

    @_cuda
    def cudaStreamDestroy(self, stream):
        assert stream not in self._capturing
        assert self.living.pop(stream)[1] == []

    @_cuda
    def cudaStreamBeginCapture(self, stream, mode):
        assert self.living[stream][1] == []
        self._capturing[stream] = []

    @_cuda
    def cudaStreamEndCapture(self, stream):
        operations = self._capturing.pop(stream)
        if self.failing != ("cudaStreamEndCapture", self.calls.count("cudaStreamEndCapture")):
            return self._new(operations)

    @_cuda
    def cudaGraphInstantiate(self, graph, flags):
        assert flags == 0
        return self._new(list(self.living[graph]))

    @_cuda
    def cudaGraphLaunch(self, executable, stream):
        for operation in self.living[executable]:
            self.enqueue(stream, operation)

    @_cuda
    def cudaGraphDestroy(self, graph):
        del self.living[graph]

    @_cuda
    def cudaGraphExecDestroy(self, executable):
        del self.living[executable]


class FakeTensorRT:
    """Stands for the module ``tensorrt``: its plans are the golden colour network, for batches of 2 to 4.

    ``failing`` names a method that answers ``False`` or ``None``, or a class that cannot be made, and says so on the
    logger. ``tensors`` can be changed into those of another network.
    """

    DataType = Enum("DataType", ["UINT8", "FLOAT", "HALF"])
    TensorIOMode = Enum("TensorIOMode", ["INPUT", "OUTPUT"])
    CudaGraphStrategy = Enum("CudaGraphStrategy", ["DISABLED", "WHOLE_GRAPH_CAPTURE"])

    class ILogger:
        Severity = Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO"])

    def __init__(self, cuda: FakeCuda, version: str = "10.13.3.9"):
        self.__version__ = version
        self.cuda = cuda
        self.failing = ""
        self.strategies: list[Any] = []
        self.host_code_allowed: bool | None = None
        self.plans: list[bytes] = []
        self.tensors: dict[str, tuple[str, tuple[int, ...]]] = {"images": ("UINT8", (-1, 8, 8, 3))}
        self.tensors |= {name: ("FLOAT", (-1, 3)) for name in ("logits", "probabilities", "features")}

    def answer(self, name: str, value: Any, otherwise: Any = None) -> Any:
        if name != self.failing:
            return value
        self.log.log(self.ILogger.Severity.INFO, "of no interest")
        self.log.log(self.ILogger.Severity.ERROR, f"{name} said no \n")
        return otherwise

    def Runtime(self, log: Any) -> Any:
        self.log = log
        if not self.answer("Runtime", True):
            raise TypeError("factory function returned nullptr")
        return _Runtime(self)


class _Runtime:
    def __init__(self, trt: FakeTensorRT):
        self._trt = trt

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "engine_host_code_allowed":
            self._trt.host_code_allowed = value
        object.__setattr__(self, name, value)

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        self._trt.plans.append(plan)
        return self._trt.answer("deserialize_cuda_engine", _Engine(self._trt))


class _Engine:
    def __init__(self, trt: FakeTensorRT):
        self._trt = trt
        self.num_io_tensors = len(trt.tensors)

    def get_tensor_name(self, index):
        return list(self._trt.tensors)[index]

    def get_tensor_mode(self, name):
        return self._trt.TensorIOMode["INPUT" if name == "images" else "OUTPUT"]

    def get_tensor_dtype(self, name):
        return self._trt.DataType[self._trt.tensors[name][0]]

    def get_tensor_shape(self, name):
        return self._trt.tensors[name][1]

    def get_tensor_profile_shape(self, name, index):
        assert (name, index) == ("images", 0)
        return [(count, 8, 8, 3) for count in (2, 3, 4)]

    def create_runtime_config(self):
        return SimpleNamespace(cuda_graph_strategy=self._trt.CudaGraphStrategy["DISABLED"])

    def create_execution_context(self, config=None):
        self._trt.strategies.append(config and config.cuda_graph_strategy.name)
        return self._trt.answer("create_execution_context", _Context(self._trt))


class _Context:
    def __init__(self, trt: FakeTensorRT):
        self._trt = trt
        self._addresses: dict[str, int] = {}
        self._count = 0
        self._has_run = False

    def set_tensor_address(self, name, address):
        assert name in self._trt.tensors and self._trt.cuda.living[address][0] == "device"
        self._addresses[name] = address
        return self._trt.answer("set_tensor_address", True, False)

    def set_input_shape(self, name, shape):
        assert (name, shape[1:]) == ("images", (8, 8, 3)) and 2 <= shape[0] <= 4
        self._count, self._has_run = shape[0], False
        return self._trt.answer("set_input_shape", True, False)

    def infer_shapes(self):
        return self._trt.answer("infer_shapes", [], ["images"])

    def execute_async_v3(self, stream_handle):
        count = self._count
        assert count and self._addresses.keys() == self._trt.tensors.keys()
        assert self._has_run or not self._trt.cuda.is_capturing(stream_handle), "it would allocate"
        self._has_run = True

        def compute() -> None:
            assert count == self._count, "a graph of another shape"
            images = self._at("images", (count, 8, 8, 3), np.uint8)
            features = images.mean((1, 2), dtype=np.float32) / 255
            answers = {"features": features, "logits": 8 * features, "probabilities": _softmax(8 * features)}
            for name, rows in answers.items():
                self._at(name, (count, 3), np.float32)[:] = rows

        self._trt.cuda.enqueue(stream_handle, compute)
        return self._trt.answer("execute_async_v3", True, False)

    def _at(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self._trt.cuda.bytes_at(self._addresses[name], nbytes, "device").view(dtype).reshape(shape)


def _softmax(rows: np.ndarray) -> np.ndarray:
    exponentials = np.exp(rows)
    return exponentials / exponentials.sum(axis=1, keepdims=True)
