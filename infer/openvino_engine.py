"""The OpenVINO engine, on the CPU.

Left to itself OpenVINO computes in bfloat16 or float16 where the CPU can. So the precision is asked for, and looked at
after the network is compiled: a CPU that lacks it is given another one without a word.

With several lanes each batch is computed by a core of its own, which waits less for the others than one that takes its
share of each layer.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np

from dann.infer.bundle import Artefact, Bundle, BundleError
from dann.infer.errors import DannError, UnavailableError
from dann.infer.lanes import Lanes
from dann.infer.versions import check_version


@contextmanager
def _untold() -> Iterator[None]:
    """Inside, OpenVINO is imported without its telemetry, which is optional to it.

    Importing it would else start a thread, write an identifier into the home folder and report the use of OpenVINO to
    its makers.
    """
    unset = "openvino_telemetry" not in sys.modules
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        yield
    finally:
        if unset:
            del sys.modules["openvino_telemetry"]


with _untold():
    import openvino

VERSION = openvino.__version__.partition("-")[0]
"""``2026.4.1``, without number and name of the build."""


class OpenVinoEngine:
    """A network in OpenVINO's format, compiled for this CPU; see :class:`dann.infer.engine.Engine`.

    ``device`` is ``cpu``, or ``auto`` for the same. Raises :class:`UnavailableError` for another device and where the
    CPU lacks the artefact's precision, :class:`BundleError` where a file is not the exported one or no network.
    """

    elsewhere = True

    def __init__(self, bundle: Bundle, artefact: Artefact, *, device: str, threads: int | None, lanes: int = 1):
        if device not in ("auto", "cpu"):
            raise UnavailableError(f"openvino runs on the CPU, not on {device}: take --device cpu, or another engine")
        self.artefact = artefact
        check_version(artefact, "openvino", VERSION, "upgrade it, or take --engine ort")
        model = bundle.file(artefact)
        self._compiled = _compile(model, artefact.precision, threads, lanes)
        _check_is(self._compiled, model, artefact)
        self.lanes = 1 if lanes == 1 else self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self._requests = Lanes(lambda: _Request(self._compiled), self.lanes)
        precision = "" if artefact.precision == "fp32" else f"{artefact.precision} in "
        self.description = f"{precision}openvino {VERSION} on cpu"

    def run(self, images_NHWC: np.ndarray) -> dict[str, np.ndarray]:
        try:
            with self._requests.lane() as request:
                return request.run(images_NHWC, [tensor.name for tensor in self.artefact.outputs])
        except (RuntimeError, ValueError) as error:
            raise DannError(f"openvino failed on a batch of {len(images_NHWC)}: {reason(error)}") from error

    def close(self) -> None:
        self._requests.taken_down()
        del self._compiled


class _Request:
    """One batch at a time."""

    def __init__(self, compiled: openvino.CompiledModel):
        self._request = compiled.create_infer_request()

    def run(self, images_NHWC: np.ndarray, outputs: list[str]) -> dict[str, np.ndarray]:
        # kept: a request reads on where Ctrl-C ends the waiting, and does not itself keep what it reads
        self._images_NHWC = np.ascontiguousarray(images_NHWC)
        self._request.set_input_tensor(openvino.Tensor(self._images_NHWC, shared_memory=True))
        self._request.start_async()
        self._request.wait()
        return {name: self._request.get_tensor(name).data.copy() for name in outputs}


@cache
def core() -> openvino.Core:
    """The one of this process, which lives as long as that.

    Each gives the thread a stack for signals, and takes it away with itself. Of two, the first that goes leaves the
    other with the address of memory that is no longer there, and the next signal ends the process.
    """
    made = openvino.Core()
    made.set_property({"ENABLE_MMAP": False})  # writing to a file that is mapped would end the process
    return made


def about() -> str:
    """Version and devices, in one line for people."""
    return f"openvino {VERSION} with {', '.join(core().available_devices)}"


def reason(error: Exception) -> str:
    """The last line of an error of OpenVINO; the lines before are places in its source."""
    return str(error).strip().rpartition("\n")[2]


def _compile(model: Path, precision: str, threads: int | None, lanes: int) -> openvino.CompiledModel:
    computes_in = "bf16" if precision == "bf16" else "f32"
    settings: dict[str, str | int] = {
        "PERFORMANCE_HINT": "LATENCY" if lanes == 1 else "THROUGHPUT",
        "PERFORMANCE_HINT_NUM_REQUESTS": lanes,
        "INFERENCE_PRECISION_HINT": computes_in,
        "ENABLE_CPU_PINNING": False,  # threads that decode images, and other processes, share the cores
    }
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    try:
        compiled = core().compile_model(core().read_model(model), "CPU", settings)
    except RuntimeError as error:
        raise BundleError(
            f"{model} cannot be loaded by openvino {VERSION} ({reason(error)}); upgrade openvino or re-export"
        ) from error
    given = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if given != computes_in:
        raise UnavailableError(
            f"this CPU cannot compute in {precision} (openvino would do it in {given}); take --precision fp32 or fp16"
        )
    return compiled


def _check_is(compiled: openvino.CompiledModel, model: Path, artefact: Artefact) -> None:
    """Refuse a network whose tensors are not those of the manifest."""
    names = {tensor.name for tensor in (*artefact.inputs, *artefact.outputs)}
    takes, gives = ([_tensor(tensor, names) for tensor in tensors] for tensors in (compiled.inputs, compiled.outputs))
    said = [
        [(tensor.name, tensor.dtype, [*tensor.shape[1:]]) for tensor in tensors]
        for tensors in (artefact.inputs, artefact.outputs)
    ]
    if [takes, gives] != said:
        raise BundleError(
            f"{model} takes {takes} and gives {gives}; the manifest says {said[0]} and {said[1]}; re-export"
        )


def _tensor(tensor: openvino.ConstOutput, known: set[str]) -> tuple[str, str, list[int]]:
    """Name, NumPy name of the type, and shape without the batch."""
    # where a cast falls away, what came before it gives its name as well
    name = min(tensor.get_names() & known, default=tensor.get_any_name())
    _, *shape = tensor.get_partial_shape()
    # to_dtype is called here, before any lane does: the first time in two threads at once, it never ends (2026.4.1)
    return name, str(tensor.get_element_type().to_dtype()), [side.get_length() for side in shape]
