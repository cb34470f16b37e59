"""Scores of a finished run, on its own test sets or on another."""

from dataclasses import dataclass
from typing import Any

from dann.infer.errors import DannError, UsageError
from dann.train.data import LabelledSet
from dann.train.device import find_device
from dann.train.domains import is_simulated, open_source_sets, open_target_test, specs
from dann.train.evaluate import DomainScores, evaluate
from dann.train.run_dir import RunDir
from dann.train.settings import TrainConfig
from dann.train.trained import load_trained


@dataclass(frozen=True, kw_only=True)
class RunEvaluation:
    """What :func:`evaluate_run` found."""

    run: RunDir
    mode: str
    data: str | None
    """The spec of the labelled target images."""
    simulated: bool
    """Whether those are simulated photos."""
    scores: DomainScores
    skipped: list[tuple[str, str]]
    """Name and reason of every target image that was not scored: it could not be read, or has no class."""
    notes: list[str]
    """Why the source was not scored, if it was not."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON; says by itself whether it is an oracle's result and whether the photos are simulated."""
        return {
            "run": self.run.root.name,
            "mode": self.mode,
            "oracle": self.mode == "target",
            "data": self.data,
            "simulated_target": self.simulated,
            "skipped_images": [{"path": name, "reason": reason} for name, reason in self.skipped],
            "notes": self.notes,
            **self.scores.to_dict(),
        }


def evaluate_run(run: RunDir, *, data: str | None = None, device: str = "auto") -> RunEvaluation:
    """Evaluate the network of ``run`` on the labelled target images ``data``, by default those of the run.

    Source accuracy and domain accuracy are on the run's own source test images, where they are still there. Raises
    :class:`UsageError` where the run has no labelled target images and none are given, or their classes are not the
    network's.
    """
    config, classes, network = load_trained(run)
    where = find_device(config, device)
    target, test = (None, None) if data else specs(config.data)[1:]
    target_test = open_target_test(config.data, target, data or test, classes)
    if target_test is None:
        raise UsageError(f"run {str(run.root)!r} names no labelled target images; give them as --data SPEC")
    spec = data or test or target
    source_test, notes = source_test_of(run, config)
    return RunEvaluation(
        run=run,
        mode=config.mode,
        data=spec,
        simulated=spec is not None and is_simulated(spec),
        scores=evaluate(
            network.to(where),
            source=source_test,
            target=target_test,
            classes=classes,
            adapted=config.adversarial,
            device=where,
        ),
        skipped=target_test.images.skipped,
        notes=notes,
    )


def source_test_of(run: RunDir, config: TrainConfig) -> tuple[LabelledSet | None, list[str]]:
    """The source images that the run did not train on; ``None``, and why, where that can no longer be told."""
    recorded = run.read_config()[1].get("data", {}).get("labelled", {}).get("fingerprint")
    try:
        trained_on, source_test = open_source_sets(config)
        changed = config.mode != "target" and trained_on.images.fingerprint() != recorded
    except DannError as error:
        return None, [f"the source is not scored: {error}"]
    if changed:
        return None, ["the source is not scored: its images are not those that the run was trained on"]
    return source_test, [] if source_test else ["the source is not scored: nothing of it was held out"]
