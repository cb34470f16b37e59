"""The losses of one step, for every mode and objective: forward passes, the terms, and their weighted sum.

Legend: N images, C × H × W pixels, D features, K classes. The losses themselves are functions of tensors in
:mod:`dann.train.objectives`; what they keep between steps is in :class:`AdaptationState`; how the step is applied to
the weights is in :mod:`dann.train.loop`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from dann.train.adaptation_state import AdaptationState
from dann.train.batch_norm import SOURCE, TARGET, frozen_running_statistics
from dann.train.mix_style import MixStyle
from dann.train.model import DomainAdversarialNetwork
from dann.train.objectives import adamatch, adversarial, cdan, refinement, self_ensembling, target_outputs, vat
from dann.train.objectives.supervised import label_loss
from dann.train.reversal import gradient_reversal_fork
from dann.train.settings import ObjectivesConfig


@dataclass(frozen=True, kw_only=True)
class StepInput:
    """Augmented images on the device, float (N, 3, H, W) in [0, 1]."""

    labelled_NCHW: Tensor
    labels_N: Tensor
    target_views: tuple[Tensor, ...] = ()
    """The target images, once for each view of them; empty where nothing is adapted."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What the schedules say for a step."""

    lam: float | Tensor
    """Factor of the gradient reversal; a number or 0-d, as the next one."""
    warmup: float | Tensor = 1.0
    """Factor on the weights of the objectives that are not adversarial."""
    refining: bool = False
    """Whether the source has been left behind."""


@dataclass(frozen=True, kw_only=True)
class StepOutput:
    """``total`` is what is minimised; the others are for the logs and the state."""

    total: Tensor
    values: dict[str, Tensor]
    """0-d tensors by the name they are logged under."""
    marginals: dict[str, Tensor] = field(default_factory=dict)
    """Mean class probabilities (K,) of the batch, for :meth:`AdaptationState.step`."""


class _Terms:
    """Weighted losses, summed as they come."""

    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}
        self._weighted: list[Tensor] = []

    def add(self, name: str, weight: float, loss: Callable[[], Tensor], *, warmup: float | Tensor = 1.0) -> None:
        """Compute and add the loss, unless it has no weight or is warmed up to nothing."""
        if weight and (isinstance(warmup, Tensor) or warmup):
            value = loss()
            self.values[f"{name}_loss"] = value.detach()
            self._weighted.append(warmup * weight * value)

    def output(self, **marginals: Tensor) -> StepOutput:
        total = torch.stack(self._weighted).sum()
        return StepOutput(total=total, values={"loss": total.detach(), **self.values}, marginals=marginals)


class TrainingStep(nn.Module):
    """From a batch to its losses. A module, so that DistributedDataParallel can wrap all of a step's passes at once."""

    def __init__(self, network: DomainAdversarialNetwork, objectives: ObjectivesConfig):
        super().__init__()
        self.network = network
        self.objectives = objectives

    def forward(self, batch: StepInput, state: AdaptationState, pace: Pace) -> StepOutput:
        if not batch.target_views:
            terms = _Terms()
            terms.add("label", 1.0, lambda: label_loss(self.network(batch.labelled_NCHW, SOURCE), batch.labels_N))
            return terms.output()
        return self._refine(batch, state, pace) if pace.refining else self._adapt(batch, state, pace)

    def _adapt(self, batch: StepInput, state: AdaptationState, pace: Pace) -> StepOutput:
        network, objectives, terms = self.network, self.objectives, _Terms()
        source_NCHW, target_NCHW = batch.labelled_NCHW, batch.target_views[0]
        source_ND, target_ND = network.features_of_both(source_NCHW, target_NCHW)
        lam = pace.lam * (objectives.dann or objectives.cdan)  # so the domain classifier itself learns at full rate
        source_ND, source_reversed_ND = gradient_reversal_fork(source_ND, lam)
        target_ND, target_reversed_ND = gradient_reversal_fork(target_ND, lam)
        source_NK, target_NK = network.label_classifier(source_ND), network.label_classifier(target_ND)

        label_NK = source_NK
        if objectives.adamatch and network.joint_pass:
            label_NK = self._interpolated(source_NCHW, source_NK)
        terms.add("label", 1.0, lambda: label_loss(label_NK, batch.labels_N))
        if objectives.adversarial:
            domain = self._domain_loss(source_reversed_ND, source_NK, target_reversed_ND, target_NK, terms)
            terms.add("domain", 1.0, lambda: domain)
        with frozen_running_statistics(network):
            vat_source = partial(self._vat, source_NCHW, SOURCE)
            terms.add("vat_source", objectives.vat_source, vat_source, warmup=pace.warmup)
            self._add_target_terms(terms, batch, target_NK, state, pace)
            if objectives.adamatch:
                self._add_adamatch(terms, batch, source_NK, target_NK, state, pace)
        return terms.output(source_marginal_K=_marginal(source_NK), target_marginal_K=_marginal(target_NK))

    def _refine(self, batch: StepInput, state: AdaptationState, pace: Pace) -> StepOutput:
        """DIRT-T's second stage: the target alone, held near the averaged network."""
        network, terms = self.network, _Terms()
        images_NCHW = batch.target_views[0]
        logits_NK = network(images_NCHW, TARGET)
        terms.add(
            "refine",
            self.objectives.refine,
            lambda: refinement.teacher_divergence(logits_NK, state.teacher_logits(images_NCHW)),
        )
        with frozen_running_statistics(network):
            self._add_target_terms(terms, batch, logits_NK, state, pace)
        return terms.output(target_marginal_K=_marginal(logits_NK))

    def _add_target_terms(
        self, terms: _Terms, batch: StepInput, logits_NK: Tensor, state: AdaptationState, pace: Pace
    ) -> None:
        """The losses on what the network says of the first view of the target."""
        objectives, add = self.objectives, partial(terms.add, warmup=pace.warmup)
        add("entropy", objectives.entropy, lambda: target_outputs.entropy(logits_NK))
        add("mcc", objectives.mcc, lambda: target_outputs.mcc(logits_NK, objectives.mcc_temperature))
        add("bnm", objectives.bnm, lambda: target_outputs.bnm(logits_NK))
        add("class_balance", objectives.class_balance, lambda: target_outputs.class_balance(logits_NK))
        add("vat_target", objectives.vat_target, partial(self._vat, batch.target_views[0], TARGET))
        if objectives.mean_teacher:
            teacher_NK = state.teacher_logits(batch.target_views[1])
            loss, share = self_ensembling.confident_consistency(logits_NK, teacher_NK, objectives.confidence)
            add("mean_teacher", objectives.mean_teacher, lambda: loss)
            terms.values["confident_share"] = share

    def _domain_loss(
        self, source_ND: Tensor, source_NK: Tensor, target_ND: Tensor, target_NK: Tensor, terms: _Terms
    ) -> Tensor:
        source_N = self.network.domain_logits(source_ND, source_NK)
        target_N = self.network.domain_logits(target_ND, target_NK)
        terms.values["domain_accuracy"] = adversarial.domain_accuracy(source_N, target_N)
        if self.objectives.cdan and self.objectives.cdan_entropy:
            weights = cdan.entropy_weights(source_NK), cdan.entropy_weights(target_NK)
            return adversarial.domain_loss(source_N, target_N, *weights)
        return adversarial.domain_loss(source_N, target_N)

    def _vat(self, images_NCHW: Tensor, domain: int) -> Tensor:
        """Of one function of the images: float32, this domain's statistics, and neither dropout nor mixed styles.

        The step's own logits are of another: half precision, whose noise hides the direction, perhaps a pass of both
        domains, and a dropout mask of their own. Hence the clean images are predicted anew.
        """
        direction_NCHW = torch.randn_like(images_NCHW)
        predict = partial(self.network, domain=domain)
        with torch.autocast(images_NCHW.device.type, enabled=False), _without_noise(self.network):
            with torch.no_grad():
                clean_NK = predict(images_NCHW)
            return vat.vat_loss(predict, images_NCHW, clean_NK, direction_NCHW, radius=self.objectives.vat_radius)

    def _interpolated(self, source_NCHW: Tensor, joint_NK: Tensor) -> Tensor:
        """AdaMatch's logits, on a random line between those of the joint pass and those of a pass by itself."""
        with frozen_running_statistics(self.network):
            alone_NK = self.network(source_NCHW, SOURCE)
        return adamatch.interpolate_logits(joint_NK, alone_NK, torch.rand_like(joint_NK))

    def _add_adamatch(
        self,
        terms: _Terms,
        batch: StepInput,
        source_NK: Tensor,
        target_NK: Tensor,
        state: AdaptationState,
        pace: Pace,
    ) -> None:
        loss, share = adamatch.adamatch(
            target_NK,
            self.network(batch.target_views[1], TARGET),
            source_NK,
            source_marginal_K=state.source_marginal_K,
            target_marginal_K=state.target_marginal_K,
            tau=self.objectives.adamatch_tau,
        )
        terms.add("adamatch", self.objectives.adamatch, lambda: loss, warmup=pace.warmup)
        terms.values["adamatch_confident_share"] = share


@contextmanager
def _without_noise(network: nn.Module) -> Iterator[None]:
    layers = [module for module in network.modules() if isinstance(module, (_DropoutNd, MixStyle)) and module.training]
    for layer in layers:
        layer.eval()
    try:
        yield
    finally:
        for layer in layers:
            layer.train()


def _marginal(logits_NK: Tensor) -> Tensor:
    return logits_NK.detach().float().softmax(dim=1).mean(dim=0)
