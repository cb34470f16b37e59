"""Measurements in rounds, and what other processes used of the machine meanwhile. On Linux only."""

import os
import resource
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import click

from dann.infer.cores import usable_cores

DISTURBED = 0.05
"""Share of the cores beyond which others disturb."""


@dataclass
class Rounds:
    """Every number that was measured, by name.

    Where others used more than a twentieth of the cores a measurement is made again, ``tries`` times in all, and the
    least disturbed one counts.
    """

    tries: int
    numbers: dict[str, list[Any]] = field(default_factory=dict)
    others: dict[str, list[float]] = field(default_factory=dict)
    """What others used, as a share of all cores."""

    def add(self, name: str, measure: Callable[[], Any]) -> Any:
        """Measure once more, and give what was found."""
        attempts = []
        while len(attempts) < self.tries and (not attempts or attempts[-1][0] > DISTURBED):
            busy, own, began = _busy_s(), _own_s(), perf_counter()
            found = measure()
            others = (_busy_s() - busy) - (_own_s() - own)
            attempts.append((max(0.0, others / (perf_counter() - began) / usable_cores()), found))
        others, found = min(attempts, key=lambda attempt: attempt[0])
        self.numbers.setdefault(name, []).append(found)
        self.others.setdefault(name, []).append(round(others, 3))
        click.echo(f"{name}: {found if isinstance(found, dict) else f'{found:.4g}'} (others: {others:.0%})", err=True)
        return found

    def median(self, name: str) -> float:
        return median(self.numbers[name])


def _busy_s() -> float:
    """Seconds that the machine's cores were busy or taken away, all of them added up."""
    user, nice, system, _, _, irq, softirq, steal, *_ = map(int, Path("/proc/stat").read_text().split()[1:11])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own_s() -> float:
    """Those of this process, and of its children that have ended."""
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)
