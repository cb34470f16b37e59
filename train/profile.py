"""Where the time of a training step goes: ``dann train --profile``.

Some steps in the middle of a run are timed by stage, and recorded by torch's profiler. On a GPU the stages are timed
there, by events; copies from the host, which run beside the step before, and idle time are those of torch's profiler.
"""

import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

_STEPS_BEFORE = 10  # caches, threads and memory pools fill
_STEPS = 20


class StepProfile:
    """Times the steps of one run; without a ``trace`` file to write it does nothing."""

    def __init__(self, trace: Path | None, device: torch.device, steps_to_go: int):
        before = min(_STEPS_BEFORE, steps_to_go // 2)
        self._trace, self._device = trace, device
        self._steps = range(before, min(before + _STEPS, steps_to_go)) if trace is not None else range(0)
        self._done = 0
        self._profiler: profile | None = None
        self._clocks: list[tuple[str, _Clock]] = []
        self._whole = _Clock(device)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A part of a step, timed while the profile is taken."""
        if self._profiler is None:
            yield
            return
        clock = _Clock(self._device)
        with record_function(name):
            clock.start()
            yield
            clock.stop()
        self._clocks.append((name, clock))

    def step_done(self, images: int) -> list[str]:
        """After each step, of ``images`` in all. When the profile is complete: the lines that sum it up."""
        self._done += 1
        if self._done == self._steps.start and len(self._steps):
            activities = [ProfilerActivity.CPU]
            if self._device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler writes on standard error
            self._profiler = profile(activities=activities)
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)  # or steps that are still queued count
            self._profiler.start()
            self._whole.start()
        elif self._done == self._steps.stop and self._profiler is not None:
            self._whole.stop()
            return self._finish(self._profiler, images)
        return []

    def _finish(self, profiler: profile, images: int) -> list[str]:
        self._profiler = None
        seconds = self._whole.seconds()
        whole = seconds / len(self._steps)
        profiler.stop()
        assert self._trace is not None
        profiler.export_chrome_trace(str(self._trace))
        stages: dict[str, float] = {}
        for name, clock in self._clocks:
            stages[name] = stages.get(name, 0.0) + clock.seconds() / len(self._steps)
        stages["the rest"] = whole - sum(stages.values())
        if self._device.type == "cuda":
            work = [
                (event.name, event.time_range.start, event.time_range.end)
                for event in profiler.events() or []
                if event.device_type.name == "CUDA" and not event.is_user_annotation
            ]
            stages |= of_the_gpu(work, seconds, len(self._steps))
        first, last = self._steps.start + 1, self._steps.stop
        return [
            f"steps {first} to {last}: {1000 * whole:.1f} ms a step, {images / whole:,.0f} images/s",
            *(f"  {name:<24}{1000 * each:8.1f} ms {each / whole:5.0%}" for name, each in stages.items()),
            f"trace: {self._trace} (open it at https://ui.perfetto.dev)",
        ]


def of_the_gpu(work: Sequence[tuple[str, float, float]], seconds: float, steps: int) -> dict[str, float]:
    """Seconds a step that copies from the host took, and that nothing ran; ``work``: names, begins and ends in µs."""
    copying = covered((begin, end) for name, begin, end in work if name.startswith("Memcpy HtoD"))
    busy = covered((begin, end) for _, begin, end in work)
    return {
        "of all: host to device": copying / 1e6 / steps,
        "of all: GPU idle": max(0.0, seconds - busy / 1e6) / steps,
    }


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """The length of the union of ``intervals`` (begin, end): streams work at the same time."""
    length, until = 0.0, -math.inf
    for begin, end in sorted(intervals):
        length += max(0.0, end - max(begin, until))
        until = max(until, end)
    return length


class _Clock:
    """Seconds between start and stop: on a GPU between the moments when it gets there."""

    def __init__(self, device: torch.device):
        self._on_gpu = device.type == "cuda"

    def start(self) -> None:
        self._begin = self._now()

    def stop(self) -> None:
        self._end = self._now()

    def seconds(self) -> float:
        if not self._on_gpu:
            return self._end - self._begin
        self._end.synchronize()
        return self._begin.elapsed_time(self._end) / 1000

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
