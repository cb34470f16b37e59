"""A network judged in the middle or at the end of a run: scores where there are labels, and what can be told without.

Target labels are in the scores, which are only reported. Selection (:mod:`dann.train.selection`) and the warnings
(:mod:`dann.train.detectors`) see :class:`Evidence`, which has none: a fixed sample of the target's training images and
of the source's, with the transforms of evaluation.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from dann.train import detectors
from dann.train.adaptation_state import evaluating
from dann.train.batch_norm import SOURCE, TARGET, reestimate
from dann.train.config import TrainConfig
from dann.train.data import ImageSet
from dann.train.detectors import RunWarning
from dann.train.domains import Domains
from dann.train.evaluate import (
    DomainScores,
    Outputs,
    domain_scores,
    evaluation_subset,
    outputs,
    to_float,
    told,
)
from dann.train.model import DomainAdversarialNetwork
from dann.train.selection import LAST, Evidence, Selector, score_all, source_accuracy

_ADABN_BATCH = 256

Headline = dict[str, float | None]
"""``source_accuracy``, ``target_accuracy``, ``domain_accuracy``, and the ``step`` they were measured at."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What was found at one step."""

    step: int
    scores: DomainScores
    criteria: dict[str, float] = field(default_factory=dict)
    """Score by each label-free criterion; empty where nothing is adapted."""
    warnings: list[RunWarning] = field(default_factory=list)

    def headline(self) -> Headline:
        """The three numbers that a run is followed by, and the step."""
        source, target = self.scores.source, self.scores.target
        return {
            "step": self.step,
            "source_accuracy": source.accuracy if source else None,
            "target_accuracy": target.accuracy if target else None,
            "domain_accuracy": self.scores.domain_accuracy,
        }


class Judge:
    """Judges networks of one run, and remembers what it found: the history of a run as far as a report needs it."""

    def __init__(self, config: TrainConfig, domains: Domains, device: torch.device):
        self._config, self._domains, self._device = config, domains, device
        criterion = config.selection.criterion if config.mode == "dann" else LAST
        self.selector = Selector(criterion, config.selection.gate)
        self.headlines: list[Headline] = []
        self.warnings: list[RunWarning] = []
        self.newest: Judgement | None = None
        """Of this process; the others are in :attr:`headlines`."""
        self._told: list[float] = []  # domain accuracies on the samples, which need no labels
        limit, seed = config.selection.images, config.seed
        self._trained_on = domains.labelled.subset(evaluation_subset(len(domains.labelled), limit, seed)).images
        held_out = domains.source_test or domains.labelled
        self._held_out_rows = evaluation_subset(len(held_out), limit, seed)
        self._held_out = held_out
        self._unlabelled = domains.unlabelled
        if domains.unlabelled is not None:
            self._unlabelled = domains.unlabelled.subset(evaluation_subset(len(domains.unlabelled), limit, seed))

    def judge(self, network: DomainAdversarialNetwork, step: int) -> tuple[Judgement, bool]:
        """What ``network``, of ``step``, is worth, and whether selection now keeps it."""
        if self._config.adabn and self._domains.unlabelled is not None:
            self._take_statistics(network, self._domains.unlabelled)
        domains = self._domains
        of_source = self._outputs(network, self._held_out.images, SOURCE)
        of_target = self._outputs(network, domains.target_test.images, TARGET) if domains.target_test else None
        scores = domain_scores(
            domains.source_test,
            of_source if domains.source_test is not None else None,
            domains.target_test,
            of_target,
            classes=domains.classes,
            adapted=self._config.adversarial,
        )
        criteria: dict[str, float] = {}
        warnings: list[RunWarning] = []
        if self._config.mode == "dann":
            evidence = self._evidence(network, of_source)
            criteria = score_all(evidence)
            warnings = self._new_warnings(evidence, step)
        judgement = Judgement(step=step, scores=scores, criteria=criteria, warnings=warnings)
        self.newest = judgement
        self.headlines.append(judgement.headline())
        self.warnings += warnings
        return judgement, self.selector.offer(step, criteria)

    def best_on_test_labels(self) -> Headline | None:
        """The headline with the highest target accuracy: what selection by target labels would have reported."""
        known = [entry for entry in self.headlines if entry["target_accuracy"] is not None]
        return max(known, key=lambda entry: entry["target_accuracy"] or 0.0) if known else None

    def at(self, step: int | None) -> Headline:
        """The headline of ``step``."""
        return next(entry for entry in self.headlines if entry["step"] == step)

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {
            "selector": self.selector.state(),
            "headlines": self.headlines,
            "warnings": [warning.to_dict() for warning in self.warnings],
            "told": self._told,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what :meth:`state` gave."""
        self.selector = Selector.from_state(state["selector"])
        self.headlines = list(state["headlines"])
        self.warnings = [RunWarning(**entry) for entry in state["warnings"]]
        self._told = list(state["told"])

    def _evidence(self, network: DomainAdversarialNetwork, of_source: Outputs) -> Evidence:
        assert self._unlabelled is not None, "mode dann opens the target"
        of_target = self._outputs(network, self._unlabelled, TARGET)
        if self._config.adversarial:
            self._told.append(told(of_source, of_target))
        rows = self._held_out_rows
        return Evidence(
            source_logits_NK=of_source.logits_NK[rows],
            source_labels_N=self._held_out.labels[rows],
            source_features_ND=of_source.features_ND[rows],
            target_logits_NK=of_target.logits_NK,
            target_features_ND=of_target.features_ND,
            source_train_features_ND=self._outputs(network, self._trained_on, SOURCE).features_ND,
        )

    def _new_warnings(self, evidence: Evidence, step: int) -> list[RunWarning]:
        """Each kind once a run."""
        source = [offer.source_accuracy for offer in self.selector.offers] + [source_accuracy(evidence)]
        found = [
            detectors.collapse(evidence, step),
            detectors.source_lost(source, step),
            detectors.domains_stuck(self._told, step),
        ]
        known = {warning.name for warning in self.warnings}
        return [warning for warning in found if warning is not None and warning.name not in known]

    def _outputs(self, network: DomainAdversarialNetwork, images: ImageSet, domain: int) -> Outputs:
        return outputs(network, images, device=self._device, domain=domain)

    def _take_statistics(self, network: DomainAdversarialNetwork, images: ImageSet) -> None:
        """AdaBN: those of the whole target, in evaluation mode but for batch normalisation.

        The batches are random and equally large: a folder read in order gives one class at a time, and the variance
        inside such batches is not that of the target.
        """
        if len(images) < 2:
            return
        order = np.random.default_rng(self._config.seed).permutation(len(images))
        chunks = np.array_split(order, math.ceil(len(order) / _ADABN_BATCH))
        pixels = (to_float(torch.from_numpy(images.read(chunk)).to(self._device)) for chunk in chunks)
        with evaluating(network):
            reestimate(network, pixels, lambda images_NCHW: network.features(images_NCHW, TARGET))
