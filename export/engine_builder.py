"""An engine from an ONNX file, by TensorRT 10 or 11 or TensorRT for RTX.

The precision is that of the graph (strongly typed), and is checked in what the parser made of it; TF32 is off.
TensorRT answers failures with ``None`` and lines on its logger, which become the message of an exception here.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from threading import Thread
from typing import Any

from dann.infer.errors import DannError, UsageError
from dann.infer.tensorrt_names import TensorRT, logger

_COMPUTES_IN = {"fp32": "FLOAT", "fp16": "HALF"}


@dataclass(frozen=True, kw_only=True)
class BatchRange:
    """Smallest, usual and largest batch of an engine."""

    min: int = 1
    opt: int = 32
    max: int = 64

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise UsageError(f"the batch is {self.min}:{self.opt}:{self.max}; expected 1 ≤ MIN ≤ OPT ≤ MAX")


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """An engine, and what is known of it without a GPU."""

    plan: bytes
    layers: dict[str, int]
    """How many layers multiply in which type of number: ``{"HALF": 8}``."""
    builder: str
    seconds: float


def build_engine(
    trt: TensorRT,
    onnx: bytes,
    *,
    precision: str,
    batch: BatchRange,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> BuiltEngine:
    """The engine of an ONNX file's content, whose first input is free in its first dimension alone.

    ``on_progress`` is called with a phase, its steps done and all its steps; where it raises, or Ctrl-C is typed, the
    building ends. Raises :class:`DannError` where TensorRT refuses the graph, naming its node, where it fails, and
    where layers would compute in another precision than the one that was asked for.
    """
    log = logger(trt.api)
    log.lines.clear()
    builder = trt.api.Builder(log)
    network = builder.create_network(1 << int(trt.api.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, network, onnx, log)
    layers = _multiplying_layers(trt, network)
    if set(layers) != {_COMPUTES_IN[precision]}:
        raise DannError(f"the graph of {precision} has layers that compute in {layers}; expected none but {precision}")
    config = builder.create_builder_config()
    config.clear_flag(trt.api.BuilderFlag.TF32)
    _add_profile(trt, builder, config, network.get_input(0), batch, log)
    monitor = _monitor(trt, on_progress or (lambda phase, done, total: None))
    config.progress_monitor = monitor
    start = time.perf_counter()
    plan = _in_thread(lambda: builder.build_serialized_network(network, config), monitor)
    if monitor.failure is not None:
        raise monitor.failure
    if plan is None:
        raise DannError(f"{trt} cannot build the engine: {_said(log)}")
    seconds = time.perf_counter() - start
    return BuiltEngine(plan=bytes(memoryview(plan)), layers=layers, builder=str(trt), seconds=seconds)


def _parse(trt: TensorRT, network: Any, onnx: bytes, log: Any) -> None:
    parser = trt.api.OnnxParser(network, log)
    if not parser.parse(onnx):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        reasons = [f"{error.desc()} (node {error.node_name()!r}, {error.node_operator()})" for error in errors]
        raise DannError(f"{trt} refuses the graph: {'; '.join(reasons) or _said(log)}")
    if network.num_inputs != 1 or network.num_outputs == 0:  # it takes what is no ONNX for an empty graph
        raise DannError(
            f"{trt} found {network.num_inputs} inputs and {network.num_outputs} outputs in the graph; expected one "
            "input; export it again"
        )


def _multiplying_layers(trt: TensorRT, network: Any) -> dict[str, int]:
    kinds = (trt.api.LayerType.CONVOLUTION, trt.api.LayerType.MATRIX_MULTIPLY)
    layers = (network.get_layer(index) for index in range(network.num_layers))
    return dict(Counter(layer.get_output(0).dtype.name for layer in layers if layer.type in kinds))


def _add_profile(trt: TensorRT, builder: Any, config: Any, tensor: Any, batch: BatchRange, log: Any) -> None:
    profile = builder.create_optimization_profile()
    image = tuple(tensor.shape)[1:]
    profile.set_shape(tensor.name, *((count, *image) for count in (batch.min, batch.opt, batch.max)))
    if not profile or config.add_optimization_profile(profile) < 0:
        raise DannError(f"{trt} refuses the batch {batch.min}:{batch.opt}:{batch.max}: {_said(log)}")


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


def _said(log: Any) -> str:
    return "; ".join(log.lines) or "without a reason"
