"""CUDA through cuda-python: which devices there are, and memory, streams and graphs that are given back.

The functions of ``cuda.bindings.runtime`` answer ``(error, *values)``; here what fails is a :class:`DannError` with
CUDA's name for it. The runtime is linked statically, so that it can be asked where there is no driver. TensorRT cannot:
it may end the process there. So it comes after :func:`devices`.
"""

import ctypes
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from dann.infer.errors import DannError, UnavailableError


@dataclass(frozen=True, kw_only=True)
class Device:
    """A CUDA device of this machine."""

    index: int
    """The N of ``cuda:N``."""
    name: str
    compute_capability: str
    """``"8.6"``."""
    memory_bytes: int


def api() -> ModuleType:
    """``cuda.bindings.runtime``; :class:`UnavailableError`, with the line to type, where it is not installed."""
    try:
        return import_module("cuda.bindings.runtime")
    except ModuleNotFoundError as error:
        raise UnavailableError(
            "using CUDA without torch needs cuda-python, which is not installed; run: pip install cuda-python"
        ) from error


def call(function: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
    """The value that a function of :func:`api` gives, ``None`` where it gives none; raises :class:`DannError`."""
    error, *values = function(*arguments)
    if error != api().cudaError_t.cudaSuccess:
        raise DannError(f"CUDA failed in {function.__name__}: {_meaning(error)}; `dann doctor` says what is here")
    return values[0] if values else None


def driver() -> str | None:
    """The newest CUDA that the installed driver serves, ``"13.0"``; ``None`` where there is no driver."""
    version = call(api().cudaDriverGetVersion)
    return f"{version // 1000}.{version % 1000 // 10}" if version else None


def devices() -> list[Device]:
    """The devices, one at least; :class:`UnavailableError` says why there are none."""
    cuda = api()
    try:
        error, count = cuda.cudaGetDeviceCount()
    except RuntimeError as failure:  # of cuda-python before 12.9, where there is no driver
        raise UnavailableError(f"CUDA does not work here: {failure}") from failure
    if error != cuda.cudaError_t.cudaSuccess:
        served = driver()
        reason = f"{_meaning(error)}, with a driver for CUDA {served}" if served else "no NVIDIA driver is installed"
        raise UnavailableError(f"CUDA does not work here: {reason}")
    if count == 0:
        raise UnavailableError("CUDA does not work here: there is no device")
    return [_device(index, call(cuda.cudaGetDeviceProperties, index)) for index in range(count)]


def _device(index: int, properties: Any) -> Device:
    return Device(
        index=index,
        name=properties.name.decode(),
        compute_capability=f"{properties.major}.{properties.minor}",
        memory_bytes=properties.totalGlobalMem,
    )


def _meaning(error: Any) -> str:
    _, text = api().cudaGetErrorString(error)
    return f"{text.decode()} ({error.name})"


class Resources(ExitStack):
    """What CUDA gave, given back in reverse order when the block ends or at ``close``.

    Where the block fails, that error is raised and none of giving back.
    """

    def memory(self, nbytes: int) -> int:
        """The address of ``nbytes`` on the device, not initialised."""
        pointer = call(api().cudaMalloc, nbytes)
        self._give_back(api().cudaFree, pointer)
        return int(pointer)

    def pinned(self, shape: tuple[Any, ...], dtype: str) -> np.ndarray:
        """An array in host memory that is copied to and from the device while the host goes on; not initialised."""
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        pointer = call(api().cudaMallocHost, nbytes)
        self._give_back(api().cudaFreeHost, pointer)
        content = (ctypes.c_ubyte * nbytes).from_address(int(pointer))
        return np.frombuffer(memoryview(content), dtype).reshape(shape)

    def stream(self) -> Any:
        """A stream that does not wait for the default one, and is waited for before it is given back."""
        handle = call(api().cudaStreamCreateWithFlags, api().cudaStreamNonBlocking)
        self._give_back(api().cudaStreamDestroy, handle)
        self._give_back(api().cudaStreamSynchronize, handle)
        return handle

    def captured(self, stream: Any, enqueue: Callable[[], None]) -> Any:
        """What ``enqueue`` puts on ``stream``, as a graph for ``cudaGraphLaunch``. It is not run meanwhile."""
        cuda = api()
        call(cuda.cudaStreamBeginCapture, stream, cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        try:
            enqueue()
        except BaseException:
            _, graph = cuda.cudaStreamEndCapture(stream)  # else the stream stays in capture
            if graph is not None:
                cuda.cudaGraphDestroy(graph)
            raise
        graph = call(cuda.cudaStreamEndCapture, stream)
        self._give_back(cuda.cudaGraphDestroy, graph)
        executable = call(cuda.cudaGraphInstantiate, graph, 0)
        self._give_back(cuda.cudaGraphExecDestroy, executable)
        return executable

    def _give_back(self, release: Callable[..., tuple[Any, ...]], handle: Any) -> None:
        def at_the_end(kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
            if error is None:
                call(release, handle)
            else:
                release(handle)

        self.push(at_the_end)
