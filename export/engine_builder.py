"""An engine from an ONNX file, by TensorRT 10 or 11 or TensorRT for RTX.

The precision is that of the graph (strongly typed), and is looked after (``engine_precision``); TF32 is off.
TensorRT answers failures with ``None`` and lines on its logger, which become the message of an exception here.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from threading import Thread
from typing import Any

from dann.export.engine_precision import check_layers, check_network, check_size
from dann.export.engine_target import configure
from dann.export.settings import BatchRange, EngineConfig
from dann.export.timing_cache import timing_cache
from dann.infer import cuda
from dann.infer.errors import DannError, UnavailableError
from dann.infer.tensorrt_names import TensorRT, logger, said

_ADVICE = "try --precision fp16, another --gpu or another --backbone, or leave trt out of --format"


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """An engine, and what is known of it without a GPU."""

    plan: bytes
    layers: dict[str, int]
    """How many layers multiply in which type of number: ``{"HALF": 8}``."""
    requires: dict[str, str]
    """What running it needs, by name: the version of what built it, and ``compute_capability``."""
    builder: str
    seconds: float


def build_engine(
    trt: TensorRT,
    onnx: bytes,
    *,
    precision: str,
    batch: BatchRange,
    config: EngineConfig | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> BuiltEngine:
    """The engine of an ONNX file's content, whose first input is free in its first dimension alone.

    ``on_progress`` is called with a phase, its steps done and all its steps; where it raises, or Ctrl-C is typed, the
    building ends. Raises :class:`DannError` where TensorRT refuses the graph, naming its node, where it fails, and
    where layers would compute in another precision than the one that was asked for.
    """
    if trt.name == "tensorrt":
        _check_gpu()
    log = logger(trt.api)
    log.lines.clear()
    builder = trt.api.Builder(log)
    network = builder.create_network(1 << int(trt.api.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, network, onnx)
    layers = check_network(trt, network, precision)
    settings = builder.create_builder_config()
    settings.clear_flag(trt.api.BuilderFlag.TF32)
    settings.profiling_verbosity = trt.api.ProfilingVerbosity.DETAILED  # for check_layers
    config = config or EngineConfig()
    requires = configure(trt, settings, config)
    _add_profile(trt, builder, settings, network.get_input(0), batch)
    monitor = _monitor(trt, on_progress or (lambda phase, done, total: None))
    settings.progress_monitor = monitor
    start = time.perf_counter()
    with timing_cache(trt, settings, config.timing_cache) if trt.name == "tensorrt" else nullcontext():
        plan = _in_thread(lambda: builder.build_serialized_network(network, settings), monitor)
    if monitor.failure is not None:
        raise monitor.failure
    if plan is None:
        raise DannError(f"{trt} cannot build the engine: {said(trt)}; {_ADVICE}")
    seconds = time.perf_counter() - start
    plan = bytes(memoryview(plan))
    if trt.name == "tensorrt":
        check_layers(trt, plan, precision)
    else:
        check_size(plan, onnx, precision)
    return BuiltEngine(plan=plan, layers=layers, requires=requires, builder=str(trt), seconds=seconds)


def _check_gpu() -> None:
    """TensorRT says of a machine without one no more than "nullptr"."""
    try:
        cuda.devices()
    except UnavailableError as error:
        raise UnavailableError(
            f"TensorRT builds an engine on the GPU that will run it, and {error}; build it there, or for RTX GPUs "
            'here: pip uninstall tensorrt; pip install "dann[trt-rtx]"'
        ) from error


def _parse(trt: TensorRT, network: Any, onnx: bytes) -> None:
    parser = trt.api.OnnxParser(network, logger(trt.api))
    if not parser.parse(onnx):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        reasons = [f"{error.desc()} (node {error.node_name()!r}, {error.node_operator()})" for error in errors]
        raise DannError(f"{trt} refuses the graph: {'; '.join(reasons) or said(trt)}; {_ADVICE}")
    if network.num_inputs != 1 or network.num_outputs == 0:  # it takes what is no ONNX for an empty graph
        raise DannError(
            f"{trt} found {network.num_inputs} inputs and {network.num_outputs} outputs in the graph; expected one "
            "input; export it again"
        )


def _add_profile(trt: TensorRT, builder: Any, settings: Any, tensor: Any, batch: BatchRange) -> None:
    profile = builder.create_optimization_profile()
    image = tuple(tensor.shape)[1:]
    profile.set_shape(tensor.name, *((count, *image) for count in (batch.min, batch.opt, batch.max)))
    if not profile or settings.add_optimization_profile(profile) < 0:
        raise DannError(f"{trt} refuses the batch {batch.min}:{batch.opt}:{batch.max}: {said(trt)}")


def _monitor(trt: TensorRT, on_progress: Callable[[str, int, int], None]) -> Any:
    """Tells of the outermost phase. Nothing may be raised into TensorRT: what fails is kept, and ends the building."""

    class Monitor(trt.api.IProgressMonitor):
        def __init__(self) -> None:
            trt.api.IProgressMonitor.__init__(self)
            self.cancelled = False
            self.failure: BaseException | None = None
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                if phase_name in self._steps:
                    on_progress(phase_name, step + 1, self._steps[phase_name])
            except BaseException as error:
                self.failure, self.cancelled = error, True
            return not self.cancelled

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()


def _in_thread(build: Callable[[], Any], monitor: Any) -> Any:
    """What ``build`` gives, computed in another thread, so that Ctrl-C reaches this one and can end it."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(build())
        except BaseException as error:
            monitor.failure = error

    thread = Thread(target=run)
    thread.start()
    try:
        thread.join()
    except BaseException:
        monitor.cancelled = True
        thread.join()
        raise
    return results[0] if results else None
