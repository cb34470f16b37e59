"""TensorRT 10 and 11 and TensorRT for RTX under one set of names; nothing else in dann imports any of them.

Members of enums are taken by name, as their numbers differ between versions. What stands in :data:`NAMES` is all that
dann uses for building, and all versions have it.
"""

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from dann.infer.errors import UnavailableError

NAMES = (
    "Builder.create_builder_config",
    "Builder.create_network",
    "Builder.create_optimization_profile",
    "Builder.build_serialized_network",
    "BuilderFlag.TF32",
    "DataType.FLOAT",
    "DataType.HALF",
    "IBuilderConfig.add_optimization_profile",
    "IBuilderConfig.clear_flag",
    "IBuilderConfig.progress_monitor",
    "ILogger.Severity",
    "INetworkDefinition.get_input",
    "INetworkDefinition.get_layer",
    "IOptimizationProfile.set_shape",
    "IProgressMonitor",
    "LayerType.CONVOLUTION",
    "LayerType.MATRIX_MULTIPLY",
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
    "OnnxParser.get_error",
    "OnnxParser.parse",
)


@dataclass(frozen=True)
class TensorRT:
    """An installed TensorRT."""

    name: str
    """``tensorrt`` or ``tensorrt-rtx``."""
    api: ModuleType

    @property
    def version(self) -> str:
        return self.api.__version__

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def installed() -> TensorRT:
    """``tensorrt``, else ``tensorrt-rtx``; :class:`UnavailableError`, with the line to type, where neither is."""
    for name in ("tensorrt", "tensorrt-rtx"):
        try:
            return TensorRT(name, import_module(name.replace("-", "_")))
        except ModuleNotFoundError:
            continue
    raise UnavailableError(
        'building an engine needs TensorRT, which is not installed; run: pip install "dann[trt]" on the machine that '
        'will run the engine, or pip install "dann[trt-rtx]", which builds engines for RTX GPUs on any machine'
    )


def missing_names(trt: TensorRT) -> list[str]:
    """Those of :data:`NAMES` that this TensorRT lacks."""

    def has(name: str) -> bool:
        value: Any = trt.api
        for part in name.split("."):
            if not hasattr(value, part):
                return False
            value = getattr(value, part)
        return True

    return [name for name in NAMES if not has(name)]


@cache
def logger(api: ModuleType) -> Any:
    """The one logger of a process, as TensorRT keeps the first that it is given; ``lines`` holds what was said."""

    class Lines(api.ILogger):
        def __init__(self) -> None:
            api.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (api.ILogger.Severity.INTERNAL_ERROR, api.ILogger.Severity.ERROR):
                self.lines.append(msg.strip())

    return Lines()
