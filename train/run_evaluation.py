"""Scores of a finished run, on its own test sets or on another."""

from dataclasses import dataclass
from typing import Any

from dann.infer.errors import UsageError
from dann.train.device import find_device
from dann.train.domains import is_simulated, open_source_sets, open_target_test, specs
from dann.train.evaluate import DomainScores, evaluate
from dann.train.run_dir import RunDir
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

    def to_dict(self) -> dict[str, Any]:
        """For JSON; says by itself whether it is an oracle's result and whether the photos are simulated."""
        return {
            "run": self.run.root.name,
            "mode": self.mode,
            "oracle": self.mode == "target",
            "data": self.data,
            "simulated_target": self.simulated,
            **self.scores.to_dict(),
        }


def evaluate_run(run: RunDir, *, data: str | None = None, device: str = "auto") -> RunEvaluation:
    """Evaluate the network of ``run`` on the labelled target images ``data``, by default those of the run.

    Source accuracy and domain accuracy are on the run's own source test images. Raises :class:`UsageError` where the
    run has no labelled target images and none are given, or their classes are not the network's.
    """
    config, classes, network = load_trained(run)
    where = find_device(config, device)
    _, target, test = specs(config.data)
    target_test = open_target_test(config.data, target, data or test, classes)
    if target_test is None:
        raise UsageError(f"run {str(run.root)!r} names no labelled target images; give them as --data SPEC")
    spec = data or test or target
    return RunEvaluation(
        run=run,
        mode=config.mode,
        data=spec,
        simulated=spec is not None and is_simulated(spec),
        scores=evaluate(
            network.to(where),
            source=open_source_sets(config)[1],
            target=target_test,
            classes=classes,
            adapted=config.mode == "dann",
            device=where,
        ),
    )
