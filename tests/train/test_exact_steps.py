"""Twenty real steps of the loop against arithmetic by hand, and one seed giving one loss curve.

The reference knows no gradient reversal: the gradients of label loss and domain loss are taken separately, on the very
tensors that the loop used, and combined as in the paper (arXiv 1505.07818, equations 13 to 15).
"""

import copy
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from dann.infer.errors import Interrupted
from dann.train import checkpoint, domains, image_set
from dann.train.adaptation_state import AdaptationState
from dann.train.loop import fit, resume
from dann.train.model import DomainAdversarialNetwork
from dann.train.run_dir import RunDir, find_run
from dann.train.settings import ModelConfig, ObjectivesConfig, TrainConfig
from dann.train.training_step import Pace, StepInput, StepOutput, TrainingStep

Configure = Callable[..., TrainConfig]
Lines = Callable[[Path], list[dict[str, Any]]]
STEPS = 20


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@dataclass
class Step:
    """What was seen of one step of the optimiser."""

    network: DomainAdversarialNetwork
    """As it was before the step."""
    batch: StepInput
    loss: float
    lrs: dict[str, float] = field(default_factory=dict)
    gradients: dict[str, Tensor | None] = field(default_factory=dict)
    after: dict[str, Tensor] = field(default_factory=dict)


@contextmanager
def watched() -> Iterator[list[Step]]:
    """The steps that any training inside takes, in order."""
    steps: list[Step] = []
    live: list[DomainAdversarialNetwork] = []
    forward = TrainingStep.forward

    def watching(self: TrainingStep, batch: StepInput, state: AdaptationState, pace: Pace) -> StepOutput:
        output = forward(self, batch, state, pace)
        live[:] = [self.network]
        steps.append(Step(copy.deepcopy(self.network), batch, output.total.item()))
        return output

    def before(optimiser: torch.optim.Optimizer, *_: object) -> None:
        names = {id(parameter): name for name, parameter in live[0].named_parameters()}
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                grad = parameter.grad
                steps[-1].gradients[names[id(parameter)]] = None if grad is None else grad.clone()
                steps[-1].lrs[names[id(parameter)]] = group["lr"]

    def after(*_: object) -> None:
        steps[-1].after = {name: parameter.detach().clone() for name, parameter in live[0].named_parameters()}

    with (
        pytest.MonkeyPatch.context() as patch,
        register_optimizer_step_pre_hook(before),
        register_optimizer_step_post_hook(after),
    ):
        patch.setattr(TrainingStep, "forward", watching)
        yield steps


def steps_of(train: Callable[[], Any]) -> list[Step]:
    with watched() as steps:
        train()
    return steps


# ---- gradients ----------------------------------------------------------------------------------------------------


def losses_by_hand(network: DomainAdversarialNetwork, batch: StepInput) -> tuple[Tensor, Tensor | None]:
    """Label loss and domain loss from the raw networks, without the reversal."""
    source_NCHW = batch.labelled_NCHW
    if not batch.target_views:
        source_ND, target_ND = network.features(source_NCHW, 0), None
    elif network.joint_pass:
        both_ND = network.feature_extractor(torch.cat([source_NCHW, batch.target_views[0]]))
        source_ND, target_ND = both_ND[: len(source_NCHW)], both_ND[len(source_NCHW) :]
    else:
        source_ND, target_ND = network.features(source_NCHW, 0), network.features(batch.target_views[0], 1)
    log_probabilities = network.label_classifier(source_ND).log_softmax(1)
    label = -log_probabilities[torch.arange(len(source_NCHW)), batch.labels_N].mean()
    if target_ND is None:
        return label, None
    source_N, target_N = network.domain_classifier(source_ND)[:, 0], network.domain_classifier(target_ND)[:, 0]
    return label, 0.5 * (F.softplus(source_N).mean() + F.softplus(-target_N).mean())


def gradients_by_hand(network: DomainAdversarialNetwork, batch: StepInput, lam: float) -> dict[str, Tensor | None]:
    """Feature extractor: of the label loss minus λ times that of the domain loss. Each classifier: of its own loss."""
    network = copy.deepcopy(network)
    parameters = dict(network.named_parameters())
    label, domain = losses_by_hand(network, batch)
    of_label, of_domain = (
        torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
        if loss is not None
        else [None] * len(parameters)
        for loss in (label, domain)
    )
    found: dict[str, Tensor | None] = {}
    for name, g_label, g_domain in zip(parameters, of_label, of_domain, strict=True):
        if name.startswith("feature_extractor.") and g_label is not None and g_domain is not None:
            found[name] = g_label - lam * g_domain
        else:
            found[name] = g_domain if name.startswith("domain_classifier.") else g_label
    return found


def assert_gradients(found: dict[str, Tensor | None], expected: dict[str, Tensor | None], where: str) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        if gradient is None:
            assert found[name] is None, f"{where}: {name} has a gradient"
        else:
            torch.testing.assert_close(
                found[name], gradient, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{where}: {name}: {text}"
            )


def lam_of(step: int) -> float:
    return 2 / (1 + math.exp(-10 * step / STEPS)) - 1


NETWORKS = {
    "no batch norm": {"model.batch_norm": False},
    "split": {"model.bn": "split"},
    "domain": {"model.bn": "domain"},
    "shared": {"model.bn": "shared"},
}


@pytest.mark.parametrize("network", NETWORKS)
def test_every_gradient_of_twenty_steps_is_the_papers(network: str, configure: Configure, runs: Path):
    config = configure({**NETWORKS[network], "adapt.lam_max": 1.5}, steps=STEPS)
    steps = steps_of(partial(fit, config, runs=runs))
    assert len(steps) == STEPS
    for number, step in enumerate(steps):
        assert_gradients(
            step.gradients, gradients_by_hand(step.network, step.batch, 1.5 * lam_of(number)), f"step {number}"
        )
        heads = [value for name, value in step.gradients.items() if name.startswith("domain_classifier")]
        assert all(value is not None and value.any() for value in heads), "the head learns whatever λ is, at 0 too"


def test_the_weight_of_the_adversarial_loss_acts_on_the_features_alone(configure: Configure, runs: Path):
    config = configure({"objectives.dann": 0.25, "adapt.lam_schedule": "constant"}, steps=3)
    for step in steps_of(partial(fit, config, runs=runs)):
        assert_gradients(step.gradients, gradients_by_hand(step.network, step.batch, 0.25), "weight 0.25")


@pytest.mark.parametrize("mode", ["source", "target"])
def test_without_adaptation_the_domain_classifier_gets_no_gradient(
    mode: str, configure: Configure, sets: dict[str, str], runs: Path
):
    config = configure({"data.target": sets["target"]}, mode=mode, steps=STEPS)
    for step in steps_of(partial(fit, config, runs=runs)):
        expected = gradients_by_hand(step.network, step.batch, 0.0)
        assert expected["domain_classifier.0.weight"] is None
        assert_gradients(step.gradients, expected, mode)


def test_each_domain_is_one_half_of_the_loss_however_many_images_it_brings():
    torch.manual_seed(1)
    config = ModelConfig(backbone="dann-mnist", width=0.1, label_hidden=(6,), domain_hidden=(6,))
    network = DomainAdversarialNetwork(config, classes=2, height=16, width=16, two_domains=True)
    batch = StepInput(
        labelled_NCHW=torch.rand(7, 3, 16, 16),
        labels_N=torch.tensor([0, 1, 0, 1, 1, 0, 0]),
        target_views=(torch.rand(3, 3, 16, 16),),
    )
    expected = gradients_by_hand(network, batch, 0.7)
    state = AdaptationState(network, classes=2, ema=0.0)
    TrainingStep(network, ObjectivesConfig())(batch, state, Pace(lam=0.7)).total.backward()
    assert_gradients({name: value.grad for name, value in network.named_parameters()}, expected, "7 and 3 images")


# ---- the update ---------------------------------------------------------------------------------------------------


def test_every_update_is_sgd_with_momentum_by_hand(configure: Configure, runs: Path):
    settings = {"optimiser.lr": 0.05, "optimiser.momentum": 0.8, "optimiser.weight_decay": 0.01}
    config = configure({**settings, "optimiser.head_lr_factor": 3.0}, steps=STEPS)
    velocity: dict[str, Tensor] = {}
    for number, step in enumerate(steps_of(partial(fit, config, runs=runs))):
        lr = 0.05 * (1 + 10 * number / STEPS) ** -0.75
        for name, parameter in step.network.named_parameters():
            gradient = step.gradients[name]
            assert gradient is not None
            velocity[name] = 0.8 * velocity.get(name, torch.zeros(())) + gradient + 0.01 * parameter.detach()
            its_lr = lr if name.startswith("feature_extractor") else 3 * lr
            assert step.lrs[name] == pytest.approx(its_lr, rel=1e-12)
            torch.testing.assert_close(step.after[name], parameter.detach() - its_lr * velocity[name])


def test_the_weights_change_in_the_update_only(configure: Configure, runs: Path):
    steps = steps_of(partial(fit, configure(steps=STEPS), runs=runs))
    for one, next_one in zip(steps, steps[1:], strict=False):
        for name, parameter in next_one.network.named_parameters():
            assert torch.equal(one.after[name], parameter)


# ---- one seed, one curve ------------------------------------------------------------------------------------------

EVERYTHING = {
    "model.dropout": 0.3,
    "augment.flip": True,
    "augment.shift": 0.1,
    "augment.noise": 0.05,
    "objectives.vat_target": 0.1,
    "objectives.mean_teacher": 1.0,
    "objectives.confidence": 0.5,
    "objectives.adamatch": 0.3,
    "objectives.warmup": 0.5,
    "objectives.refine_from": 0.7,
    "optimiser.name": "adam",
    "optimiser.ema": 0.9,
    "selection.criterion": "im",
}
"""All that is random, and all that has a state."""


def curve(train: Callable[[], Any]) -> list[float]:
    return [step.loss for step in steps_of(train)]


def state(run: RunDir) -> dict[str, Tensor]:
    """Network, averaged network, marginals and optimiser at the end."""
    return checkpoint.read(run.last)[1]


def assert_same(one: RunDir, other: RunDir) -> None:
    found, expected = state(one), state(other)
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


def stopping_after(step: int) -> Callable[..., None]:
    def on_step(done: int, total: int, numbers: dict[str, Any]) -> None:
        if done == step:
            signal.raise_signal(signal.SIGTERM)

    return on_step


def test_the_same_seed_gives_the_same_curve_to_the_last_bit(configure: Configure, runs: Path):
    one, same, other = (
        curve(partial(fit, configure(EVERYTHING, steps=STEPS, seed=seed), runs=runs)) for seed in (4, 4, 5)
    )
    assert one == same and len(one) == STEPS
    assert all(math.isfinite(loss) for loss in one)
    assert one != other


def test_the_curve_goes_on_bit_for_bit_after_each_interruption(configure: Configure, runs: Path, lines: Lines):
    config = configure(EVERYTHING, steps=STEPS)
    whole = curve(partial(fit, config, runs=runs, name="whole"))
    parts: list[float] = []
    start = partial(fit, config, runs=runs, name="parts")
    for stop in (1, 3, 4, 11, 15, 19):  # the first step, the end of an epoch and its next, refinement, the last but one
        with pytest.raises(Interrupted), watched() as steps:
            start(on_step=stopping_after(stop))
        parts += [step.loss for step in steps]
        torch.manual_seed(stop)  # what else happens in the process is of no matter
        start = partial(resume, find_run("parts", runs))
    parts += curve(start)
    assert parts == whole
    one, other = find_run("parts", runs), find_run("whole", runs)
    assert_same(one, other)
    assert one.last.read_bytes() == other.last.read_bytes()  # what was selected, judged and logged so far, too
    assert one.selected.read_bytes() == other.selected.read_bytes()
    assert lines(one.metrics) == lines(other.metrics)


@pytest.fixture
def picture_folders(sets: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The sets again, as folders of PNGs by class; the target is flat."""
    for name in ("source", "unlabelled"):
        with np.load(sets[name]) as stored:
            labels = [f"{label}" for label in stored["y"]] if "y" in stored else [""] * len(stored["x"])
            for number, (image_HWC, label) in enumerate(zip(stored["x"], labels, strict=True)):
                (tmp_path / name / label).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(tmp_path / name / label / f"{number:02}.png"), image_HWC[..., ::-1])
    return {"data.source": str(tmp_path / "source"), "data.target": str(tmp_path / "unlabelled")}


def test_streaming_and_decode_threads_do_not_change_the_curve(
    configure: Configure, picture_folders: dict[str, str], runs: Path, monkeypatch: pytest.MonkeyPatch
):
    config = configure({**EVERYTHING, **picture_folders, "data.test": None}, steps=STEPS)
    in_memory = curve(partial(fit, config, runs=runs))
    for name in ("open_labelled", "open_unlabelled"):
        monkeypatch.setattr(domains, name, partial(getattr(domains, name), memory_budget_bytes=0))
    assert not domains.open_domains(config).labelled.images.in_memory
    for threads in (1, 4):
        monkeypatch.setattr(image_set, "_THREADS", threads)
        assert curve(partial(fit, config, runs=runs)) == in_memory


FROZEN = {"optimiser.freeze": ["backbone"], "optimiser.lr": 0.01}


@pytest.mark.parametrize(
    "settings",
    [{**EVERYTHING, "model.bn": bn} for bn in ("shared", "split", "domain")] + [FROZEN],
    ids=["shared", "split", "domain", "frozen"],
)
def test_evaluation_in_the_middle_changes_nothing(settings: dict[str, Any], configure: Configure, runs: Path):
    often, never = (fit(configure(settings, steps=9, eval_every=every), runs=runs) for every in (1, 0))
    assert [entry["step"] for entry in often.history.headlines] == [3, 6, 9]
    assert [entry["step"] for entry in never.history.headlines] == [9]
    assert_same(often.run, never.run)


def test_a_batch_norm_layer_that_is_frozen_keeps_its_statistics(configure: Configure, runs: Path):
    config = configure(FROZEN, steps=9)
    begun, *_, last = steps_of(partial(fit, config, runs=runs))
    statistics = {name: value for name, value in begun.network.state_dict().items() if "running" in name}
    assert statistics
    for name, value in last.network.state_dict().items():
        assert name not in statistics or torch.equal(value, statistics[name]), name
