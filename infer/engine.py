"""What runs a network. One small protocol, one file per runtime behind it."""

import re
from typing import Protocol

import numpy as np

from dann.infer.bundle import Artefact, Bundle
from dann.infer.errors import UsageError, missing_extra, unknown_name

_MOST_THREADS = 1024  # a runtime that is asked for 100,000 takes all memory and cannot be stopped


class Engine(Protocol):
    """An open network, ready to run on one device. Not for several threads at once."""

    artefact: Artefact
    """What it runs: its inputs and outputs, and the batch sizes it accepts."""

    description: str
    """What runs where, in one line for people: ``"onnxruntime 1.31.1 on cpu"``, and for ``auto`` why."""

    def run(self, images_NHWC: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs by name, float32 (N, …), for uint8 RGB images (N, height, width, 3)."""
        ...

    def close(self) -> None:
        """Give back memory and device; the engine cannot be used afterwards."""
        ...


def open_engine(
    bundle: Bundle, *, device: str = "auto", threads: int | None = None, precision: str | None = None
) -> Engine:
    """The engine that serves ``bundle`` on ``device``.

    ``device`` is ``cpu``, ``cuda`` (the first), ``cuda:N``, or ``auto``: the first CUDA device where CUDA works,
    else the CPU. A device asked for by name serves, or :class:`UnavailableError` is raised; so it is where the
    runtime is not installed. ``threads`` is how many CPU threads compute one batch, ``None`` for one per physical
    core. ``precision`` is that of the artefact, ``None`` for float32 where the bundle has it. Raises
    :class:`UsageError` where it has not the one asked for, :class:`BundleError` where the model file is not the
    exported one.
    """
    device = "cuda:0" if device == "cuda" else device
    if not re.fullmatch(r"auto|cpu|cuda:\d+", device):
        raise unknown_name("device", device, ("auto", "cpu", "cuda:0"))
    if threads is not None and not 1 <= threads <= _MOST_THREADS:
        raise UsageError(f"{threads} engine threads asked for; expected 1 to {_MOST_THREADS}")
    try:
        from dann.infer.ort_engine import OrtEngine
    except ModuleNotFoundError as error:
        raise missing_extra("cpu", "onnxruntime", "running an ONNX model") from error
    return OrtEngine(bundle, bundle.manifest.artefact(precision=precision), device=device, threads=threads)
