"""Every objective in the loop's composition: its weight, its stage, its gradient, and what it must leave alone.

What each loss is worth is tested beside it, in ``tests/train/objectives``. Here each is taken from a copy of the
network, and the step must be the weighted sum of them.
"""

import copy
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dann.train import checkpoint
from dann.train.adaptation_state import AdaptationState
from dann.train.batch_norm import SOURCE, TARGET, DomainBatchNorm
from dann.train.loop import fit
from dann.train.model import DomainAdversarialNetwork
from dann.train.objectives import adamatch, adversarial, cdan, refinement, self_ensembling, target_outputs, vat
from dann.train.objectives.cdan import RandomisedMultilinearMap
from dann.train.objectives.supervised import label_loss
from dann.train.settings import ModelConfig, ObjectivesConfig, TrainConfig
from dann.train.training_step import Pace, StepInput, StepOutput, TrainingStep

Configure = Callable[..., TrainConfig]
CLASSES = 3
NO_ADVERSARY: dict[str, Any] = {"dann": 0.0}


def network_of(bn: str = "split", *, conditional: bool = False, dropout: float = 0.0) -> DomainAdversarialNetwork:
    torch.manual_seed(7)
    config = ModelConfig(
        backbone="dann-mnist",
        width=0.1,
        label_hidden=(6,),
        domain_hidden=(6,),
        bn=bn,  # type: ignore[arg-type]
        dropout=dropout,
    )
    return DomainAdversarialNetwork(
        config, classes=CLASSES, height=16, width=16, two_domains=True, conditional=conditional
    )


def state_of(network: DomainAdversarialNetwork) -> AdaptationState:
    """With a teacher that has drifted away from the student, and marginals that are not uniform."""
    state = AdaptationState(network, classes=CLASSES, ema=0.9)
    assert state.averaged is not None
    torch.manual_seed(8)
    with torch.no_grad():
        for parameter in state.averaged.module.parameters():
            parameter.mul_(1.3).add_(0.05 * torch.randn_like(parameter))
    state.source_marginal_K.copy_(torch.tensor([0.5, 0.3, 0.2]))
    state.target_marginal_K.copy_(torch.tensor([0.2, 0.2, 0.6]))
    return state


@pytest.fixture
def batch() -> StepInput:
    torch.manual_seed(9)
    return StepInput(
        labelled_NCHW=torch.rand(8, 3, 16, 16),
        labels_N=torch.arange(8) % CLASSES,
        target_views=(torch.rand(6, 3, 16, 16), torch.rand(6, 3, 16, 16)),
    )


def step(
    network: DomainAdversarialNetwork,
    batch: StepInput,
    objectives: dict[str, Any],
    *,
    state: AdaptationState | None = None,
    lam: float = 0.5,
    warmup: float = 1.0,
    refining: bool = False,
) -> StepOutput:
    """One forward pass of the step, and backward."""
    torch.manual_seed(10)
    pace = Pace(lam=lam, warmup=warmup, refining=refining)
    output = TrainingStep(network, ObjectivesConfig(**objectives))(batch, state or state_of(network), pace)
    output.total.backward()
    return output


# ---- the terms, each by itself ------------------------------------------------------------------------------------


class Passes:
    """The forward passes of a batch, written out, with what the terms are functions of."""

    def __init__(self, network: DomainAdversarialNetwork, batch: StepInput, state: AdaptationState):
        self.network, self.batch, self.state = network, batch, state
        self.target_NCHW, self.second_NCHW = batch.target_views
        self.source_ND = network.features(batch.labelled_NCHW, SOURCE)
        self.target_ND = network.features(self.target_NCHW, TARGET)
        self.source_NK = network.label_classifier(self.source_ND)
        self.target_NK = network.label_classifier(self.target_ND)

    def teacher(self, images_NCHW: Tensor) -> Tensor:
        assert self.state.averaged is not None
        return copy.deepcopy(self.state.averaged.module).train()(images_NCHW, TARGET)

    def vat(self, images_NCHW: Tensor, domain: int) -> Tensor:
        direction, predict = torch.randn_like(images_NCHW), partial(self.network, domain=domain)
        return vat.vat_loss(predict, images_NCHW, predict(images_NCHW), direction, radius=1.75)


def _adamatch(passes: Passes) -> Tensor:
    return adamatch.adamatch(
        passes.target_NK,
        passes.network(passes.second_NCHW, TARGET),
        passes.source_NK,
        source_marginal_K=torch.tensor([0.5, 0.3, 0.2]),
        target_marginal_K=torch.tensor([0.2, 0.2, 0.6]),
        tau=0.9,
    )[0]


TERMS: dict[str, Callable[[Passes], Tensor]] = {
    "entropy": lambda passes: target_outputs.entropy(passes.target_NK),
    "mcc": lambda passes: target_outputs.mcc(passes.target_NK, 2.5),
    "bnm": lambda passes: target_outputs.bnm(passes.target_NK),
    "class_balance": lambda passes: target_outputs.class_balance(passes.target_NK),
    "vat_source": lambda passes: passes.vat(passes.batch.labelled_NCHW, SOURCE),
    "vat_target": lambda passes: passes.vat(passes.target_NCHW, TARGET),
    "mean_teacher": lambda passes: self_ensembling.confident_consistency(
        passes.target_NK, passes.teacher(passes.second_NCHW), 0.4
    )[0],
    "adamatch": _adamatch,
}
REFINING = [name for name in TERMS if name not in ("vat_source", "adamatch")]
"""The terms that need no source."""


def term_and_gradient(
    loss: Callable[[Passes], Tensor], network: DomainAdversarialNetwork, batch: StepInput, state: AdaptationState
) -> tuple[float, dict[str, Tensor]]:
    """A loss of a copy of ``network``, and its gradient by parameter (zero where it does not reach)."""
    own = copy.deepcopy(network)
    value = loss(Passes(own, batch, state))
    parameters = dict(own.named_parameters())
    found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True, materialize_grads=True)
    return value.item(), dict(zip(parameters, found, strict=True))


def assert_gradient(network: DomainAdversarialNetwork, *weighted: tuple[float, dict[str, Tensor]]) -> None:
    """The gradient of ``network`` is the sum of the others, each times its weight."""
    for name, parameter in network.named_parameters():
        expected = torch.stack([weight * gradient[name] for weight, gradient in weighted]).sum(0)
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


def of_labels(passes: Passes) -> Tensor:
    return label_loss(passes.source_NK, passes.batch.labels_N)


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("bn", ["split", "domain"])
def test_an_objective_enters_with_its_weight_and_warmup(name: str, bn: str, batch: StepInput):
    network = network_of(bn)
    state = state_of(network)
    label, label_gradient = term_and_gradient(of_labels, network, batch, state)
    torch.manual_seed(10)
    term, gradient = term_and_gradient(TERMS[name], network, batch, state)
    assert any(value.any() for value in gradient.values())

    output = step(network, batch, {**NO_ADVERSARY, "confidence": 0.4, name: 0.7}, state=state, warmup=0.4)
    assert output.values.keys() - {"confident_share", "adamatch_confident_share"} == {
        "loss",
        "label_loss",
        f"{name}_loss",
    }
    assert output.values["label_loss"].item() == pytest.approx(label, rel=1e-5)
    assert output.values[f"{name}_loss"].item() == pytest.approx(term, rel=1e-4)
    assert output.total.item() == pytest.approx(label + 0.4 * 0.7 * term, rel=1e-5)
    assert_gradient(network, (1.0, label_gradient), (0.4 * 0.7, gradient))


@pytest.mark.parametrize("name", TERMS)
def test_an_objective_that_is_warmed_up_to_nothing_is_not_there(name: str, batch: StepInput):
    network, plain = network_of(), network_of()
    output = step(network, batch, {**NO_ADVERSARY, name: 0.7}, warmup=0.0)
    expected = step(plain, batch, NO_ADVERSARY)
    assert f"{name}_loss" not in output.values
    assert torch.equal(output.total, expected.total)
    for parameter, other in zip(network.parameters(), plain.parameters(), strict=True):
        assert (parameter.grad is None) == (other.grad is None)
        assert parameter.grad is None or torch.equal(parameter.grad, other.grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("bn", ["shared", "split"])
def test_vat_is_nothing_where_the_images_hardly_move(bn: str, half: bool, batch: StepInput):
    """Both predictions that it compares are of one function: its statistics, its precision, and no dropout."""
    network = network_of(bn, dropout=0.5)
    objectives = {**NO_ADVERSARY, "vat_source": 1.0, "vat_target": 1.0, "vat_radius": 1e-3}
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        values = step(network, batch, objectives).values
    assert values["vat_source_loss"] < 1e-6 and values["vat_target_loss"] < 1e-6
    assert all(module.training for module in network.modules())


def test_all_objectives_together_are_their_weighted_sum(batch: StepInput):
    weights = {name: 0.1 + 0.2 * number for number, name in enumerate(TERMS)}
    network = network_of()
    state = state_of(network)
    label, label_gradient = term_and_gradient(of_labels, network, batch, state)
    parts = []
    torch.manual_seed(10)  # the directions of VAT are drawn for the source first, as they are listed
    for name in TERMS:
        parts.append((weights[name], *term_and_gradient(TERMS[name], network, batch, state)))
    output = step(network, batch, {**NO_ADVERSARY, "confidence": 0.4, **weights}, state=state)
    assert output.total.item() == pytest.approx(label + sum(weight * value for weight, value, _ in parts), rel=1e-5)
    assert_gradient(network, (1.0, label_gradient), *((weight, gradient) for weight, _, gradient in parts))


# ---- adversarial objectives ---------------------------------------------------------------------------------------


def of_domains(passes: Passes) -> Tensor:
    """The domain loss with nothing reversed."""
    network = passes.network
    logits = [network.domain_classifier(features_ND)[:, 0] for features_ND in (passes.source_ND, passes.target_ND)]
    return adversarial.domain_loss(*logits)


def of_conditional_domains(passes: Passes, *, entropy: bool) -> Tensor:
    """CDAN's domain loss with nothing reversed: features ⊗ probabilities (by einsum), and the weights of CDAN+E."""
    logits, weights = [], []
    for features_ND, logits_NK in ((passes.source_ND, passes.source_NK), (passes.target_ND, passes.target_NK)):
        classes_NK = logits_NK.softmax(1).detach()
        conditioning = passes.network.conditioning
        if isinstance(conditioning, RandomisedMultilinearMap):
            mapped = (features_ND @ conditioning.from_features) * (classes_NK @ conditioning.from_classes)
            mapped = mapped / math.sqrt(conditioning.outputs)
        else:
            mapped = torch.einsum("nd,nk->ndk", features_ND, classes_NK).flatten(1)
        logits.append(passes.network.domain_classifier(mapped)[:, 0])
        weights.append(1 + torch.exp((classes_NK * classes_NK.log()).sum(1)))
    return adversarial.domain_loss(*logits, *(weights if entropy else ()))


def reversed_on_features(gradient: dict[str, Tensor], lam: float) -> dict[str, Tensor]:
    """What reaches the weights: −λ times the gradient in the feature extractor, the whole one elsewhere."""
    return {name: -lam * value if name.startswith("feature_extractor.") else value for name, value in gradient.items()}


ADVERSARIES: dict[str, tuple[dict[str, Any], Callable[[Passes], Tensor]]] = {
    "dann": ({"dann": 0.6}, of_domains),
    "cdan": (
        {"dann": 0.0, "cdan": 0.6, "cdan_entropy": False},
        partial(of_conditional_domains, entropy=False),
    ),
    "cdan+e": ({"dann": 0.0, "cdan": 0.6}, partial(of_conditional_domains, entropy=True)),
}


@pytest.mark.parametrize("map_", ["exact", "randomised"])
@pytest.mark.parametrize("name", ADVERSARIES)
def test_adversarial_objectives_weigh_on_the_features_alone(
    name: str, map_: str, batch: StepInput, monkeypatch: pytest.MonkeyPatch
):
    if map_ == "randomised":
        monkeypatch.setattr(cdan, "_MOST_EXACT_OUTPUTS", 1)
    objectives, domains = ADVERSARIES[name]
    network = network_of(conditional=name != "dann")
    state = state_of(network)
    label, label_gradient = term_and_gradient(of_labels, network, batch, state)
    domain, gradient = term_and_gradient(domains, network, batch, state)
    output = step(network, batch, objectives, state=state, lam=0.5, warmup=0.0)
    assert output.values["domain_loss"].item() == pytest.approx(domain, rel=1e-5)
    assert output.total.item() == pytest.approx(label + domain, rel=1e-5)
    assert_gradient(network, (1.0, label_gradient), (1.0, reversed_on_features(gradient, 0.5 * 0.6)))


def test_at_lam_0_the_features_learn_from_the_labels_alone_and_the_domain_classifier_learns(batch: StepInput):
    network, plain = network_of(), network_of()
    step(network, batch, {"dann": 1.0}, lam=0.0)
    step(plain, batch, NO_ADVERSARY)
    for (name, parameter), other in zip(network.named_parameters(), plain.parameters(), strict=True):
        if name.startswith("domain_classifier."):
            assert parameter.grad is not None and parameter.grad.any() and other.grad is None
        else:
            assert torch.equal(parameter.grad, other.grad)  # type: ignore[arg-type]


# ---- refinement ---------------------------------------------------------------------------------------------------


def of_refinement(passes: Passes) -> Tensor:
    return refinement.teacher_divergence(passes.target_NK, passes.teacher(passes.target_NCHW))


def test_refinement_is_the_teacher_and_the_targets_terms(batch: StepInput):
    network = network_of()
    state = state_of(network)
    weights = {name: 0.1 + 0.2 * number for number, name in enumerate(REFINING)}
    value, gradient = term_and_gradient(of_refinement, network, batch, state)
    torch.manual_seed(10)
    parts = [(weights[name], *term_and_gradient(TERMS[name], network, batch, state)) for name in REFINING]
    objectives = {"refine": 0.3, "confidence": 0.4, **weights}
    objectives |= {"vat_source": 1.0, "adamatch": 1.0}  # which need the source, and are left behind with it
    output = step(network, batch, objectives, state=state, refining=True)
    expected = 0.3 * value + sum(weight * value for weight, value, _ in parts)
    assert output.total.item() == pytest.approx(expected, rel=1e-5)
    assert_gradient(network, (0.3, gradient), *((weight, gradient) for weight, _, gradient in parts))


def test_refinement_does_not_look_at_the_source(batch: StepInput):
    gone = StepInput(
        labelled_NCHW=torch.full_like(batch.labelled_NCHW, math.nan),
        labels_N=torch.full_like(batch.labels_N, -1),
        target_views=batch.target_views,
    )
    objectives = {"dann": 1.0, "entropy": 0.1, "vat_source": 1.0, "vat_target": 0.1}
    with_source, without = network_of(), network_of()
    one, other = (
        step(network, images, objectives, refining=True) for network, images in ((with_source, batch), (without, gone))
    )
    assert torch.equal(one.total, other.total)
    assert one.marginals.keys() == {"target_marginal_K"}
    for name, value in without.state_dict().items():
        assert torch.equal(value, with_source.state_dict()[name]), name
    assert all(parameter.grad is None for parameter in without.domain_classifier.parameters())


# ---- the teacher --------------------------------------------------------------------------------------------------

EVERYTHING = {name: 0.5 for name in TERMS} | {"confidence": 0.4}


@pytest.mark.parametrize("refining", [False, True])
def test_the_teacher_gets_no_gradient_and_does_not_change(refining: bool, batch: StepInput):
    network = network_of()
    state = state_of(network)
    before = copy.deepcopy(state.state_dict())
    step(network, batch, EVERYTHING, state=state, refining=refining)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in state.parameters())
    assert [name for name, value in state.state_dict().items() if not torch.equal(value, before[name])] == []


# ---- running statistics -------------------------------------------------------------------------------------------


def statistics(network: DomainAdversarialNetwork) -> dict[str, Tensor]:
    return {name: value for name, value in network.state_dict().items() if "running" in name}


@pytest.mark.parametrize("refining", [False, True])
@pytest.mark.parametrize("bn", ["shared", "split", "domain"])
def test_running_statistics_are_those_of_the_one_pass_that_they_should_be_of(bn: str, refining: bool, batch: StepInput):
    network, by_hand = network_of(bn), network_of(bn)
    step(network, batch, EVERYTHING, refining=refining)
    if refining:
        by_hand.features(batch.target_views[0], TARGET)
    elif bn == "shared":
        by_hand.features(torch.cat([batch.labelled_NCHW, batch.target_views[0]]))
    else:
        by_hand.features(batch.labelled_NCHW, SOURCE)
        by_hand.features(batch.target_views[0], TARGET)
    expected, untouched = statistics(by_hand), statistics(network_of(bn))
    assert expected
    for name, value in statistics(network).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-7)
        assert not torch.equal(value, untouched[name])
        if refining and bn != "shared":
            assert torch.equal(value[SOURCE], untouched[name][SOURCE])


def other_target(batch: StepInput) -> StepInput:
    views = tuple(1 - view for view in batch.target_views)
    return StepInput(labelled_NCHW=batch.labelled_NCHW, labels_N=batch.labels_N, target_views=views)


@pytest.mark.parametrize(("bn", "mixed"), [("shared", True), ("split", False), ("domain", False)])
def test_only_a_joint_pass_normalises_the_source_by_the_target_too(bn: str, mixed: bool, batch: StepInput):
    losses = [
        step(network_of(bn), images, NO_ADVERSARY).values["label_loss"] for images in (batch, other_target(batch))
    ]
    assert torch.equal(*losses) != mixed


def test_each_domain_learns_its_own_scale_and_shift_where_they_are_per_domain(batch: StepInput):
    network = network_of("domain")
    step(network, batch, NO_ADVERSARY)  # the labels are the source's
    layers = [module for module in network.modules() if isinstance(module, DomainBatchNorm)]
    assert layers
    for layer in layers:
        for parameter in (layer.weight, layer.bias):
            assert parameter is not None and parameter.grad is not None
            assert parameter.grad[SOURCE].any() and not parameter.grad[TARGET].any()


def test_adamatch_learns_the_source_between_the_joint_pass_and_its_own(batch: StepInput):
    network = network_of("shared")
    state = state_of(network)
    own, half = copy.deepcopy(network), copy.deepcopy(network)
    output = step(network, batch, {**NO_ADVERSARY, "adamatch": 1.0}, state=state)
    joint_NK = own(torch.cat([batch.labelled_NCHW, batch.target_views[0]]))[: len(batch.labels_N)]
    torch.manual_seed(10)
    mixed_NK = adamatch.interpolate_logits(joint_NK, half(batch.labelled_NCHW), torch.rand_like(joint_NK))
    assert output.values["label_loss"].item() == pytest.approx(label_loss(mixed_NK, batch.labels_N).item(), rel=1e-5)


# ---- precision ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adversary", ["dann", "cdan"])
@pytest.mark.parametrize("refining", [False, True])
def test_under_bfloat16_every_loss_is_float32(adversary: str, refining: bool, batch: StepInput):
    objectives = {**EVERYTHING, "dann": 0.0, adversary: 1.0}
    network, exact_network = (network_of(conditional=adversary == "cdan") for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        assert network(batch.labelled_NCHW).dtype == torch.bfloat16
        output = step(network, batch, objectives, refining=refining)
    exact = step(exact_network, batch, objectives, refining=refining)
    assert output.values.keys() == exact.values.keys()
    for name, value in {"total": output.total, **output.values, **output.marginals}.items():
        assert value.dtype == torch.float32 and value.isfinite().all(), name
    assert output.total.item() == pytest.approx(exact.total.item(), rel=0.1)
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    assert all(gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in gradients)


# ---- several passes to a step -------------------------------------------------------------------------------------

MEANS = {
    "dann": {},
    "cdan without entropy": {"objectives.dann": 0.0, "objectives.cdan": 1.0, "objectives.cdan_entropy": False},
    "entropy": {"objectives.entropy": 0.3},
    "mean teacher": {"objectives.mean_teacher": 3.0, "objectives.confidence": 0.6, "optimiser.ema": 0.9},
    "refinement": {"objectives.refine_from": 0.4, "objectives.refine": 1.0, "optimiser.ema": 0.9},
}
"""Objectives that are means over images."""


def trained(config: TrainConfig, runs: Path) -> dict[str, Tensor]:
    tensors = checkpoint.read(fit(config, runs=runs).run.last)[1]
    return {name: value for name, value in tensors.items() if not name.startswith("optimiser.")}


@pytest.mark.parametrize("name", MEANS)
def test_accumulating_equals_a_batch_of_as_many_images(name: str, configure: Configure, tmp_path: Path):
    settings: dict[str, Any] = {"model.batch_norm": False, "model.dropout": 0.0, "augment.noise": 0.05, **MEANS[name]}
    parts, whole = (
        trained(configure(settings, batch_size=size, accumulate=passes, eval_every=0), tmp_path)
        for size, passes in ((4, 3), (12, 1))
    )
    assert parts.keys() == whole.keys()
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=0, atol=1e-6)
