"""How long calls take that several threads make side by side."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

_FEWEST_CALLS = 3  # of each thread, however long they take


@dataclass(frozen=True)
class Timing:
    """Calls that several threads made, one after the other each."""

    calls_s: list[float]
    """How long each call took."""
    per_second: float
    """Calls of all threads together."""


def timed(call: Callable[[], object], *, at_once: int, seconds: float) -> Timing:
    """Let ``at_once`` threads call, each for ``seconds`` and at least three times, after two calls to warm up."""

    def calls(_: int) -> list[float]:
        times: list[float] = []
        until = time.perf_counter() + seconds
        while len(times) < _FEWEST_CALLS or time.perf_counter() < until:
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
        return times

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda _: call(), range(2 * at_once)))
        found = list(pool.map(calls, range(at_once)))
    return Timing(
        calls_s=[time for times in found for time in times],
        per_second=sum(len(times) / sum(times) for times in found),
    )
