"""What a run of ``dann infer`` did, and where its time went."""

from dataclasses import dataclass
from pathlib import Path

from dann.infer.labels import Score


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the work."""

    seconds: float
    """For which threads were busy with it, all of them added up."""
    share: float
    """Of the time of those threads that could do it, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Where the time went."""

    reading: Stage
    decoding: Stage
    network: Stage
    writing: Stage
    threads: int
    """That read, decode and, on a CPU, compute."""

    @property
    def bottleneck(self) -> str:
        """The stage that was busy for the greatest share of its time."""
        return max(self._named(), key=lambda name: self._named()[name].share)

    def _named(self) -> dict[str, Stage]:
        return {name: getattr(self, name) for name in ("reading", "decoding", "network", "writing")}

    def __str__(self) -> str:
        stages = ", ".join(f"{name} {stage.seconds:.1f} s ({stage.share:.0%})" for name, stage in self._named().items())
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{threads}: {stages}; the bottleneck is {self.bottleneck}"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run did."""

    images: int
    """Inputs found, which is the number of rows written."""
    resumed: int
    """How many of them an interrupted run had done before."""
    errors: dict[str, int]
    """How many inputs have no answer, by kind; the most frequent first."""
    seconds: float
    """From the first image to the last row; loading the model is not counted."""
    engine: str
    """What computed, where, and for ``auto`` why."""
    batch_size: int
    stages: Stages
    score: Score | None
    """Against labels, where some were given."""

    @property
    def failed(self) -> int:
        """Inputs without an answer."""
        return sum(self.errors.values())

    @property
    def images_per_second(self) -> float:
        """Of those of this run; decoding, computing and writing included."""
        return (self.images - self.resumed) / self.seconds

    @property
    def exit_code(self) -> int:
        """0 where every input was classified, 3 where some or all could not be read."""
        return 3 if self.failed else 0

    def lines(self, out_path: Path | str) -> list[str]:
        """For people."""
        before = f", {self.resumed} of them before" if self.resumed else ""
        rate = f"{self.seconds:.1f} s, {self.images_per_second:.0f} images/s, {self.engine}"
        return [
            f"{self.images} images → {out_path}{before} ({rate})",
            str(self.stages),
            *(f"{count} with an error: {kind}" for kind, count in self.errors.items()),
        ]
