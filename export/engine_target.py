"""What an engine is built for: which GPUs, which versions, how much memory.

TensorRT builds on the GPU that runs the engine. TensorRT for RTX needs none, and is told compute capabilities.
"""

import re
from typing import Any

from dann.export.settings import EngineConfig
from dann.infer import cuda
from dann.infer.errors import DannError, UsageError, unknown_name
from dann.infer.tensorrt_names import TensorRT

_TURING = "SM75"  # an engine for it and newer GPUs would be built for the oldest


def configure(trt: TensorRT, settings: Any, config: EngineConfig) -> dict[str, str]:
    """Put ``config`` into TensorRT's settings; gives what the engine will require, by name.

    Raises :class:`UsageError` for what this TensorRT cannot be asked for, :class:`UnavailableError` where there is no
    GPU and one is needed.
    """
    check_target(trt, config)
    if config.workspace_mib is not None:
        settings.set_memory_pool_limit(trt.api.MemoryPoolType.WORKSPACE, config.workspace_mib * 2**20)
    if trt.name == "tensorrt-rtx":
        return {trt.name: trt.version, "compute_capability": ", ".join(_for_rtx(trt, settings, config))}
    here = cuda.devices()[0].compute_capability
    if config.hardware_compatible:
        settings.hardware_compatibility_level = trt.api.HardwareCompatibilityLevel.AMPERE_PLUS
    if config.version_compatible:
        settings.set_flag(trt.api.BuilderFlag.VERSION_COMPATIBLE)
    return {
        trt.name: f">={trt.version}" if config.version_compatible else trt.version,
        "compute_capability": "8.0+" if config.hardware_compatible else here,
    }


def check_target(trt: TensorRT, config: EngineConfig) -> None:
    """Raise :class:`UsageError` for what this TensorRT cannot be asked for."""
    if trt.name != "tensorrt-rtx":
        if config.gpus:
            raise UsageError(
                f"{', '.join(config.gpus)} asked for; TensorRT builds for the GPU of this machine alone, or, with "
                "--hardware-compatible, for all from Ampere on"
            )
        return
    for asked, option in ((config.hardware_compatible, "hardware"), (config.version_compatible, "version")):
        if asked:
            raise UsageError(f"{trt} has no --{option}-compatible engines; name GPUs with --gpu, or install tensorrt")
    if config.timing_cache is not None:
        raise UsageError(f"{trt} times nothing while it builds; leave --timing-cache out, or install tensorrt")
    known = _known(trt)
    for name in config.gpus:
        if name.upper() not in known:
            error = unknown_name("GPU", name, map(str.lower, known))
            raise UsageError(f"{error}; {trt} serves no others: data center GPUs as sm90 need tensorrt")


def _known(trt: TensorRT) -> list[str]:
    """``["SM75", "SM80", …]``"""
    return [name for name in dir(trt.api.ComputeCapability) if _number(name)]


def _for_rtx(trt: TensorRT, settings: Any, config: EngineConfig) -> list[str]:
    """The compute capabilities that are set: ``["8.6", "12.0"]``."""
    known = _known(trt)
    wanted = sorted({name.upper() for name in config.gpus} or set(known) - {_TURING}, key=_number)
    settings.num_compute_capabilities = len(wanted)
    for index, name in enumerate(wanted):
        if not settings.set_compute_capability(getattr(trt.api.ComputeCapability, name), index):
            raise DannError(f"{trt} refuses the compute capability {name}")
    return [f"{_number(name) // 10}.{_number(name) % 10}" for name in wanted]


def _number(name: str) -> int:
    """120 of ``SM120``; 0 of what is no such name."""
    found = re.fullmatch(r"SM(\d+)", name)
    return int(found[1]) if found else 0
