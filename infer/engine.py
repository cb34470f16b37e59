"""What runs a network. One small protocol, one file per runtime behind it."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Protocol

import numpy as np

from dann.infer.bundle import Artefact, Bundle, BundleError, Manifest
from dann.infer.errors import UnavailableError, UsageError, missing_extra, unknown_name

FORMATS = {"ort": "onnx", "openvino": "openvino", "trt": "tensorrt", "trt-rtx": "tensorrt-rtx"}
"""By engine, the format of the artefacts that it runs."""

DEVICES = {"onnx": ("cpu", "cuda:0"), "openvino": ("cpu",), "tensorrt": ("cuda:0",), "tensorrt-rtx": ("cuda:0",)}
"""By format, where its artefacts may run."""

_PREFERRED = ("trt", "trt-rtx", "ort", "openvino")
_MOST_THREADS = 1024  # a runtime that is asked for 100,000 takes all memory and cannot be stopped


class Engine(Protocol):
    """An open network, ready to run on one device."""

    artefact: Artefact
    """What it runs: its inputs and outputs, and the batch sizes it accepts."""

    description: str
    """What runs where, in one line for people: ``"onnxruntime 1.31.1 on cpu"``, and for ``auto`` why."""

    lanes: int
    """How many batches it computes at once. As many threads may be in :meth:`run`; others wait there for their turn."""

    elsewhere: bool
    """Whether it computes on a device or in threads of its own, while the thread that called it waits."""

    def run(self, images_NHWC: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs by name, float32 (N, …), for uint8 RGB images (N, height, width, 3).

        A label classifier by itself takes features, float32 (N, D), in their place. Any thread may call it. Raises
        :class:`DannError` where the runtime fails, or takes no such batch.
        """
        ...

    def close(self) -> None:
        """Give back memory and device; the engine cannot be used afterwards."""
        ...


class Chain:
    """Engines of which each feeds its first output to the next, as one callable."""

    def __init__(self, engines: Sequence[Engine]):
        self._engines = engines

    @property
    def description(self) -> str:
        """Of the engines, which share a runtime and a device."""
        return self._engines[0].description

    def __call__(self, images_NHWC: np.ndarray) -> dict[str, np.ndarray]:
        """The last engine's outputs by name, float32 (N, …)."""
        first, *others = self._engines
        outputs = first.run(images_NHWC)
        for before, engine in zip(self._engines, others, strict=False):
            outputs = engine.run(outputs[before.artefact.outputs[0].name])
        return outputs


def open_engine(
    bundle: Bundle,
    *,
    device: str = "auto",
    threads: int | None = None,
    precision: str | None = None,
    engine: str = "auto",
    lanes: int = 1,
) -> Engine:
    """The engine that serves ``bundle`` on ``device``.

    ``device`` is ``cpu``, ``cuda`` (the first), ``cuda:N``, or ``auto``: the first CUDA device where CUDA works,
    else the CPU. ``engine`` is one of :data:`FORMATS`, or ``auto``: TensorRT where the bundle has an engine for the
    device, else ONNX Runtime. A device or an engine asked for by name serves, or :class:`UnavailableError` is raised;
    so it is where the runtime is not installed. ``threads`` is how many CPU threads compute, ``None`` for one per core;
    they are shared among ``lanes`` batches at once, fewer where there are fewer threads. ``precision`` is that of the
    artefact, ``None`` for float32 where the bundle has it. Raises :class:`UsageError` where it has not the one asked
    for, :class:`BundleError` where a file is not the exported one.
    """
    device = check_device(device)
    if threads is not None and not 1 <= threads <= _MOST_THREADS:
        raise UsageError(f"{threads} engine threads asked for; expected 1 to {_MOST_THREADS}")
    manifest = bundle.manifest
    opened_by = partial(open_artefact, bundle, device=device, threads=threads, lanes=lanes)
    if engine != "auto":
        if engine not in FORMATS:
            raise unknown_name("engine", engine, ("auto", *FORMATS))
        chosen = manifest.artefact(format=FORMATS[engine], precision=precision)
        return opened_by(chosen)
    *others, last = _candidates(manifest, device, precision)
    reasons = []
    for artefact in others:
        try:
            return opened_by(artefact)
        except UnavailableError as error:
            reasons.append(f"; not {artefact.format}: {error}")
    opened = opened_by(last)
    opened.description += "".join(reasons)
    return opened


def open_artefact(
    bundle: Bundle, artefact: Artefact, *, device: str, threads: int | None = None, lanes: int = 1
) -> Engine:
    """The engine for one artefact of ``bundle``; raises as :func:`open_engine` does."""
    _check_fits(bundle.manifest, artefact)
    if artefact.format in ("tensorrt", "tensorrt-rtx"):
        from dann.infer.tensorrt_engine import TensorRtEngine

        return TensorRtEngine(bundle, artefact, device=device)
    if artefact.format == "openvino":
        try:
            from dann.infer.openvino_engine import OpenVinoEngine
        except ModuleNotFoundError as error:
            raise missing_extra("openvino", "openvino", "running a model of OpenVINO") from error
        return OpenVinoEngine(bundle, artefact, device=device, threads=threads, lanes=lanes)
    if artefact.format != "onnx":
        raise UsageError(f"{artefact.files[0]} is of the format {artefact.format!r}, which dann does not run itself")
    try:
        from dann.infer.ort_engine import OrtEngine
    except ModuleNotFoundError as error:
        raise missing_extra("cpu", "onnxruntime", "running an ONNX model") from error
    return OrtEngine(bundle, artefact, device=device, threads=threads, lanes=lanes)


def check_device(device: str) -> str:
    """``device`` with its number; raises :class:`UsageError` for what is none."""
    device = "cuda:0" if device == "cuda" else device
    if not re.fullmatch(r"auto|cpu|cuda:\d+", device):
        raise unknown_name("device", device, ("auto", "cpu", "cuda:0"))
    return device


def _candidates(manifest: Manifest, device: str, precision: str | None) -> list[Artefact]:
    """What could serve on ``device``, the best first; at least one."""
    found = []
    for engine in _PREFERRED:
        try:
            found.append(manifest.artefact(format=FORMATS[engine], precision=precision))
        except UsageError:
            continue
    on_cpu = [artefact for artefact in found if not artefact.format.startswith("tensorrt")]
    return (on_cpu if device == "cpu" else found) or [manifest.artefact(precision=precision)]


def _check_fits(manifest: Manifest, artefact: Artefact) -> None:
    """Refuse an artefact whose tensors are not what the manifest's preprocessing and classes imply."""
    if artefact.role != "classifier":
        return
    spec, classes = manifest.preprocess, len(manifest.classes)
    takes = [(tensor.dtype, tensor.shape[1:]) for tensor in artefact.inputs]
    gives = {tensor.name: tensor.shape[1:] for tensor in artefact.outputs}
    if takes != [("uint8", (spec.height, spec.width, 3))] or gives.get("probabilities") != (classes,):
        raise BundleError(
            f"{artefact.files[0]} takes {takes} and gives {gives}; the manifest says one uint8 input "
            f"of {spec.height}x{spec.width}x3 and {classes} probabilities; re-export"
        )
