"""The ONNX Runtime engine, on the CPU or on CUDA.

Where CUDA does not work, ONNX Runtime serves a request for it from the CPU: with a warning, a line on stdout
or nothing at all, depending on what is missing. So the provider is checked after the session is made.
"""

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import onnxruntime

from dann.infer import cuda
from dann.infer.bundle import Artefact, Bundle, BundleError
from dann.infer.cores import usable_cores
from dann.infer.errors import DannError, UnavailableError
from dann.infer.lanes import Lanes
from dann.infer.versions import check_version

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_CUDA_LANES = 2  # one is brought to the device, one is computed


class OrtEngine:
    """An ONNX model of a bundle in an ONNX Runtime session; see :class:`dann.infer.engine.Engine`.

    On the CPU the threads are shared among the lanes: with as many of both, each batch is computed by the thread that
    brings it, and none waits for another. On CUDA a lane has buffers of its own.
    """

    def __init__(self, bundle: Bundle, artefact: Artefact, *, device: str, threads: int | None, lanes: int = 1):
        self.artefact = artefact
        check_version(artefact, "onnxruntime", onnxruntime.__version__, "upgrade it, or take another --precision")
        model = bundle.file(artefact)
        self.lanes = min(lanes, threads or usable_cores())
        per_lane = threads if self.lanes == 1 else (threads or usable_cores()) // self.lanes
        self._session, served_by = _open_session(model, device, session_options(per_lane))
        _check_is(self._session, model, artefact)
        self._output_names = [output.name for output in self._session.get_outputs()]
        self.elsewhere = served_by.startswith("cuda")
        if self.elsewhere:
            self.lanes = _CUDA_LANES
            index = int(served_by.partition(" ")[0].removeprefix("cuda:"))
            self._lanes = Lanes(lambda: OnDevice(self._session, "cuda", index), self.lanes)
        else:
            self._lanes = Lanes(lambda: OnCpu(self._session), self.lanes)
        precision = "" if artefact.precision == "fp32" else f"{artefact.precision} in "
        self.description = f"{precision}onnxruntime {onnxruntime.__version__} on {served_by}"

    def run(self, images_NHWC: np.ndarray) -> dict[str, np.ndarray]:
        try:
            with self._lanes.lane() as lane:
                outputs = lane.run(images_NHWC, self._output_names)
        except Exception as error:  # its exceptions share no base class
            raise DannError(f"onnxruntime failed on a batch of {len(images_NHWC)}: {_first_line(error)}") from error
        return dict(zip(self._output_names, outputs, strict=True))

    def close(self) -> None:
        for lane in self._lanes.taken_down():
            lane.close()
        del self._session


class OnCpu:
    """One batch at a time, from and to memory of the host."""

    def __init__(self, session: onnxruntime.InferenceSession):
        self._session = session

    def run(self, batch: np.ndarray, outputs: list[str]) -> list[np.ndarray]:
        values = self._session.run(outputs, {self._session.get_inputs()[0].name: batch})
        return [np.asarray(value) for value in values]

    def close(self) -> None:
        pass


class OnDevice:
    """One batch at a time through buffers on a device, which stay for as long as batches have one shape.

    The batch goes through pinned memory where cuda-python is installed, as only that is copied without a detour.
    """

    def __init__(self, session: onnxruntime.InferenceSession, device: str, index: int):
        self._session = session
        self._place = device, index
        self._host = self._input = None
        self._pinned = cuda.Resources()

    def run(self, batch: np.ndarray, outputs: list[str]) -> list[np.ndarray]:
        try:
            return self._run(batch, outputs)
        except BaseException:
            self.close()  # whoever uses it does so no more
            raise

    def _run(self, batch: np.ndarray, outputs: list[str]) -> list[np.ndarray]:
        if self._host is None or (self._host.shape, self._host.dtype) != (batch.shape, batch.dtype):
            self._make_buffers(batch)
        assert self._host is not None and self._input is not None
        self._host[:] = batch
        self._input.update_inplace(self._host)
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(self._session.get_inputs()[0].name, self._input)
        for name in outputs:
            binding.bind_output(name)  # to the host: a few numbers for each image
        self._session.run_with_iobinding(binding)
        return [value.numpy() for value in binding.get_outputs()]

    def close(self) -> None:
        self._host = self._input = None
        self._pinned.close()

    def _make_buffers(self, batch: np.ndarray) -> None:
        self.close()
        try:
            self._host = self._pinned.pinned(batch.shape, batch.dtype.name)
        except DannError:  # no cuda-python, or no memory that can be pinned
            self._host = np.empty_like(batch)
        self._input = onnxruntime.OrtValue.ortvalue_from_shape_and_type(batch.shape, batch.dtype.type, *self._place)


def about() -> str:
    """Version and execution providers, in one line for people."""
    return f"onnxruntime {onnxruntime.__version__} with {', '.join(onnxruntime.get_available_providers())}"


def session_options(threads: int | None) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3  # errors: what matters is raised, the rest would break the progress line
    # idle engine threads would spin on the cores that decode images
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # of int8 it would take biases to int32, by a division that overflows float16 where a weight is small
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


def _open_session(
    model: Path, device: str, options: onnxruntime.SessionOptions
) -> tuple[onnxruntime.InferenceSession, str]:
    """A session, and the device that serves it, for ``auto`` with the reason."""
    if device == "cpu":
        return _cpu_session(model, options), "cpu"
    if device != "auto":
        return _cuda_session(model, options, device), device
    if _CUDA not in onnxruntime.get_available_providers():
        return _cpu_session(model, options), "cpu (auto: onnxruntime has no CUDA here)"
    try:
        return _cuda_session(model, options, "cuda:0"), "cuda:0 (auto: CUDA works here)"
    except UnavailableError as error:
        return _cpu_session(model, options), f"cpu (auto: {error})"


def _cpu_session(model: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(model, options, providers=[_CPU])
    except Exception as error:  # its exceptions share no base class
        raise BundleError(
            f"{model} cannot be loaded by onnxruntime {onnxruntime.__version__} ({_first_line(error)}); "
            "upgrade onnxruntime or re-export"
        ) from error


def _cuda_session(model: Path, options: onnxruntime.SessionOptions, device: str) -> onnxruntime.InferenceSession:
    """A session on CUDA alone; :class:`UnavailableError` where it would run on anything else."""
    if _CUDA not in onnxruntime.get_available_providers():
        raise UnavailableError(f'{device} needs an onnxruntime with CUDA, this one has none: pip install "dann[gpu]"')
    cuda = {
        "device_id": device.removeprefix("cuda:"),
        "cudnn_conv_algo_search": "HEURISTIC",  # the default measures for seconds at each new shape
        "use_tf32": "0",  # the bundle's verdict is on float32
    }
    try:
        with redirect_stdout(StringIO()):  # it prints what it did not find; the session says what matters
            onnxruntime.preload_dlls()
        session = onnxruntime.InferenceSession(model, options, providers=[(_CUDA, cuda)], enable_fallback=0)
    except Exception as error:  # its exceptions share no base class
        raise UnavailableError(f"onnxruntime cannot use {device}: {_first_line(error)}") from error
    if session.get_providers()[0] != _CUDA:
        raise UnavailableError(
            f"onnxruntime cannot use {device}: it fell back to {session.get_providers()[0]}; "
            "check the driver, CUDA and cuDNN"
        )
    return session


def _check_is(session: onnxruntime.InferenceSession, model: Path, artefact: Artefact) -> None:
    """Refuse a model whose tensors are not those of the manifest."""
    takes = [_tensor(tensor) for tensor in session.get_inputs()]
    gives = [_tensor(tensor) for tensor in session.get_outputs()]
    said = [
        [(tensor.name, tensor.dtype, [*tensor.shape[1:]]) for tensor in tensors]
        for tensors in (artefact.inputs, artefact.outputs)
    ]
    if [takes, gives] != said:
        raise BundleError(
            f"{model} takes {takes} and gives {gives}; the manifest says {said[0]} and {said[1]}; re-export"
        )


def _tensor(tensor: onnxruntime.NodeArg) -> tuple[str, str, list[int]]:
    """Name, NumPy name of the type, and shape without the batch."""
    kind = str(tensor.type).removeprefix("tensor(").removesuffix(")")
    return tensor.name, {"float": "float32"}.get(kind, kind), tensor.shape[1:]


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
