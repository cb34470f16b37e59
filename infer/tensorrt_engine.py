"""The TensorRT engine, of TensorRT 10, 11 or for RTX, on CUDA and without torch.

A plan runs where it was built for, and may end the process elsewhere. So what the manifest requires is compared first,
with the installed package and then with the device, and the file is hashed; only then TensorRT is imported.

Two batches may be under way, each in a slot of its own: the host prepares one while the device computes the other.
"""

from contextlib import ExitStack
from typing import Any

import numpy as np

from dann.infer import cuda
from dann.infer.bundle import Artefact, Bundle, BundleError
from dann.infer.errors import DannError, UnavailableError
from dann.infer.lanes import Lanes
from dann.infer.tensorrt_names import TensorRT, installed_version, load, logger, said
from dann.infer.tensorrt_slot import Slot
from dann.infer.versions import check_version, numbers

_SLOTS = 2


class TensorRtEngine:
    """A plan of a bundle on a CUDA device; see :class:`dann.infer.engine.Engine`.

    ``device`` is ``cuda:N``, or ``auto`` for ``cuda:0``. ``artefact.format`` is ``tensorrt`` or ``tensorrt-rtx``;
    ``artefact.requires`` names the version under the format, ``"10.13.3.9"``, or ``">=10.13"`` for a
    version-compatible plan, and under ``compute_capability`` what it runs on: ``"8.6"``, ``"8.0, 8.6"``, or ``"8.0+"``
    for that and newer. Raises :class:`UnavailableError` where it cannot run here, with the line that rebuilds it.
    """

    lanes = _SLOTS
    elsewhere = True

    def __init__(self, bundle: Bundle, artefact: Artefact, *, device: str):
        self.artefact = artefact
        here = installed_version(artefact.format)
        check_version(artefact, artefact.format, here, _rebuild(artefact))
        self._device = _fitting_device(artefact, device)
        plan = bundle.file(artefact).read_bytes()
        self._trt = load(artefact.format)
        self._use_device()
        self._engine = _deserialised(self._trt, plan, artefact)
        self._smallest, self._largest = _limits(self._trt, self._engine, artefact)
        self._slots = Lanes(self._slot, _SLOTS)
        with self._slots.lane():  # what does not fit is found out now
            pass
        precision = "" if artefact.precision == "fp32" else f"{artefact.precision} in "
        why = " (auto: CUDA works here)" if device == "auto" else ""
        self.description = f"{precision}{self._trt} on cuda:{self._device}{why}"

    def run(self, images_NHWC: np.ndarray) -> dict[str, np.ndarray]:
        self._check_batch(images_NHWC)
        self._use_device()
        with self._slots.lane() as slot:
            slot.begin(images_NHWC)
            return slot.end()

    def close(self) -> None:
        with ExitStack() as stack:
            for slot in self._slots.taken_down():
                stack.callback(slot.close)
            self._use_device()
        self._engine = None

    def _slot(self) -> Slot:
        return Slot(self._trt, self._engine, self.artefact, largest=self._largest)

    def _use_device(self) -> None:
        """CUDA has one for each thread, and this may be another thread than before."""
        cuda.call(cuda.api().cudaSetDevice, self._device)

    def _check_batch(self, batch: np.ndarray) -> None:
        [takes] = self.artefact.inputs
        fits = (batch.dtype.name, batch.shape[1:]) == (takes.dtype, takes.shape[1:])
        if not fits or not self._smallest <= len(batch) <= self._largest:
            raise DannError(
                f"the engine was given a batch of {batch.dtype} {batch.shape}; expected "
                f"{self._smallest} to {self._largest} of {takes.dtype} {takes.shape[1:]}"
            )


def _fitting_device(artefact: Artefact, device: str) -> int:
    """The number of the CUDA device to run on."""
    if device == "cpu":
        raise UnavailableError(f"{artefact.files[0]} runs on CUDA alone, and cpu was asked for; take the ONNX artefact")
    index = 0 if device == "auto" else int(device.removeprefix("cuda:"))
    found = cuda.devices()
    if index >= len(found):
        raise UnavailableError(f"cuda:{index} was asked for; the last one of this machine is cuda:{len(found) - 1}")
    here = found[index].compute_capability
    needs = artefact.requires.get("compute_capability", here)
    for entry in needs.split(","):
        if numbers(entry) == numbers(here) or (entry.strip().endswith("+") and numbers(entry) < numbers(here)):
            return index
    raise _unfit(artefact, f"compute capability {needs}", f"cuda:{index} ({found[index].name}) has {here}")


def _unfit(artefact: Artefact, needs: str, here: str) -> UnavailableError:
    return UnavailableError(f"{artefact.files[0]} needs {needs}; {here}; {_rebuild(artefact)}")


def _rebuild(artefact: Artefact) -> str:
    """The command for the same engine."""
    batch = ":".join(str(artefact.batch[name] or "") for name in ("min", "opt", "max"))
    command = f"dann export --format trt --precision {artefact.precision} --batch {batch}"
    return f"rebuild it with what will run it: {command}"


def _deserialised(trt: TensorRT, plan: bytes, artefact: Artefact) -> Any:
    logger(trt.api).lines.clear()
    try:
        runtime = trt.api.Runtime(logger(trt.api))
        # such a plan brings its own runtime, as machine code; the file's hash is that of the manifest
        runtime.engine_host_code_allowed = artefact.requires.get(trt.name, "").startswith(">=")
        engine = runtime.deserialize_cuda_engine(plan)  # keeps the runtime alive
    except Exception as error:  # of pybind11; the reason is in the log alone
        raise UnavailableError(f"{trt} cannot start here: {said(trt)}; `dann doctor` says what is here") from error
    if engine is None:
        raise _unfit(artefact, "what it was built for", f"{trt} refuses it here: {said(trt)}")
    return engine


def _limits(trt: TensorRT, engine: Any, artefact: Artefact) -> tuple[int, int]:
    """The smallest and the largest batch; :class:`BundleError` where the plan's tensors are not the manifest's."""
    api = trt.api
    kinds = {api.DataType.UINT8: "uint8", api.DataType.FLOAT: "float32"}
    takes, gives = {}, {}
    for name in (engine.get_tensor_name(index) for index in range(engine.num_io_tensors)):
        side = takes if engine.get_tensor_mode(name) == api.TensorIOMode.INPUT else gives
        side[name] = kinds.get(engine.get_tensor_dtype(name)), tuple(engine.get_tensor_shape(name))[1:]
    expected = [{t.name: (t.dtype, t.shape[1:]) for t in side} for side in (artefact.inputs, artefact.outputs)]
    if [takes, gives] != expected:
        raise BundleError(
            f"{artefact.files[0]} takes {takes} and gives {gives}; the manifest says {expected[0]} and {expected[1]}; "
            "re-export"
        )
    smallest, _, largest = engine.get_tensor_profile_shape(*takes, 0)
    return smallest[0], largest[0]
