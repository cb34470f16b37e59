"""Networks from configurations and from runs: which checkpoint is taken, and whose weights it holds."""

import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dann.infer.errors import DannError, Interrupted, UsageError
from dann.train import checkpoint, selection
from dann.train.batch_norm import DomainBatchNorm
from dann.train.loop import TrainResult, fit
from dann.train.run_dir import RunDir, find_run
from dann.train.run_evaluation import evaluate_run
from dann.train.settings import TrainConfig
from dann.train.trained import build_network, from_scratch, load_trained

Configure = Callable[..., TrainConfig]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def same(network: nn.Module, tensors: dict[str, Tensor], prefix: str = "network.") -> bool:
    """Whether the weights of ``network`` are those tensors of a checkpoint whose names begin with ``prefix``."""
    found = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    state = network.state_dict()
    return state.keys() == found.keys() and all(torch.equal(state[name], value) for name, value in found.items())


# ---- from configurations ------------------------------------------------------------------------------------------


def test_the_seed_decides_the_weights(configure: Configure):
    one, again, other = (build_network(configure(seed=seed), 2).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, again[name]) for name, value in one.items())
    assert not torch.equal(one["label_classifier.0.weight"], other["label_classifier.0.weight"])


@pytest.mark.parametrize(("mode", "two"), [("dann", True), ("source", False), ("target", False)])
def test_only_a_network_that_adapts_has_statistics_of_two_domains(mode: str, two: bool, configure: Configure):
    network = build_network(configure(mode=mode), 2)
    assert any(isinstance(module, DomainBatchNorm) for module in network.modules()) is two


@pytest.mark.parametrize(("mode", "conditional"), [("dann", True), ("source", False)])
def test_only_cdan_has_a_conditional_domain_classifier(mode: str, conditional: bool, configure: Configure):
    network = build_network(configure({"objectives.dann": 0.0, "objectives.cdan": 1.0}, mode=mode), 2)
    assert (network.conditioning is not None) is conditional


def test_a_network_to_be_filled_needs_no_weights(configure: Configure):
    config = configure({"model.weights": "nowhere.pth"}, init_from="nowhere")
    assert from_scratch(config) == configure()
    assert replace(config, init_from=None, model=configure().model) == configure()


# ---- from runs ----------------------------------------------------------------------------------------------------


@pytest.fixture
def first_is_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """The criterion ``im`` prefers the earliest evaluation."""
    falling: Iterator[float] = iter(range(0, -100, -1))
    monkeypatch.setitem(selection.CRITERIA, "im", lambda evidence: next(falling))


def selecting(configure: Configure, **settings: Any) -> TrainConfig:
    return configure({"selection.criterion": "im", "selection.gate": 1.0, **settings})


def stopped_at(step: int, config: TrainConfig, runs: Path) -> RunDir:
    """The same run, ended at ``step``."""

    def on_step(done: int, total: int, numbers: dict[str, Any]) -> None:
        if done == step:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        fit(config, runs=runs, name="stopped", on_step=on_step)
    return find_run("stopped", runs)


@pytest.fixture
def finished(configure: Configure, runs: Path) -> TrainResult:
    return fit(configure(), runs=runs)


def test_by_default_there_is_the_last_checkpoint_alone(finished: TrainResult):
    run = finished.run
    assert [path.name for path in run.last.parent.iterdir()] == ["last.safetensors"]
    config, classes, network = load_trained(run)
    assert (config, classes, network.training) == (finished.config, ("across", "upright"), False)
    assert same(network, checkpoint.read(run.last)[1])
    with pytest.raises(UsageError, match="no checkpoint at .*selected.safetensors"):
        load_trained(run, "selected")


def test_the_selected_network_is_that_of_its_step_and_what_is_taken(
    configure: Configure, runs: Path, first_is_best: None
):
    config = selecting(configure)
    result = fit(config, runs=runs)
    run = result.run
    assert (result.selected["step"], result.last["step"]) == (3, 6)
    assert {path.name for path in run.last.parent.iterdir()} == {"last.safetensors", "selected.safetensors"}
    assert checkpoint.read(run.selected)[0]["step"] == 3

    expected = checkpoint.read(stopped_at(3, config, runs).last)[1]
    assert same(load_trained(run)[2], expected)
    assert same(load_trained(run, "selected")[2], expected)
    assert same(load_trained(run, "last")[2], checkpoint.read(run.last)[1])
    assert not same(load_trained(run, "last")[2], expected)
    assert result.scores == evaluate_run(run).scores
    assert result.scores.target is not None
    assert result.scores.target.accuracy == result.selected["target_accuracy"]


def test_a_selected_step_that_is_overtaken_is_replaced(
    configure: Configure, runs: Path, monkeypatch: pytest.MonkeyPatch
):
    rising: Iterator[float] = iter(range(100))
    monkeypatch.setitem(selection.CRITERIA, "im", lambda evidence: next(rising))
    run = fit(selecting(configure), runs=runs).run
    assert checkpoint.read(run.selected)[0]["step"] == 6
    assert same(load_trained(run)[2], checkpoint.read(run.last)[1])


def test_averaged_weights_are_those_that_count(configure: Configure, runs: Path):
    result = fit(configure({"optimiser.ema": 0.9}), runs=runs)
    tensors = checkpoint.read(result.run.last)[1]
    network = load_trained(result.run)[2]
    assert same(network, tensors, "adaptation.averaged.module.")
    assert not same(network, tensors)
    assert evaluate_run(result.run).scores == result.scores


def test_averaged_weights_are_selected_too(configure: Configure, runs: Path, first_is_best: None):
    config = selecting(configure, **{"optimiser.ema": 0.9})
    run = fit(config, runs=runs).run
    expected = checkpoint.read(stopped_at(3, config, runs).last)[1]
    assert same(load_trained(run)[2], expected, "adaptation.averaged.module.")


def test_a_run_before_its_first_checkpoint_has_no_network(configure: Configure, runs: Path):
    run = RunDir(runs / "mine")
    run.write_config(configure(), {})
    with pytest.raises(UsageError, match="no checkpoint at"):
        load_trained(run)


def test_weights_that_do_not_fit_the_configuration_are_refused(finished: TrainResult, configure: Configure):
    finished.run.write_config(configure({"model.width": 0.3}), {})
    with pytest.raises(DannError, match="does not fit the network of its config.json"):
        load_trained(finished.run)
