"""Where a run computes."""

import warnings
from typing import Literal

import torch

from dann.infer.errors import UnavailableError, UsageError
from dann.train.distributed import local_rank, started_by_torchrun
from dann.train.settings import TrainConfig


def find_device(config: TrainConfig, wanted: str | None = None) -> torch.device:
    """The device ``wanted``, else that of ``config``; :class:`UnavailableError` if it is unusable."""
    wanted = wanted or config.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise UsageError(f"device {wanted!r} is not one of auto, cpu, cuda, cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {wanted!r} is not one of auto, cpu, cuda, cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        what = cuda_obstacle() or f"{torch.cuda.device_count()} usable CUDA devices are here"
        raise UnavailableError(f"device {wanted!r} was asked for: {what}; use cpu or auto")
    return device


def cuda_obstacle() -> str | None:
    """What keeps torch from using CUDA (no driver, one that is too old, no device), ``None`` if nothing does."""
    if torch.cuda.is_available():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they say is in the error
        try:
            torch.cuda.init()
        except (RuntimeError, AssertionError) as error:
            return str(error).split(". ")[0].splitlines()[0].rstrip(".")
    return "no CUDA device is visible"


def training_device(config: TrainConfig) -> torch.device:
    """The device of ``config``; :class:`UnavailableError` too where it cannot train in the precision asked for."""
    device = find_device(config)
    if device.type == "cuda" and device.index is None and started_by_torchrun():
        device = find_device(config, f"cuda:{local_rank()}")  # each process of a machine has a GPU of its own
    if config.amp == "fp16" and device.type != "cuda":
        raise UnavailableError("--amp fp16 needs CUDA; on the CPU use --amp bf16 or off")
    return device


def precision(config: TrainConfig, device: torch.device) -> Literal["off", "bf16", "fp16"]:
    """``config.amp``, ``auto`` being what ``device`` computes in: bfloat16 from Ampere on, or with AVX-512 or AMX."""
    if config.amp != "auto":
        return config.amp
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "off"
    has_bfloat16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if has_bfloat16 else "off"
