"""The training loop: each step exactly, no target labels, the same numbers for the same seed, and interruptions.

The reference for a step is written out here with plain autograd: no gradient reversal, two separate gradients for
the features, and SGD by hand.
"""

import json
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from dann.infer.errors import DannError, Interrupted, UnavailableError, UsageError
from dann.train import checkpoint, detectors, loop, training_step
from dann.train.backbones import build_backbone
from dann.train.batch_norm import SOURCE, TARGET
from dann.train.batches import BatchStream
from dann.train.config import method_names, with_method
from dann.train.detectors import RunWarning
from dann.train.device import find_device
from dann.train.domains import open_domains
from dann.train.evaluate import to_float
from dann.train.loop import TrainResult, fit, resume
from dann.train.model import DomainAdversarialNetwork
from dann.train.run_dir import RunDir, find_run
from dann.train.schedule import dann_lam, dann_lr
from dann.train.settings import TrainConfig
from dann.train.trained import build_network, load_trained

Configure = Callable[..., TrainConfig]
Lines = Callable[[Path], list[dict[str, Any]]]

EVERYTHING_RANDOM = {
    "model.dropout": 0.3,
    "augment.flip": True,
    "augment.shift": 0.1,
    "augment.rotate_deg": 10.0,
    "augment.colour": 0.2,
    "augment.noise": 0.05,
    "optimiser.name": "adam",
    "optimiser.lr": 0.003,
    "optimiser.clip_norm": 1.0,
}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def weights(run: RunDir) -> dict[str, Tensor]:
    """The network, its optimiser, and what adaptation keeps."""
    return checkpoint.read(run.last)[1]


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [key for key in one if not torch.equal(one[key], other[key])] == []


def stop_at(step: int, number: signal.Signals = signal.SIGINT) -> Callable[..., None]:
    def on_step(done: int, total: int, numbers: dict[str, Any]) -> None:
        if done == step:
            signal.raise_signal(number)

    return on_step


# ---- each step, exactly -------------------------------------------------------------------------------------------

PLAIN = {"model.batch_norm": False}  # without layers whose mode matters


def images_and_labels(config: TrainConfig) -> Callable[[int], tuple[Tensor, Tensor, Tensor | None]]:
    """From a step to the labelled images, their labels, and the target images."""
    domains = open_domains(config)
    options: dict[str, Any] = {"batch_size": config.batch_size, "views": (config.augment,), "seed": config.seed}
    labelled = BatchStream(domains.labelled.images, domains.labelled.labels, stream=0, **options)
    unlabelled = BatchStream(domains.unlabelled, stream=1, **options) if domains.unlabelled is not None else None

    def at(step: int) -> tuple[Tensor, Tensor, Tensor | None]:
        batch = labelled.batch(step)
        assert batch.labels is not None
        target = to_float(torch.from_numpy(unlabelled.batch(step).pixels_NHWC)) if unlabelled else None
        return to_float(torch.from_numpy(batch.pixels_NHWC)), torch.from_numpy(batch.labels), target

    return at


def gradients_by_hand(
    network: DomainAdversarialNetwork, images: Tensor, labels: Tensor, target: Tensor | None, lam: float
) -> dict[str, Tensor]:
    """The update directions of the DANN paper, equations 13 to 15, from separate derivatives of both losses."""

    def derivatives(loss: Tensor, part: nn.Module) -> list[Tensor]:
        return list(torch.autograd.grad(loss, list(part.parameters()), retain_graph=True))

    features = network.feature_extractor(images)
    label = F.cross_entropy(network.label_classifier(features), labels)
    found = {"feature_extractor": derivatives(label, network.feature_extractor)}
    found["label_classifier"] = derivatives(label, network.label_classifier)
    if target is not None:
        source_d = network.domain_classifier(features).squeeze(1)
        target_d = network.domain_classifier(network.feature_extractor(target)).squeeze(1)
        domain = 0.5 * (F.softplus(source_d).mean() + F.softplus(-target_d).mean())
        reverse = derivatives(domain, network.feature_extractor)
        found["feature_extractor"] = [
            g_label - lam * g_domain for g_label, g_domain in zip(found["feature_extractor"], reverse, strict=True)
        ]
        found["domain_classifier"] = derivatives(domain, network.domain_classifier)
    return {
        f"{part}.{name}": gradient
        for part, values in found.items()
        for (name, _), gradient in zip(network.get_submodule(part).named_parameters(), values, strict=True)
    }


def train_by_hand(config: TrainConfig, steps: int) -> DomainAdversarialNetwork:
    """SGD with momentum on :func:`gradients_by_hand`, λ and the learning rate by the papers' formulas."""
    network, at = build_network(config, 2), images_and_labels(config)
    velocity: dict[str, Tensor] = {}
    for step in range(steps):
        progress = step / steps
        lr = config.optimiser.lr * dann_lr(progress)
        gradients = gradients_by_hand(network, *at(step), config.adapt.lam_max * dann_lam(progress))
        with torch.no_grad():
            for name, gradient in gradients.items():
                velocity[name] = config.optimiser.momentum * velocity.get(name, torch.zeros_like(gradient)) + gradient
                network.get_parameter(name).sub_(lr * velocity[name])
    return network


@pytest.mark.parametrize("mode", ["dann", "source", "target"])
def test_every_step_is_the_one_of_the_paper(mode: str, configure: Configure, sets: dict[str, str], runs: Path):
    target = sets["target"] if mode == "target" else sets["unlabelled"]
    config = configure({**PLAIN, "adapt.lam_max": 1.5, "data.target": target}, mode=mode, steps=7)
    trained = load_trained(fit(config, runs=runs).run)[2].state_dict()
    expected, start = train_by_hand(config, steps=7).state_dict(), build_network(config, 2).state_dict()
    for name, value in trained.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
        learns = mode == "dann" or not name.startswith("domain_classifier")
        assert torch.equal(value, start[name]) != learns, name


def test_lam_and_learning_rate_follow_the_share_of_steps_done(configure: Configure, runs: Path, lines: Lines):
    config = configure({"adapt.lam_max": 0.5, "optimiser.lr": 0.02}, steps=4)
    (last,) = [row for row in lines(fit(config, runs=runs).run.metrics) if row["kind"] == "step"]
    assert (last["step"], last["epoch"]) == (4, 4 / 3)
    assert last["lam"] == 0.5 * dann_lam(3 / 4)
    assert last["lr"] == 0.02 * dann_lr(3 / 4)


def test_gradients_are_clipped(configure: Configure, runs: Path):
    settings = {**PLAIN, "optimiser.momentum": 0.0, "optimiser.clip_norm": 1e-3}
    config = configure(settings, steps=1)
    after = load_trained(fit(config, runs=runs).run)[2].state_dict()
    before = build_network(config, 2).state_dict()
    moved = torch.cat([(after[name] - before[name]).flatten() for name in before])
    assert moved.norm().item() == pytest.approx(config.optimiser.lr * 1e-3, rel=1e-3)


def statistics(network: nn.Module) -> dict[str, Tensor]:
    return {key: value for key, value in network.state_dict().items() if "running" in key}


@pytest.mark.parametrize("mode", ["dann", "source"])
def test_running_statistics_are_those_of_each_domain(mode: str, configure: Configure, runs: Path):
    config = configure(mode=mode, steps=1)
    source, _, target = images_and_labels(config)(0)
    expected = build_network(config, 2).train()
    expected.features(source, SOURCE)
    if target is not None:
        expected.features(target, TARGET)
    trained = statistics(load_trained(fit(config, runs=runs).run)[2])
    assert trained
    assert_same(trained, statistics(expected))


# ---- schedules, groups and frozen parts ---------------------------------------------------------------------------


def steps_logged(
    config: TrainConfig, runs: Path, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> list[dict[str, Any]]:
    monkeypatch.setattr(loop, "_LOG_EVERY_STEPS", 1)
    return [row for row in lines(fit(config, runs=runs).run.metrics) if row["kind"] == "step"]


@pytest.mark.parametrize("lr_by", ["step", "epoch"])
@pytest.mark.parametrize("lam_by", ["step", "epoch"])
def test_both_schedules_go_by_step_or_by_epoch(
    lr_by: str, lam_by: str, configure: Configure, runs: Path, lines: Lines, monkeypatch: pytest.MonkeyPatch
):
    config = configure({"optimiser.stepped": lr_by, "adapt.stepped": lam_by, "optimiser.lr": 0.02}, steps=7)
    progress = {"step": [step / 7 for step in range(7)], "epoch": [0, 0, 0, 3 / 7, 3 / 7, 3 / 7, 6 / 7]}
    rows = steps_logged(config, runs, lines, monkeypatch)
    assert [row["lam"] for row in rows] == [dann_lam(p) for p in progress[lam_by]]
    assert [row["lr"] for row in rows] == [0.02 * dann_lr(p) for p in progress[lr_by]]


def test_the_learning_rate_warms_up(configure: Configure, runs: Path, lines: Lines, monkeypatch: pytest.MonkeyPatch):
    settings = {"optimiser.lr": 0.02, "optimiser.lr_schedule": "constant", "optimiser.lr_warmup": 0.5}
    rows = steps_logged(configure(settings, steps=4), runs, lines, monkeypatch)
    assert [row["lr"] for row in rows] == [0.0, 0.01, 0.02, 0.02]


def movement(config: TrainConfig, runs: Path) -> dict[str, Tensor]:
    """How far each parameter is from where it began."""
    before, after = build_network(config, 2), load_trained(fit(config, runs=runs).run)[2]
    return {name: value - before.get_parameter(name) for name, value in after.named_parameters()}


def test_the_heads_learn_faster_by_their_factor(configure: Configure, runs: Path):
    settings = {**PLAIN, "optimiser.momentum": 0.0}
    plain, faster = (
        movement(configure({**settings, "optimiser.head_lr_factor": factor}, steps=1), runs) for factor in (1.0, 10.0)
    )
    for name, moved in plain.items():
        factor = 1.0 if name.startswith("feature_extractor.") else 10.0
        torch.testing.assert_close(faster[name], factor * moved, rtol=1e-3, atol=1e-7)
        assert moved.any()


@pytest.mark.parametrize("mode", ["dann", "source"])
def test_what_is_frozen_keeps_weights_and_batch_statistics(mode: str, configure: Configure, runs: Path):
    config = configure({"optimiser.freeze": ["backbone"], "optimiser.weight_decay": 0.1}, mode=mode)
    before, after = build_network(config, 2).state_dict(), load_trained(fit(config, runs=runs).run)[2].state_dict()
    for name, value in after.items():
        learns = name.startswith("label_classifier.") or (mode == "dann" and name.startswith("domain_classifier."))
        assert torch.equal(value, before[name]) != learns, name


def test_an_unknown_part_to_freeze_leaves_no_run(configure: Configure, runs: Path):
    with pytest.raises(UsageError, match="unknown part of the network to freeze 'backbon'; did you mean 'backbone'"):
        fit(configure({"optimiser.freeze": ["backbon"]}), runs=runs)
    assert not runs.exists()


def test_passes_whose_gradients_are_accumulated_are_one_large_batch(configure: Configure, runs: Path, lines: Lines):
    large, small = (
        fit(configure(PLAIN, batch_size=8 // passes, accumulate=passes), runs=runs).run for passes in (1, 4)
    )
    one, other = weights(large), weights(small)
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-6)
    losses = [lines(run.metrics)[-2]["loss"] for run in (large, small)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


# ---- weights to begin from ----------------------------------------------------------------------------------------


def test_a_run_begins_from_the_weights_of_another(configure: Configure, runs: Path):
    first = fit(configure(), runs=runs, name="first").run
    messages: list[str] = []
    still = {"optimiser.lr": 1e-9, "init_from": str(first.root)}
    config = configure({**still, "optimiser.freeze": ["backbone"]}, steps=1, seed=7)
    second = fit(config, runs=runs, name="second", on_message=messages.append).run
    start = load_trained(first)[2].state_dict()
    for name, value in load_trained(second)[2].state_dict().items():
        torch.testing.assert_close(value, start[name], rtol=0, atol=1e-6)
    assert [message.split(":")[0] for message in messages][:1] == ["feature_extractor"]
    assert "tensors loaded" in messages[0]
    assert second.read_config()[0].init_from == str(first.root)


def test_weights_that_are_not_there_leave_no_run(configure: Configure, runs: Path):
    with pytest.raises(UsageError, match="'nowhere' is not a file"):
        fit(configure(init_from="nowhere"), runs=runs)
    assert not runs.exists()


def test_resuming_does_not_need_the_weights_that_it_began_from(configure: Configure, runs: Path, tmp_path: Path):
    file = tmp_path / "start.safetensors"
    save_file(
        {name: value.contiguous() for name, value in build_network(configure(seed=3), 2).state_dict().items()}, file
    )
    with pytest.raises(Interrupted):
        fit(configure(init_from=str(file)), runs=runs, name="mine", on_step=stop_at(2))
    whole = fit(configure(init_from=str(file)), runs=runs, name="whole").run
    file.unlink()
    assert_same(weights(resume(find_run("mine", runs)).run), weights(whole))


# ---- what the network is trained on -------------------------------------------------------------------------------


@pytest.fixture
def target_csv(tmp_path: Path, sets: dict[str, str]) -> Callable[[list[str] | None], str]:
    """From a list of labels (or none) to the spec of the same 40 target images in the same order."""
    images = np.load(sets["target"])["x"]
    for i, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f"{i:02}.png"), image[..., ::-1])

    def write(labels: list[str] | None) -> str:
        rows = ["path"] if labels is None else ["path,label"]
        rows += [f"{i:02}.png" if labels is None else f"{i:02}.png,{labels[i]}" for i in range(40)]
        file = tmp_path / f"list{len(list(tmp_path.glob('*.csv')))}.csv"
        file.write_text("\n".join(rows) + "\n", encoding="utf-8")
        return str(file)

    return write


def test_target_labels_cannot_change_what_is_trained(configure: Configure, target_csv, runs: Path):
    right = ["across", "upright"] * 20
    labellings = [None, right, right[::-1], ["across"] * 40, [f"nonsense {i}" for i in range(40)]]
    trained = [
        weights(fit(configure({"data.target": target_csv(labels)}, steps=4), runs=runs).run) for labels in labellings
    ]
    for other in trained[1:]:
        assert_same(trained[0], other)


def test_the_oracle_does_learn_from_target_labels(configure: Configure, target_csv, runs: Path):
    right = ["across", "upright"] * 20
    one, other = (
        weights(fit(configure({"data.target": target_csv(labels)}, mode="target", steps=4), runs=runs).run)
        for labels in (right, right[::-1])
    )
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_the_oracle_is_stamped(configure: Configure, sets: dict[str, str], runs: Path):
    for mode, oracle in (("source", False), ("dann", False), ("target", True)):
        config = configure({"data.target": sets["target"]}, mode=mode, steps=1)
        result = json.loads(fit(config, runs=runs).run.result.read_text(encoding="utf-8"))
        assert (result["mode"], result["oracle"], result["checkpoint"]) == (mode, oracle, "last")


@pytest.mark.parametrize(("source", "target", "batch_size"), [(24, 5, 8), (4, 40, 8), (4, 5, 8), (24, 23, 7)])
def test_sets_of_unequal_length_train(source: int, target: int, batch_size: int, configure: Configure, tmp_path: Path):
    for name, count in (("source", source), ("target", target)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
        np.savez(tmp_path / f"{name}.npz", x=pixels, y=np.arange(count) % 2, classes=["across", "upright"])
    settings = {f"data.{name}": str(tmp_path / f"{name}.npz") for name in ("source", "target")}
    config = configure(settings, steps=None, epochs=2, batch_size=batch_size)
    done: list[int] = []
    fit(config, runs=tmp_path / "runs", on_step=lambda step, total, numbers: done.append(total))
    epoch = max(1, source // batch_size)  # passes are over the labelled set, whatever the target
    assert done == [2 * epoch] * (2 * epoch)


def test_images_that_cannot_be_read_are_reported(configure: Configure, tmp_path: Path):
    for name in ("source/a/1.png", "source/a/2.png", "source/b/1.png", "source/b/2.png", "target/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.full((16, 16, 3), 80, np.uint8))
    for name in ("source/a/broken.png", "target/broken.png"):
        (tmp_path / name).write_bytes(b"this is text")
    settings = {f"data.{name}": str(tmp_path / name) for name in ("source", "target")}
    messages: list[str] = []
    for held_out in (0.0, 0.4):  # what is held out leaves a part of the set, which has to remember too
        config = configure({**settings, "data.test": None, "data.holdout": held_out}, steps=1, batch_size=2)
        result = fit(config, runs=tmp_path / "runs", on_message=messages.append)
        assert [Path(name).parent.name for name, _ in result.skipped] == ["a", "target"]
        left_out = json.loads(result.run.result.read_text(encoding="utf-8"))["skipped_images"]
        assert [Path(image["path"]).name for image in left_out] == ["broken.png"] * 2
    assert messages[0].startswith(f"left out '{tmp_path}/source/a/broken.png': is not an image")


@pytest.mark.parametrize("simulated", [True, False])
def test_simulated_photos_are_stamped(simulated: bool, configure: Configure, tmp_path: Path):
    folders = ("train/source/a", "train/source/b", "train/target/a", "test/a", "test/b")
    for name in folders:
        (tmp_path / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / name / "1.png"), np.full((16, 16, 3), 80, np.uint8))
    if simulated:
        (tmp_path / "cars.json").write_text('{"renderer": 1}', encoding="utf-8")
    settings = {"data.source": "", "data.target": None, "data.test": None}
    config = configure({**settings, "data.layout": "split", "data.data_root": str(tmp_path)}, steps=1, batch_size=2)
    run = fit(config, runs=tmp_path / "runs").run
    assert json.loads(run.result.read_text(encoding="utf-8"))["simulated_target"] is simulated
    assert json.loads(run.config.read_text(encoding="utf-8"))["simulated"] is simulated


# ---- the same numbers for the same seed, interrupted or not -------------------------------------------------------


def test_the_seed_decides_every_number(configure: Configure, runs: Path, lines: Lines):
    one, same, other = (fit(configure(EVERYTHING_RANDOM, seed=seed), runs=runs) for seed in (4, 4, 5))
    assert_same(weights(one.run), weights(same.run))
    assert lines(one.run.metrics) == lines(same.run.metrics)
    assert one.scores == same.scores
    assert lines(one.run.metrics) != lines(other.run.metrics)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("step", [1, 3, 5])  # before, at and after the end of an epoch
def test_a_resumed_run_ends_as_if_never_interrupted(
    number: signal.Signals, code: int, step: int, configure: Configure, runs: Path
):
    config = configure(EVERYTHING_RANDOM, steps=7)
    whole = fit(config, runs=runs, name="whole")
    handler = signal.getsignal(number)
    with pytest.raises(Interrupted, match=f"after step {step} of 7.*--resume {runs / 'parts'}") as caught:
        fit(config, runs=runs, name="parts", on_step=stop_at(step, number))
    assert caught.value.exit_code == code
    assert signal.getsignal(number) is handler
    parts = find_run("parts", runs)
    assert checkpoint.read(parts.last)[0]["step"] == step
    assert not parts.result.exists()

    torch.manual_seed(12345)  # what else happened in the process is of no matter
    result = resume(parts)
    assert_same(weights(result.run), weights(whole.run))
    assert result.scores == whole.scores


@pytest.mark.parametrize("step", [3, 4], ids=["at the end of an epoch", "within an epoch"])
def test_the_log_of_a_resumed_run_has_each_step_once(step: int, configure: Configure, runs: Path, lines: Lines):
    with pytest.raises(Interrupted):
        fit(configure(), runs=runs, name="parts", on_step=stop_at(step))
    run = resume(find_run("parts", runs)).run
    rows = [(row["kind"], row["step"]) for row in lines(run.metrics)]
    assert rows == [("eval", 3), ("step", 6), ("eval", 6)]


def test_a_signal_at_the_last_step_lets_the_run_finish(configure: Configure, runs: Path):
    assert fit(configure(), runs=runs, on_step=stop_at(6)).run.result.is_file()


def test_resuming_does_not_need_the_pretrained_weights_again(configure: Configure, runs: Path, tmp_path: Path):
    file = tmp_path / "pretrained.safetensors"
    save_file(build_backbone(configure().model).state_dict(), file)
    with pytest.raises(Interrupted):
        fit(configure({"model.weights": str(file)}), runs=runs, name="mine", on_step=stop_at(2))
    file.unlink()
    assert resume(find_run("mine", runs)).run.result.is_file()


def test_a_run_whose_data_changed_is_not_resumed(
    configure: Configure, runs: Path, tmp_path: Path, sets: dict[str, str]
):
    with np.load(sets["unlabelled"]) as stored:
        pixels = stored["x"]
    np.savez(tmp_path / "target.npz", x=pixels)
    with pytest.raises(Interrupted):
        fit(configure({"data.target": str(tmp_path / "target.npz")}), runs=runs, name="mine", on_step=stop_at(2))
    pixels[0, 0, 0, 0] ^= 1
    np.savez(tmp_path / "target.npz", x=pixels)
    with pytest.raises(
        DannError, match=r"the data of .* changed since .* began: unlabelled \(content or labels differ\);"
    ):
        resume(find_run("mine", runs))


@pytest.mark.parametrize("role", ["source", "test"])
def test_a_run_whose_labels_changed_is_not_resumed(
    role: str, configure: Configure, runs: Path, tmp_path: Path, sets: dict[str, str]
):
    with np.load(sets[role]) as stored:
        content = dict(stored)
    file = tmp_path / "changing.npz"
    np.savez(file, **content)
    with pytest.raises(Interrupted):
        fit(configure({f"data.{role}": str(file)}), runs=runs, name="mine", on_step=stop_at(2))
    content["y"] = 1 - content["y"]
    np.savez(file, **content)
    named = {"source": "labelled", "test": "target_test"}[role]
    with pytest.raises(DannError, match=rf"changed since the run began: {named} \(content or labels differ\)"):
        resume(find_run("mine", runs))


def test_images_that_came_and_went_are_counted(configure: Configure, sets: dict[str, str]):
    before = open_domains(configure()).record()
    fewer = open_domains(configure({"data.holdout": 0.25, "data.test": None}))
    assert fewer.changed_since(before) == [
        "labelled (24 images, now 18 images)",
        "target_test (20 images, now none)",
        "source_test (none, now 6 images)",
    ]
    assert open_domains(configure()).changed_since(before) == []


class Killed(Exception):
    """What cannot be caught: nothing is saved."""


def kill_at(step: int) -> Callable[..., None]:
    def on_step(done: int, total: int, numbers: dict[str, Any]) -> None:
        if done == step:
            raise Killed

    return on_step


@pytest.mark.parametrize("step", [2, 4], ids=["before the first checkpoint", "after it"])
def test_a_run_that_was_killed_goes_on_from_its_last_checkpoint_or_from_the_start(
    step: int, configure: Configure, runs: Path, lines: Lines
):
    whole = fit(configure(EVERYTHING_RANDOM), runs=runs, name="whole")
    with pytest.raises(Killed):
        fit(configure(EVERYTHING_RANDOM), runs=runs, name="parts", on_step=kill_at(step))
    parts = find_run("parts", runs)
    assert parts.last.exists() == (step == 4)
    result = resume(parts)
    assert_same(weights(parts), weights(whole.run))
    assert result.scores == whole.scores
    assert result.history.state() == whole.history.state()
    assert lines(parts.metrics) == lines(whole.run.metrics)
    assert find_run(None, runs).root == parts.root


def test_checkpoints_are_made_as_often_as_asked_for(configure: Configure, runs: Path):
    with pytest.raises(Killed):
        fit(configure(save_every=2), runs=runs, name="mine", on_step=kill_at(5))
    assert checkpoint.read(find_run("mine", runs).last)[0]["step"] == 4


@pytest.mark.parametrize("name", method_names())
def test_every_method_resumes_bit_for_bit(name: str, configure: Configure, runs: Path):
    config = with_method(configure({"selection.criterion": "bnm"}, epochs=2), name)
    whole = fit(config, runs=runs, name="whole")
    with pytest.raises(Interrupted):
        fit(config, runs=runs, name="parts", on_step=stop_at(4))
    result = resume(find_run("parts", runs))
    assert_same(weights(result.run), weights(whole.run))
    assert result.history.state() == whole.history.state()
    assert result.scores == whole.scores


# ---- numbers that are not finite ----------------------------------------------------------------------------------


def after_calls(count: int, change: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """``label_loss``, whose result is put through ``change(loss, logits)`` after ``count`` calls."""
    calls = 0

    def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        loss = F.cross_entropy(logits, labels)
        return change(loss, logits) if calls > count else loss

    return label_loss


def test_a_loss_that_is_not_finite_stops_with_step_and_batch(
    configure: Configure, runs: Path, monkeypatch: pytest.MonkeyPatch
):
    config = configure()
    monkeypatch.setattr(training_step, "label_loss", after_calls(4, lambda loss, logits: loss * float("nan")))
    with pytest.raises(DannError) as caught:
        fit(config, runs=runs, name="mine")
    run = find_run("mine", runs)
    domains = open_domains(config)
    options: dict[str, Any] = {"batch_size": 8, "views": (config.augment,), "seed": config.seed}
    expected = [
        [images.names[i] for i in BatchStream(images, stream=stream, **options).indices(4)]
        for stream, images in enumerate((domains.labelled.images, domains.unlabelled))
        if images is not None
    ]
    about = json.loads((run.root / "non_finite.json").read_text(encoding="utf-8"))
    assert about["step"] == 5 and about["batches"] == expected and about["losses"]["loss"] == "nan"
    assert "not finite at step 5" in str(caught.value) and repr(expected[0][0]) in str(caught.value)
    assert f"The checkpoint {run.last} is kept" in str(caught.value)
    header, tensors = checkpoint.read(run.last)
    assert header["step"] == 3
    assert all(value.isfinite().all() for value in tensors.values())


def test_without_a_checkpoint_the_message_does_not_promise_one(
    configure: Configure, runs: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(training_step, "label_loss", after_calls(1, lambda loss, logits: loss * float("inf")))
    with pytest.raises(DannError, match=r"not finite at step 2 \(loss inf.*There is no checkpoint yet"):
        fit(configure(), runs=runs)


def test_weights_that_are_not_finite_never_replace_a_checkpoint(
    configure: Configure, runs: Path, monkeypatch: pytest.MonkeyPatch
):
    # the loss is finite, its gradient is not: the root has an infinite slope at 0
    broken = after_calls(5, lambda loss, logits: loss + (logits * 0).sum().sqrt())
    monkeypatch.setattr(training_step, "label_loss", broken)
    with pytest.raises(DannError, match="is not finite after step 6. The checkpoint .* is kept"):
        fit(configure(), runs=runs, name="mine")
    header, tensors = checkpoint.read(find_run("mine", runs).last)
    assert header["step"] == 3
    assert all(value.isfinite().all() for value in tensors.values())


def test_a_learning_rate_that_is_far_too_large_ends_in_a_message(configure: Configure, runs: Path):
    leaky = {**PLAIN, "model.backbone": "conv9", "model.label_hidden": []}  # other units die instead of diverging
    with pytest.raises(DannError, match="not finite"):
        fit(configure({**leaky, "optimiser.lr": 100.0, "optimiser.lr_schedule": "constant"}, steps=30), runs=runs)


# ---- too little memory ---------------------------------------------------------------------------------------------


def room_for(count: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A device that has memory for ``count`` images of a domain. Returns how many each pass had, as they come."""
    forward, passes = training_step.TrainingStep.forward, []

    def limited(self: Any, batch: Any, *rest: Any) -> Any:
        passes.append(len(batch.labels_N))
        output = forward(self, batch, *rest)
        if len(batch.labels_N) > count:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return output

    monkeypatch.setattr(training_step.TrainingStep, "forward", limited)
    return passes


@pytest.mark.parametrize(("batch_size", "room", "passes"), [(8, 3, 4), (8, 4, 2), (6, 2, 3)])
def test_what_does_not_fit_goes_through_in_passes_with_the_same_images(
    batch_size: int, room: int, passes: int, configure: Configure, runs: Path, monkeypatch: pytest.MonkeyPatch
):
    config = configure({**PLAIN, "batch_size": batch_size}, mode="source")
    whole = weights(fit(config, runs=runs).run)
    sizes, said = room_for(room, monkeypatch), []
    found = weights(fit(config, runs=runs, on_message=said.append).run)
    (message,) = [line for line in said if "too little memory" in line and f"in {passes} passes" in line]
    assert f"cpu has too little memory for {batch_size} images of a domain at once" in message
    assert "batch normalisation takes the statistics of each pass" in message
    assert sum(sizes[-passes:]) == batch_size and max(sizes[-passes:]) <= room
    for name, value in whole.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


def test_a_pass_that_failed_leaves_no_trace_and_a_resumed_run_knows_of_it(
    configure: Configure, runs: Path, monkeypatch: pytest.MonkeyPatch
):
    room_for(4, monkeypatch)
    whole = weights(fit(configure(), runs=runs).run)
    with pytest.raises(Interrupted):
        fit(configure(), runs=runs, name="parts", on_step=stop_at(2))
    passes = room_for(4, monkeypatch)
    assert_same(weights(resume(find_run("parts", runs)).run), whole)
    assert set(passes) == {4}
    steps = fit(configure(batch_size=4, accumulate=2), runs=runs).run  # in two passes from the first
    for name, value in whole.items():
        torch.testing.assert_close(weights(steps)[name], value)


def test_memory_for_less_than_two_images_ends_the_run(
    configure: Configure, runs: Path, monkeypatch: pytest.MonkeyPatch
):
    room_for(1, monkeypatch)
    with pytest.raises(DannError, match="cpu has too little memory for two images of a domain; try a smaller --batch"):
        fit(configure(), runs=runs)


# ---- precision and devices ----------------------------------------------------------------------------------------


def test_bfloat16_trains_float32_weights(configure: Configure, runs: Path):
    result = fit(configure(amp="bf16"), runs=runs)
    full = fit(configure(amp="off"), runs=runs)
    mixed, exact = weights(result.run), weights(full.run)
    assert {value.dtype for key, value in mixed.items() if "num_batches" not in key} == {torch.float32}
    assert any(not torch.equal(mixed[key], exact[key]) for key in mixed)
    assert all(torch.allclose(mixed[key], exact[key], atol=0.1) for key in mixed if key.startswith("network."))


@pytest.mark.parametrize(("computes", "expected"), [(True, "bf16"), (False, "off")])
def test_mixed_precision_is_chosen_by_the_device_and_kept(
    computes: bool, expected: str, configure: Configure, runs: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: computes)
    said: list[str] = []
    with pytest.raises(Interrupted):
        fit(configure(amp="auto"), runs=runs, name="auto", on_step=stop_at(2), on_message=said.append)
    assert any("mixed precision bf16" in line for line in said) == computes
    chosen = fit(configure(amp=expected), runs=runs, name="chosen").run
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: not computes)  # resumed elsewhere
    assert_same(weights(resume(find_run("auto", runs)).run), weights(chosen))


def test_fp16_on_the_cpu_is_refused_before_anything_is_made(configure: Configure, runs: Path):
    with pytest.raises(UnavailableError, match="--amp fp16 needs CUDA"):
        fit(configure(amp="fp16"), runs=runs)
    assert not runs.exists()


def test_an_fp16_step_that_overflows_is_repeated_at_a_smaller_scale(
    configure: Configure, runs: Path, lines: Lines, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(loop, "training_device", lambda config: torch.device("cpu"))  # the CPU has fp16, slowly
    monkeypatch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, init_scale=2.0**40))
    steps: list[int] = []
    said: list[str] = []
    fit(
        configure(amp="fp16"),
        runs=runs,
        name="mine",
        on_step=lambda done, total, numbers: steps.append(done),
        on_message=said.append,
    )
    run = find_run("mine", runs)
    last = [line for line in lines(run.metrics) if "loss_scale" in line][-1]
    assert last["overflows"] >= 1 and last["loss_scale"] < 2.0**40
    assert f"fp16: gradients overflowed {last['overflows']} times, and the step was repeated at a smaller scale" in said
    header, tensors = checkpoint.read(run.last)
    assert header["scaler"]["scale"] < 2.0**40
    assert steps == [1, 2, 3, 4, 5, 6] and header["step"] == 6
    assert all(value.isfinite().all() for value in tensors.values())


def test_a_gradient_that_overflows_at_every_scale_stops(
    configure: Configure, runs: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(loop, "training_device", lambda config: torch.device("cpu"))
    broken = after_calls(0, lambda loss, logits: loss + (logits * 0).sum().sqrt())
    monkeypatch.setattr(training_step, "label_loss", broken)
    with pytest.raises(DannError, match="the gradient is not finite at step 1 "):
        fit(configure(amp="fp16"), runs=runs)


@pytest.mark.parametrize("device", ["tpu", "meta", "cuda:x", ""])
def test_unknown_devices_are_refused(device: str, configure: Configure):
    with pytest.raises(UsageError, match="is not one of auto, cpu, cuda, cuda:N"):
        find_device(configure(device=device or "?"))


def test_a_cuda_device_that_is_not_there_is_unavailable(configure: Configure):
    with pytest.raises(UnavailableError, match="'cuda:99' was asked for"):
        find_device(configure(device="cuda:99"))


def test_auto_takes_what_is_usable(configure: Configure):
    assert find_device(configure(device="auto")).type == ("cuda" if torch.cuda.is_available() else "cpu")


# ---- what a run leaves --------------------------------------------------------------------------------------------


@pytest.fixture
def finished(configure: Configure, runs: Path) -> TrainResult:
    return fit(configure(), runs=runs, default_name="bars")


def test_a_run_is_complete_and_the_latest(finished: TrainResult, runs: Path, configure: Configure):
    run = find_run(None, runs)
    assert run.root == finished.run.root == runs / "bars"
    assert run.last.is_file() and run.result.is_file()
    config, about = run.read_config()
    assert config == configure()
    assert about["classes"] == ["across", "upright"]
    assert {name: entry["images"] for name, entry in about["data"].items()} == {
        "labelled": 24,
        "unlabelled": 40,
        "target_test": 20,
    }


def test_the_trained_network_is_rebuilt_from_its_folder(finished: TrainResult, configure: Configure):
    config, classes, network = load_trained(finished.run)
    assert (config, classes, network.training) == (configure(), ("across", "upright"), False)
    saved = {f"network.{key}": value for key, value in network.state_dict().items()}
    everything = weights(finished.run)
    assert_same(saved, {key: value for key, value in everything.items() if key.startswith("network.")})


def test_metrics_and_tensorboard_have_the_curves(finished: TrainResult, lines: Lines):
    rows = lines(finished.run.metrics)
    assert [(row["kind"], row["step"]) for row in rows] == [("eval", 3), ("step", 6), ("eval", 6)]
    assert {"loss", "label_loss", "domain_loss", "domain_accuracy", "lam", "lr"} <= rows[1].keys()
    events = EventAccumulator(str(finished.run.tensorboard))
    events.Reload()
    (point,) = events.Scalars("step/label_loss")
    assert point.step == 6 and point.value == pytest.approx(rows[1]["label_loss"])
    assert [event.step for event in events.Scalars("eval/target_accuracy")] == [3, 6]


def test_the_logged_loss_is_the_mean_of_its_window(configure: Configure, runs: Path, lines: Lines):
    config = configure(PLAIN, mode="source", steps=2)
    (row,) = [row for row in lines(fit(config, runs=runs).run.metrics) if row["kind"] == "step"]
    losses = []
    for step, network in enumerate((build_network(config, 2), after_first_step(config))):
        images, labels, _ = images_and_labels(config)(step)
        losses.append(F.cross_entropy(network(images), labels).item())
    assert row["label_loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_loss_that_some_steps_have_is_the_mean_over_those(
    configure: Configure, runs: Path, lines: Lines, monkeypatch: pytest.MonkeyPatch
):
    config = with_method(configure(), "dirt-t")  # the source is left behind half-way
    (together,) = [row for row in lines(fit(config, runs=runs).run.metrics) if row["kind"] == "step"]
    rows = steps_logged(config, runs, lines, monkeypatch)
    for name, had in (("label_loss", [1, 2, 3]), ("refine_loss", [4, 5, 6]), ("loss", [1, 2, 3, 4, 5, 6])):
        values = {row["step"]: row[name] for row in rows if name in row}
        assert list(values) == had
        assert together[name] == pytest.approx(np.mean(list(values.values())), rel=1e-5)


def after_first_step(config: TrainConfig) -> DomainAdversarialNetwork:
    """The network after a first step by hand, at which both schedules are still at their start."""
    network = build_network(config, 2)
    gradients = gradients_by_hand(network, *images_and_labels(config)(0), lam=0.0)
    with torch.no_grad():
        for name, gradient in gradients.items():
            network.get_parameter(name).sub_(config.optimiser.lr * gradient)
    return network


def test_warnings_are_told_logged_and_kept(
    configure: Configure, runs: Path, lines: Lines, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(detectors, "collapse", lambda _, step: RunWarning(step=step, name="collapse", message="Oh."))
    messages: list[str] = []
    result = fit(configure(), runs=runs, on_message=messages.append)
    rows = lines(result.run.metrics)
    assert {"kind": "warning", "step": 3, "name": "collapse", "message": "Oh."} in rows
    assert [row["kind"] for row in rows] == ["eval", "warning", "step", "eval"]
    assert messages == ["warning: Oh."]
    assert result.to_dict()["warnings"] == [{"step": 3, "name": "collapse", "message": "Oh."}]


def test_result_json_has_the_scores(finished: TrainResult):
    result = json.loads(finished.run.result.read_text(encoding="utf-8"))
    assert result["source"] is None  # nothing was held out
    assert result["target"]["images"] == 20
    assert result["target"]["accuracy"] == finished.scores.target.accuracy  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model.backbone": "resnet81"}, "unknown backbone"),
        ({"model.weights": "nowhere.pth"}, "is not a file"),
        ({"model.backbone": "dann-mnist", "data.height": 8}, "do not fit this backbone"),
        ({"data.source": ""}, "no source images were given"),
        ({"data.target": None}, "mode 'dann' needs target images"),
        ({"data.source": "nowhere/"}, "nowhere/"),
        ({"data.layout": "split"}, "layout 'split' says by itself"),
        (
            {"data.layout": "split", "data.source": "", "data.target": None, "data.test": None},
            "layout 'split' needs the folder",
        ),
    ],
)
def test_a_run_that_is_refused_leaves_the_latest_as_it_was(
    settings: dict[str, Any], message: str, configure: Configure, runs: Path
):
    fit(configure(steps=1), runs=runs, name="good")
    with pytest.raises(UsageError, match=message):
        fit(configure(settings), runs=runs, name="bad")
    assert find_run(None, runs).root.name == "good"
    assert not (runs / "bad").exists()


def test_a_finished_run_is_not_resumed(configure: Configure, runs: Path):
    result = fit(configure(steps=1), runs=runs)
    before = result.run.result.read_bytes()
    with pytest.raises(UsageError, match="is finished; there is nothing to resume"):
        resume(result.run)
    assert result.run.result.read_bytes() == before


def test_a_run_that_still_trains_does_not_take_the_place_of_a_newer_one(configure: Configure, runs: Path):
    def newer_run_ends(done: int, total: int, numbers: dict[str, Any]) -> None:
        if done == 4:  # after the first epoch's checkpoint, before the second's
            fit(configure(steps=1), runs=runs, name="newer")

    fit(configure(), runs=runs, name="older", on_step=newer_run_ends)
    assert find_run(None, runs).root.name == "newer"
