"""Checkpoints: exact, whole or not at all, and only our own."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dann.infer.errors import DannError, UsageError
from dann.train import checkpoint
from dann.train.adaptation_state import AdaptationState
from dann.train.distributed import World
from dann.train.model import DomainAdversarialNetwork
from dann.train.reversal import gradient_reversal
from dann.train.settings import ModelConfig

CLASSES = ("car", "van", "ümläut 车")
PROGRESS = {"headlines": [{"step": 3, "target_accuracy": None}], "selector": {"criterion": "im", "gate": 0.05}}


class State:
    """What a checkpoint holds: a network that has taken ``steps`` steps, its optimiser, scaler and averaged network."""

    def __init__(
        self, optimiser: str = "adam", *, steps: int = 0, momentum: float = 0.9, width: float = 0.1, ema: float = 0.9
    ):
        torch.manual_seed(3)
        config = ModelConfig(backbone="conv6", width=width, dropout=0.2, label_hidden=(6,), domain_hidden=(5,))
        self.network = DomainAdversarialNetwork(config, classes=3, height=8, width=8, two_domains=True)
        self.adaptation = AdaptationState(self.network, classes=3, ema=ema)
        parameters = self.network.parameters()
        self.optimiser: torch.optim.Optimizer = (
            torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1)
            if optimiser == "adam"
            else torch.optim.SGD(parameters, lr=0.01, momentum=momentum)
        )
        self.scaler = torch.amp.GradScaler("cpu", enabled=False)
        for number in range(steps):
            self.step(number)

    def step(self, number: int) -> None:
        torch.manual_seed(number)
        self.optimiser.zero_grad()
        features = self.network.features(torch.rand(4, 3, 8, 8))
        logits = self.network.label_classifier(features)
        (logits.sum() + self.network.domain_logits(gradient_reversal(features, 0.5)).sum()).backward()
        self.optimiser.step()
        marginal = logits.detach().softmax(dim=1).mean(dim=0)
        self.adaptation.step(self.network, {"source_marginal_K": marginal}, World(), steps_before=number)

    def save(self, path: Path, *, step: int = 7) -> None:
        parts = self.network, self.optimiser, self.scaler, self.adaptation
        checkpoint.save(path, *parts, step=step, classes=CLASSES, progress=PROGRESS)

    def restore(self, path: Path, classes: tuple[str, ...] = CLASSES) -> tuple[int, dict[str, Any]]:
        parts = self.network, self.optimiser, self.scaler, self.adaptation
        return checkpoint.restore(path, *parts, classes=classes)

    def tensors(self) -> dict[str, Any]:
        state = self.optimiser.state_dict()["state"]
        found = {f"{number}.{key}": value for number, entries in state.items() for key, value in entries.items()}
        adaptation = {f"adaptation.{key}": value for key, value in self.adaptation.state_dict().items()}
        return {**self.network.state_dict(), **adaptation, **found}


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert value is other[key] is None or (value.dtype == other[key].dtype and torch.equal(value, other[key])), key


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_a_restored_state_continues_bit_for_bit(optimiser: str, tmp_path: Path):
    saved = State(optimiser, steps=3)
    saved.save(tmp_path / "last.safetensors")
    restored = State(optimiser)
    assert restored.restore(tmp_path / "last.safetensors") == (7, PROGRESS)
    assert_same(restored.tensors(), saved.tensors())
    assert restored.optimiser.state_dict()["param_groups"][0].keys() == saved.optimiser.param_groups[0].keys()

    for state in (saved, restored):
        state.step(3)
        state.step(4)
    assert_same(restored.tensors(), saved.tensors())


def test_sgd_without_momentum_has_no_state_to_save(tmp_path: Path):
    saved = State("sgd", steps=2, momentum=0.0)
    saved.save(tmp_path / "last.safetensors")
    restored = State("sgd", momentum=0.0)
    restored.restore(tmp_path / "last.safetensors")
    assert_same(restored.network.state_dict(), saved.network.state_dict())
    restored.step(2)


def test_restoring_draws_no_random_number(tmp_path: Path):
    state = State(steps=1)
    state.save(tmp_path / "last.safetensors")
    random = torch.get_rng_state()
    state.restore(tmp_path / "last.safetensors")
    assert torch.equal(torch.get_rng_state(), random)


def test_the_header_has_step_and_classes_in_order(tmp_path: Path):
    State(steps=1).save(tmp_path / "last.safetensors", step=12)
    about, tensors = checkpoint.read(tmp_path / "last.safetensors")
    assert (about["step"], tuple(about["classes"])) == (12, CLASSES)
    assert {key.split(".")[0] for key in tensors} == {"network", "optimiser", "adaptation"}


def test_a_network_alone_is_read_back(tmp_path: Path):
    state, other = State(steps=2), State()
    checkpoint.save_network(tmp_path / "selected.safetensors", state.network, step=12, classes=CLASSES)
    about, tensors = checkpoint.read(tmp_path / "selected.safetensors")
    assert (about["step"], tuple(about["classes"])) == (12, CLASSES)
    checkpoint.load(other.network, "network", tensors, tmp_path / "selected.safetensors")
    assert_same(other.network.state_dict(), state.network.state_dict())
    assert {key.split(".")[0] for key in tensors} == {"network"}


@pytest.mark.parametrize("classes", [("car", "van"), ("van", "car", "ümläut 车"), ("car", "van", "bus")])
def test_a_checkpoint_of_other_classes_is_refused(classes: tuple[str, ...], tmp_path: Path):
    State(steps=1).save(tmp_path / "last.safetensors")
    state = State()
    before = {key: value.clone() for key, value in state.tensors().items()}
    with pytest.raises(DannError, match=r"is of a network for the classes \['car', 'van', 'ümläut 车'\]; the data has"):
        state.restore(tmp_path / "last.safetensors", classes)
    assert_same(state.tensors(), before)


def test_the_folder_is_made_and_nothing_else_is_left(tmp_path: Path):
    State().save(tmp_path / "checkpoints" / "last.safetensors")
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.safetensors"]


def test_a_missing_checkpoint_is_a_wrong_request(tmp_path: Path):
    with pytest.raises(UsageError, match="no checkpoint at"):
        checkpoint.read(tmp_path / "none.safetensors")


def test_another_safetensors_file_is_refused(tmp_path: Path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors", metadata={"format": "pt"})
    with pytest.raises(DannError, match="is a safetensors file, but not a dann checkpoint"):
        checkpoint.read(tmp_path / "other.safetensors")


@pytest.mark.parametrize("metadata", [{}, {"dann": "{"}, {"dann": "{}"}, {"dann": "3"}, {"dann": '{"step": 3}'}])
def test_a_header_that_is_damaged_is_refused(metadata: dict[str, str], tmp_path: Path):
    save_file(
        {"weight": torch.zeros(3)}, tmp_path / "x.safetensors", metadata={"format": checkpoint.FORMAT, **metadata}
    )
    with pytest.raises(DannError, match="is damaged"):
        checkpoint.read(tmp_path / "x.safetensors")


def test_a_truncated_or_foreign_file_is_refused(tmp_path: Path):
    path = tmp_path / "last.safetensors"
    State(steps=1).save(path)
    content = path.read_bytes()
    for damaged in (b"", content[:5], content[:-1], content[: len(content) // 2], b"\x80\x05pickle" * 50):
        path.write_bytes(damaged)
        with pytest.raises(DannError, match="is damaged"):
            checkpoint.read(path)


def test_equal_states_are_equal_files_and_a_changed_one_is_told(tmp_path: Path):
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    for path in (one, other):
        State(steps=2).save(path)
    content = bytearray(one.read_bytes())
    assert content == other.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")  # of the tensors
    step = content.index(b'\\"step\\": 7') + len(b'\\"step\\": ')  # a 7 that becomes a 6
    for place in (step, start, (start + len(content)) // 2, len(content) - 1):
        content[place] ^= 1
        other.write_bytes(content)
        with pytest.raises(DannError, match="is damaged: it is not what was written"):
            checkpoint.read(other)
        content[place] ^= 1


def test_weights_of_another_network_are_refused(tmp_path: Path):
    path = tmp_path / "last.safetensors"
    State(width=0.2).save(path)
    with pytest.raises(DannError, match="does not fit the network of its config.json"):
        State().restore(path)


@pytest.mark.parametrize(("saved", "restored"), [(0.0, 0.9), (0.9, 0.0)])
def test_a_state_with_or_without_averaged_weights_does_not_fit_the_other(saved: float, restored: float, tmp_path: Path):
    State(ema=saved).save(tmp_path / "last.safetensors")
    with pytest.raises(DannError, match="does not fit the adaptation of its config.json"):
        State(ema=restored).restore(tmp_path / "last.safetensors")


def test_the_state_of_another_optimiser_is_refused(tmp_path: Path):
    path = tmp_path / "last.safetensors"
    other = State(steps=1)
    other.optimiser = torch.optim.AdamW(list(other.network.parameters())[:3])
    other.save(path)
    with pytest.raises(DannError, match="does not fit the optimiser of its config.json"):
        State().restore(path)


def test_the_previous_checkpoint_survives_a_failing_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "last.safetensors"
    State(steps=1).save(path)
    before = path.read_bytes()

    def disk_full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    for target in ("dann.train.checkpoint.os.fsync", "dann.train.checkpoint.os.replace"):
        with monkeypatch.context() as patched:
            patched.setattr(target, disk_full)
            with pytest.raises(DannError, match=r"could not be written: .*No space left.*\(the previous one is kept\)"):
                State(steps=2).save(path)
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == [path.name]


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path):
    before = os.umask(0o022)
    try:
        State().save(tmp_path / "last.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "last.safetensors").stat().st_mode & 0o777 == 0o644


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DannError, match="the checkpoint .*last.safetensors could not be written"):
        State().save(tmp_path / "file" / "checkpoints" / "last.safetensors")
