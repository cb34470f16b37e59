"""The CUDA kernel behind the gradient reversal: compiled where it runs, kept on disk, launched on torch's stream.

The source is ``csrc/gradient_reversal.cu``. NVRTC compiles it at first use for the GPU at hand, so no compiler need be
installed; cuda.core's program cache keeps the result in the user's cache, by a key of source, architecture and compiler
version, and writes so that two processes may do it at once. Where CUDA, NVRTC or cuda.core is missing, :func:`choice`
says why, and torch computes the same.
"""

import logging
import os
import threading
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dann.infer.errors import UnavailableError, unknown_name

SOURCE = Path(__file__).parent / "csrc" / "gradient_reversal.cu"
CHOICES = ("auto", "kernel", "torch")
"""What the environment variable ``DANN_REVERSAL`` may say; ``auto`` takes the kernel where it can."""

_BLOCK = 256  # threads, as in the source
_MOST_BLOCKS = 2**31 - 1
_ACCESS_BYTES = 16

log = logging.getLogger(__name__)
_thread = threading.local()


@dataclass(frozen=True)
class Choice:
    """Who computes the gradient on a device, and why."""

    kernel: bool
    reason: str


def choice(device: torch.device) -> Choice:
    """Made once for each device of a process, as ``DANN_REVERSAL`` says (:data:`CHOICES`).

    Raises :class:`UnavailableError` where the kernel was asked for by name and is not to be had.
    """
    return _choose(device, os.environ.get("DANN_REVERSAL") or "auto")


@cache
def _choose(device: torch.device, wanted: str) -> Choice:
    if wanted not in CHOICES:
        raise unknown_name("DANN_REVERSAL", wanted, CHOICES)
    if wanted == "torch":
        return Choice(False, "DANN_REVERSAL=torch")
    obstacle = _obstacle(device)
    if obstacle is None:
        return Choice(True, f"compiled for {_architecture(device)}")
    if wanted == "kernel":
        raise UnavailableError(f"DANN_REVERSAL=kernel asks for the CUDA kernel on {device}, and {obstacle}")
    if device.type == "cuda":
        log.warning("gradient reversal by torch on %s: %s", device, obstacle)
    return Choice(False, obstacle)


def options(architecture: str) -> Any:
    """What the source is compiled with for ``architecture`` (``sm_90``), a ``cuda.core.ProgramOptions``."""
    return _cuda("core").ProgramOptions(arch=architecture, std="c++17")


def program(architecture: str) -> Any:
    """The source as a ``cuda.core.Program``, ready to be compiled; ``ImportError`` where that is not installed."""
    return _cuda("core").Program(SOURCE.read_text(encoding="utf-8"), "c++", options(architecture))


def compile_source(architecture: str) -> Any:
    """The kernels as machine code (``cuda.core.ObjectCode``), from the cache where they are there."""
    source = program(architecture)
    try:
        with _cuda("core.utils").FileStreamProgramCache() as kept:
            return source.compile("cubin", cache=kept)
    except (OSError, RuntimeError) as error:  # not writable, or no home
        log.info("the compiled kernel is not kept: %s", error)
        return source.compile("cubin")


def launch(
    label: Tensor | None, domain: Tensor, result: Tensor, lam: float | Tensor, nonfinite: Tensor | None = None
) -> None:
    """Write ``label - lam * domain``, or ``-lam * domain``, to ``result``.

    All are dense on one CUDA device and of the same strides. ``lam`` is a number or a 0-d tensor of that device,
    float64 for float64 results and float32 for others. ``nonfinite`` (0-d, int64) is raised by the number of results
    that are not finite. Asynchronous, on torch's current stream; captured where that captures.
    """
    if not result.numel():
        return
    core = _cuda("core")
    each = _ACCESS_BYTES // min(domain.element_size(), result.element_size())
    blocks = min(-(-result.numel() // (each * _BLOCK)), _MOST_BLOCKS)
    by_number = isinstance(lam, (int, float))
    with torch.cuda.device(result.device):
        _enter_context(result.device.index)
        core.launch(
            _TorchStream(torch.cuda.current_stream()),
            core.LaunchConfig(grid=blocks, block=_BLOCK),
            _kernel(result.device, result.dtype, domain.dtype),
            0 if label is None else label.data_ptr(),
            domain.data_ptr(),
            result.data_ptr(),
            result.numel(),
            float(lam) if by_number else 0.0,
            0 if by_number else lam.data_ptr(),
            0 if nonfinite is None else nonfinite.data_ptr(),
        )


class _TorchStream:
    def __init__(self, stream: torch.cuda.Stream):
        self._handle = stream.cuda_stream

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._handle


def _obstacle(device: torch.device) -> str | None:
    """What keeps the kernel from running on ``device``, in words."""
    if device.type != "cuda":
        return f"that is no CUDA device but {device.type}"
    try:
        _kernel(device, torch.float32, torch.float32)
    except ImportError as error:
        cuda = (torch.version.cuda or "13").split(".")[0]
        return f'{error}; run: pip install "cuda-core[cu{cuda}]"'
    except Exception as error:  # NVRTC missing, a driver too old, an architecture unknown: each has an error of its own
        return f"it cannot be compiled or loaded: {error}"
    return None


def _architecture(device: torch.device) -> str:
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


@cache
def _kernel(device: torch.device, result: torch.dtype, domain: torch.dtype) -> Any:
    name = "reverse_" + "_".join(str(dtype).removeprefix("torch.") for dtype in (result, domain))
    return _module(_architecture(device)).get_kernel(name)


@cache
def _module(architecture: str) -> Any:
    code = compile_source(architecture)
    try:
        code.get_kernel("reverse_float32_float32")
    except Exception:  # what was kept is damaged
        code = program(architecture).compile("cubin")
    return code


def _enter_context(index: int) -> None:
    """Of the device, in this thread: torch enters it only with the first operation of its own."""
    if getattr(_thread, "context", None) != index:
        _cuda("core").Device(index).set_current()
        _thread.context = index


def _cuda(module: str) -> Any:
    return import_module(f"cuda.{module}")
