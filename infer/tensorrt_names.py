"""TensorRT 10 and 11 and TensorRT for RTX under one set of names; nothing else in dann imports any of them.

Members of enums are taken by name, as their numbers differ between versions. What stands in :data:`NAMES` is all that
dann uses for building and running, and all versions have it; :data:`RTX_NAMES` are used of TensorRT for RTX alone.
"""

from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from types import ModuleType
from typing import Any

from dann.infer.errors import DannError, UnavailableError, missing_extra

NAMES = (
    "Builder.build_serialized_network",
    "Builder.create_builder_config",
    "Builder.create_network",
    "Builder.create_optimization_profile",
    "BuilderFlag.TF32",
    "BuilderFlag.VERSION_COMPATIBLE",
    "DataType.FLOAT",
    "DataType.HALF",
    "DataType.UINT8",
    "EngineInspector.get_engine_information",
    "HardwareCompatibilityLevel.AMPERE_PLUS",
    "IBuilderConfig.add_optimization_profile",
    "IBuilderConfig.clear_flag",
    "IBuilderConfig.create_timing_cache",
    "IBuilderConfig.get_timing_cache",
    "IBuilderConfig.hardware_compatibility_level",
    "IBuilderConfig.profiling_verbosity",
    "IBuilderConfig.progress_monitor",
    "IBuilderConfig.set_flag",
    "IBuilderConfig.set_memory_pool_limit",
    "IBuilderConfig.set_timing_cache",
    "ICudaEngine.create_engine_inspector",
    "ICudaEngine.create_execution_context",
    "ICudaEngine.get_tensor_dtype",
    "ICudaEngine.get_tensor_mode",
    "ICudaEngine.get_tensor_name",
    "ICudaEngine.get_tensor_profile_shape",
    "ICudaEngine.get_tensor_shape",
    "ICudaEngine.num_io_tensors",
    "IExecutionContext.execute_async_v3",
    "IExecutionContext.infer_shapes",
    "IExecutionContext.set_input_shape",
    "IExecutionContext.set_tensor_address",
    "ILayer.get_input",
    "ILayer.get_output",
    "ILayer.num_inputs",
    "ILayer.type",
    "ILogger.Severity",
    "INetworkDefinition.get_input",
    "INetworkDefinition.get_layer",
    "INetworkDefinition.num_inputs",
    "INetworkDefinition.num_layers",
    "INetworkDefinition.num_outputs",
    "IOptimizationProfile.set_shape",
    "IProgressMonitor.phase_finish",
    "IProgressMonitor.phase_start",
    "IProgressMonitor.step_complete",
    "ITensor.dtype",
    "ITensor.name",
    "ITensor.shape",
    "ITimingCache.serialize",
    "LayerInformationFormat.JSON",
    "LayerType.CONVOLUTION",
    "LayerType.DEQUANTIZE",
    "LayerType.MATRIX_MULTIPLY",
    "LayerType.SHUFFLE",
    "MemoryPoolType.WORKSPACE",
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
    "OnnxParser.get_error",
    "OnnxParser.num_errors",
    "OnnxParser.parse",
    "ParserError.desc",
    "ParserError.node_name",
    "ParserError.node_operator",
    "ProfilingVerbosity.DETAILED",
    "Runtime.deserialize_cuda_engine",
    "Runtime.engine_host_code_allowed",
    "TensorIOMode.INPUT",
)
RTX_NAMES = (
    "ComputeCapability",
    "CudaGraphStrategy.WHOLE_GRAPH_CAPTURE",
    "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.set_compute_capability",
    "ICudaEngine.create_runtime_config",
    "IRuntimeConfig.cuda_graph_strategy",
)
EXTRAS = {"tensorrt": "trt", "tensorrt-rtx": "trt-rtx"}
"""The extra of dann that brings each."""


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
    for name in EXTRAS:
        try:
            return TensorRT(name, import_module(name.replace("-", "_")))
        except ModuleNotFoundError:
            continue
    raise UnavailableError(
        'building an engine needs TensorRT, which is not installed; run: pip install "dann[trt]" on the machine that '
        'will run the engine, or pip install "dann[trt-rtx]", which builds engines for RTX GPUs on any machine'
    )


def load(name: str) -> TensorRT:
    """The TensorRT of that name; :class:`UnavailableError` where it is not installed, or not whole."""
    try:
        return TensorRT(name, import_module(name.replace("-", "_")))
    except ModuleNotFoundError as error:
        raise missing_extra(EXTRAS[name], name, "running its engines") from error
    except (ImportError, OSError) as error:  # of its libraries
        raise UnavailableError(f'{name} does not load ({error}); run: pip install "dann[{EXTRAS[name]}]"') from error


def installed_version(name: str) -> str:
    """The version of a package of TensorRT, which is not imported; :class:`UnavailableError` where there is none."""
    for package in (name, f"{name}-cu13", f"{name}-cu12"):
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    raise missing_extra(EXTRAS[name], name, "running its engines")


def missing_names(trt: TensorRT) -> list[str]:
    """Those of :data:`NAMES`, and of :data:`RTX_NAMES` where they are used, that this TensorRT lacks."""

    def has(name: str) -> bool:
        value: Any = trt.api
        for part in name.split("."):
            if not hasattr(value, part):
                return False
            value = getattr(value, part)
        return True

    return [name for name in NAMES + RTX_NAMES * (trt.name == "tensorrt-rtx") if not has(name)]


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


def said(trt: TensorRT) -> str:
    """What its logger holds, in one line."""
    return "; ".join(logger(trt.api).lines) or "without a reason"


def checked(trt: TensorRT, what: str, answer: Any) -> Any:
    """``answer``; where it is ``False`` or ``None`` a :class:`DannError` with the lines of the logger."""
    if answer is None or answer is False:
        raise DannError(f"{trt} failed in {what}: {said(trt)}")
    return answer


def new_context(trt: TensorRT, engine: Any) -> Any:
    """An execution context, or ``None``. TensorRT for RTX captures CUDA graphs in it, as it exchanges kernels."""
    if trt.name != "tensorrt-rtx":
        return engine.create_execution_context()
    config = engine.create_runtime_config()
    config.cuda_graph_strategy = trt.api.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    return engine.create_execution_context(config)
