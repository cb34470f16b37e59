"""What ``dann bench`` measured, as tables and as JSON."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dann.infer.whole_file import WholeFile


@dataclass(frozen=True, kw_only=True)
class Place:
    """A network of the bundle, and where it is to run."""

    engine: str
    """``ort``, ``openvino``, ``trt`` or ``trt-rtx``."""
    precision: str
    device: str
    """``cpu`` or ``cuda:0``."""
    file: str
    """The artefact's first one."""

    def __str__(self) -> str:
        return f"{self.file} on {self.device}"


@dataclass(frozen=True, kw_only=True)
class EngineTime:
    """How long an engine takes by itself for a batch of one size."""

    place: Place
    threads: int | None
    """As in ``dann infer --threads``; ``None`` on a GPU."""
    batch: int
    at_once: int
    """How many batches were under way, each called by a thread of its own."""
    batches: int
    """How many were timed."""
    p50_ms: float
    """Half of the batches took no longer, from the call to the answer in the host's memory."""
    p95_ms: float
    p99_ms: float
    images_per_second: float
    """Of all that were under way."""


@dataclass(frozen=True, kw_only=True)
class DecodeTime:
    """How fast image files become the network's input, by themselves."""

    threads: int
    images_per_second: float


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What ``dann infer`` reaches with an engine, beside what the machine allows. All in images a second."""

    place: Place
    decode: float
    """Decoding alone, at best."""
    engine: float
    """The engine alone, at its best batch size and threads."""
    joint: float
    """Both together. On a CPU they share the cores, 1 / (1 / decode + 1 / engine); on a GPU it is the slower one."""
    end_to_end: float
    """From the files to the answers, once it is under way."""
    batch: int
    workers: int

    @property
    def share(self) -> float:
        """Of the joint limit that is reached; 1 is all of it, and noise of the machine may show more."""
        return self.end_to_end / self.joint


@dataclass(frozen=True, kw_only=True)
class NotRun:
    """What was not measured."""

    place: Place
    batch: int | None
    """``None``: no batch of any size."""
    reason: str
    broken: bool
    """Whether it should have run."""

    def __str__(self) -> str:
        batch = "" if self.batch is None else f", batch {self.batch}"
        return f"{'BROKEN' if self.broken else 'not run'}: {self.place}{batch}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What was measured on one machine."""

    machine: str
    cpu: str
    gpus: tuple[str, ...]
    packages: dict[str, str]
    """Versions by name."""
    date: str
    seconds: float
    """That each measurement lasted, at least."""
    images: str
    """Which images, for people."""
    decode: tuple[DecodeTime, ...]
    engines: tuple[EngineTime, ...]
    limits: tuple[Limit, ...]
    not_run: tuple[NotRun, ...]

    @property
    def broken(self) -> tuple[NotRun, ...]:
        """What should have run and did not."""
        return tuple(entry for entry in self.not_run if entry.broken)

    def lines(self) -> list[str]:
        """Two tables in Markdown, what they were measured on, and what could not run."""
        engines = [
            [
                *_cells(time.place),
                "–" if time.threads is None else str(time.threads),
                *map(str, (time.batch, time.at_once, time.batches)),
                *(f"{value:.2f}" for value in (time.p50_ms, time.p95_ms, time.p99_ms)),
                f"{time.images_per_second:,.1f}",
            ]
            for time in self.engines
        ]
        limits = [
            [
                *_cells(limit.place),
                *(f"{rate:,.1f}" for rate in (limit.decode, limit.engine, limit.joint, limit.end_to_end)),
                f"{limit.share:.2f}",
            ]
            for limit in self.limits
        ]
        named = ["engine", "precision", "device"]
        return [
            self.machine,
            "; ".join((self.cpu, *self.gpus)),
            self.images,
            "",
            *table([*named, "threads", "batch", "at once", "timed", "p50 ms", "p95 ms", "p99 ms", "images/s"], engines),
            "",
            "Images a second:",
            "",
            *table([*named, "decode alone", "engine alone", "limit of both", "end to end", "share"], limits),
            *(["", *map(str, self.not_run)] if self.not_run else []),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON has it."""
        found = asdict(self)
        for entry, limit in zip(found["limits"], self.limits, strict=True):
            entry["share"] = limit.share
        return found

    def write(self, path: Path | str) -> None:
        """As JSON; raises as :class:`~dann.infer.whole_file.WholeFile` does."""
        with WholeFile(path) as file:
            file.write(json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n")


def _cells(place: Place) -> list[str]:
    return [place.engine, place.precision, place.device]


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """In Markdown, its columns as wide as their widest cells."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(f'{cell:<{width}}' for cell, width in zip(cells, widths, strict=True))} |"

    rule = "|".join("-" * (width + 2) for width in widths)
    return [line(names), f"|{rule}|", *map(line, rows)]
