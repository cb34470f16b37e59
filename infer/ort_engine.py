"""The ONNX Runtime engine, on the CPU or on CUDA.

Where CUDA does not work, ONNX Runtime serves a request for it from the CPU: with a warning, a line on stdout
or nothing at all, depending on what is missing. So the provider is checked after the session is made.
"""

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import onnxruntime

from dann.infer.bundle import Artefact, Bundle, BundleError
from dann.infer.errors import DannError, UnavailableError
from dann.infer.versions import check_version

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class OrtEngine:
    """An ONNX model of a bundle in an ONNX Runtime session; see :class:`dann.infer.engine.Engine`."""

    def __init__(self, bundle: Bundle, artefact: Artefact, *, device: str, threads: int | None):
        self.artefact = artefact
        check_version(artefact, "onnxruntime", onnxruntime.__version__, "upgrade it, or take another --precision")
        model = bundle.file(artefact)
        self._session, served_by = _open_session(model, device, session_options(threads))
        _check_is(self._session, model, artefact)
        self._output_names = [output.name for output in self._session.get_outputs()]
        precision = "" if artefact.precision == "fp32" else f"{artefact.precision} in "
        self.description = f"{precision}onnxruntime {onnxruntime.__version__} on {served_by}"

    def run(self, images_NHWC: np.ndarray) -> dict[str, np.ndarray]:
        try:
            outputs = self._session.run(self._output_names, {self._session.get_inputs()[0].name: images_NHWC})
        except Exception as error:  # its exceptions share no base class
            raise DannError(f"onnxruntime failed on a batch of {len(images_NHWC)}: {_first_line(error)}") from error
        return dict(zip(self._output_names, (np.asarray(output) for output in outputs), strict=True))

    def close(self) -> None:
        del self._session


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
