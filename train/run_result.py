"""What a finished run gave, and ``result.json``."""

from dataclasses import dataclass, field
from typing import Any

from dann.train.config import TrainConfig
from dann.train.evaluate import DomainScores
from dann.train.judge import Headline, Judge
from dann.train.run_dir import RunDir


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a finished run gave."""

    run: RunDir
    config: TrainConfig
    scores: DomainScores
    """Of the checkpoint that is exported: the selected one."""
    history: Judge
    """Every evaluation, what was selected, and the warnings."""
    simulated: bool
    """Whether the target photos are simulated ones."""
    seconds: float
    """Since the run, or its resumption, began; evaluations after epochs included."""
    images_per_second: float
    """Of both domains, in that time."""
    skipped: list[tuple[str, str]]
    """Name and reason of every image that could not be read, or has no class where it needs one."""
    notes: list[str] = field(default_factory=list)
    """What the scores must not be taken for."""

    @property
    def mode(self) -> str:
        return self.config.mode

    @property
    def last(self) -> Headline:
        """Of the last step."""
        return self.history.headlines[-1]

    @property
    def selected(self) -> Headline:
        """Of the step that selection chose without target labels."""
        return self.history.at(self.history.selector.selected)

    @property
    def best_on_test_labels(self) -> Headline | None:
        """Of the step with the highest target accuracy: not a result, but what selection is measured against."""
        return self.history.best_on_test_labels()

    def to_dict(self) -> dict[str, Any]:
        """``result.json``."""
        selector = self.history.selector
        return {
            "mode": self.mode,
            "method": self.config.objectives.name if self.mode == "dann" else None,
            "oracle": self.mode == "target",
            "simulated_target": self.simulated,
            "checkpoint": "last" if selector.criterion == "last" else "selected",
            "selection": {"criterion": selector.criterion, "step": selector.selected, "choices": selector.choices()},
            "last": self.last,
            "selected": self.selected,
            "best_on_test_labels": self.best_on_test_labels,
            "notes": self.notes,
            "warnings": [warning.to_dict() for warning in self.history.warnings],
            "seconds": round(self.seconds, 1),
            "images_per_second": round(self.images_per_second, 1),
            "skipped_images": [{"path": name, "reason": reason} for name, reason in self.skipped],
            **self.scores.to_dict(),
        }
