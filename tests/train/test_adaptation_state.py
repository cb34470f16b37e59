"""What adaptation carries from step to step: averages against loops by hand, and through a checkpoint."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dann.train import checkpoint
from dann.train.adaptation_state import AdaptationState, evaluating
from dann.train.batch_norm import TARGET
from dann.train.distributed import World
from dann.train.loop import fit
from dann.train.model import DomainAdversarialNetwork
from dann.train.settings import ModelConfig, TrainConfig
from dann.train.trained import load_trained

Configure = Callable[..., TrainConfig]
ALONE = World()


@pytest.fixture
def network() -> DomainAdversarialNetwork:
    torch.manual_seed(3)
    config = ModelConfig(backbone="dann-mnist", width=0.1, dropout=0.5, label_hidden=(6,), domain_hidden=(6,))
    return DomainAdversarialNetwork(config, classes=3, height=16, width=16, two_domains=True).train()


def move(network: nn.Module) -> None:
    """Change every parameter and every floating buffer at random, as steps do."""
    with torch.no_grad():
        for value in network.state_dict().values():
            value.add_(0.1 * torch.rand_like(value))


def averaged(state: AdaptationState) -> dict[str, Tensor]:
    assert state.averaged is not None
    return state.averaged.module.state_dict()


# ---- the averaged network -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.3, 0.99])
def test_the_average_is_the_one_of_a_loop_by_hand_buffers_included(decay: float, network: DomainAdversarialNetwork):
    state = AdaptationState(network, classes=3, ema=decay)
    expected: dict[str, Tensor] = {}
    for step in range(30):
        move(network)
        state.step(network, {}, ALONE, steps_before=step)
        now = {name: value.double() for name, value in network.state_dict().items()}
        keep = min(decay, (1 + step) / (10 + step))
        expected = {
            name: value if step == 0 else keep * expected[name] + (1 - keep) * value for name, value in now.items()
        }
    assert any("running" in name for name in expected)
    for name, value in averaged(state).items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)


def test_the_untrained_weights_leave_no_trace(network: DomainAdversarialNetwork):
    state = AdaptationState(network, classes=3, ema=0.999)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(5.0)
    state.step(network, {}, ALONE, steps_before=0)
    assert state.averaged is not None
    assert all((parameter == 5.0).all() for parameter in state.averaged.module.parameters())


def test_the_average_is_a_network_of_its_own(network: DomainAdversarialNetwork):
    state = AdaptationState(network, classes=3, ema=0.9)
    state.step(network, {}, ALONE, steps_before=0)
    before = copy.deepcopy(averaged(state))
    move(network)
    assert all(torch.equal(value, before[name]) for name, value in averaged(state).items())


def test_the_averaged_network_is_evaluated_where_there_is_one(network: DomainAdversarialNetwork):
    state = AdaptationState(network, classes=3, ema=0.9)
    assert state.averaged is not None and state.evaluated(network) is state.averaged.module
    assert AdaptationState(network, classes=3, ema=0.0).evaluated(network) is network


def test_the_state_is_no_business_of_the_optimiser(configure: Configure, tmp_path: Path):
    config = configure({"optimiser.ema": 0.9, "objectives.mean_teacher": 1.0, "optimiser.name": "adam"})
    run = fit(config, runs=tmp_path).run
    about, tensors = checkpoint.read(run.last)
    learning = sum(len(group["params"]) for group in about["param_groups"])
    assert learning == len(list(load_trained(run)[2].parameters()))
    assert not any(
        parameter.requires_grad for parameter in AdaptationState(load_trained(run)[2], classes=2, ema=0.9).parameters()
    )
    steps = {key: value.item() for key, value in tensors.items() if key.endswith(".step")}
    assert len(steps) == learning and set(steps.values()) == {6.0}


def test_what_is_exported_is_the_average(configure: Configure, tmp_path: Path):
    run = fit(configure({"optimiser.ema": 0.9}), runs=tmp_path).run
    tensors = checkpoint.read(run.last)[1]
    loaded = load_trained(run)[2].state_dict()
    assert all(torch.equal(value, tensors[f"adaptation.averaged.module.{name}"]) for name, value in loaded.items())
    assert any(not torch.equal(value, tensors[f"network.{name}"]) for name, value in loaded.items())


# ---- the teacher --------------------------------------------------------------------------------------------------


def test_the_teacher_sees_the_batchs_statistics_and_dropout_and_keeps_no_trace(network: DomainAdversarialNetwork):
    state = AdaptationState(network, classes=3, ema=0.9)
    before = copy.deepcopy(averaged(state))
    images_NCHW = torch.rand(8, 3, 16, 16)
    torch.manual_seed(1)
    found = state.teacher_logits(images_NCHW)
    torch.manual_seed(1)
    expected = copy.deepcopy(network).train()(images_NCHW, TARGET)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-6, atol=1e-6)
    assert not found.requires_grad
    assert not torch.equal(found, state.teacher_logits(images_NCHW)), "dropout is another one each time"
    assert all(torch.equal(value, before[name]) for name, value in averaged(state).items())


# ---- class marginals ----------------------------------------------------------------------------------------------


def test_marginals_start_even_and_follow_the_batches(network: DomainAdversarialNetwork):
    state = AdaptationState(network, classes=3, ema=0.0)
    even = torch.full((3,), 1 / 3)
    assert torch.equal(state.source_marginal_K, even) and torch.equal(state.target_marginal_K, even)
    expected = even.clone()
    for batch_K in torch.rand(20, 3).softmax(1):
        state.step(network, {"source_marginal_K": batch_K.clone()}, ALONE, steps_before=0)
        expected = 0.99 * expected + 0.01 * batch_K
        assert state.source_marginal_K.sum().item() == pytest.approx(1.0, abs=1e-6)
    torch.testing.assert_close(state.source_marginal_K, expected)
    assert torch.equal(state.target_marginal_K, even), "not given, not touched"


# ---- through a checkpoint -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_checkpoint_continues_the_state_bit_for_bit(ema: float, network: DomainAdversarialNetwork, tmp_path: Path):
    path = tmp_path / "last.safetensors"
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    state = AdaptationState(network, classes=3, ema=ema)
    for _ in range(4):
        move(network)
        state.step(network, {"target_marginal_K": torch.tensor([0.7, 0.2, 0.1])}, ALONE, steps_before=0)
    checkpoint.save(path, network, optimiser, scaler, state, step=4, classes=("a", "b", "c"), progress={})

    restored = AdaptationState(network, classes=3, ema=ema)
    checkpoint.restore(path, network, optimiser, scaler, restored, classes=("a", "b", "c"))
    move(network)
    for one in (state, restored):
        one.step(network, {"target_marginal_K": torch.tensor([0.1, 0.2, 0.7])}, ALONE, steps_before=0)
    found, expected = restored.state_dict(), state.state_dict()
    assert found.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(value, found[name])] == []


# ---- evaluation mode ----------------------------------------------------------------------------------------------


def test_after_evaluation_each_layer_is_in_the_mode_it_was_in(network: DomainAdversarialNetwork):
    network.label_classifier.eval()
    before = [module.training for module in network.modules()]
    with pytest.raises(RuntimeError, match="in the middle"), evaluating(network):
        assert not any(module.training for module in network.modules())
        raise RuntimeError("in the middle")
    assert [module.training for module in network.modules()] == before
