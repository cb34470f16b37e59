"""What is broken, foreign or contradictory: one message, the right exit code, and the last good state as it was."""

import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from command import Ran, dann, done, outcome, refused, start
from safetensors.torch import load_file, save_file

from dann.train import checkpoint
from dann.train.run_dir import RunDir

NETWORK = (
    "--backbone dann-mnist --size 16 --batch-size 8 --device cpu --quiet --set data.holdout=0 "
    "--set model.width=0.1 --set model.label_hidden=[6] --set model.domain_hidden=[6]"
).split()


@pytest.fixture
def data(sets: dict[str, str]) -> list[str]:
    return ["--source", sets["source"], "--target", sets["unlabelled"], "--test", sets["test"]]


def stop_at(step: int) -> str:
    """A Python statement that stops a training in a process of its own, in the same way each time."""
    return (
        "import signal, dann.infer.progress as progress\n"
        "update = progress.Progress.update\n"
        "def stopping(self, done, total, text=''):\n"
        "    update(self, done, total, text)\n"
        f"    done == {step} and signal.raise_signal(signal.SIGTERM)\n"
        "progress.Progress.update = stopping\n"
    )


@pytest.fixture(scope="session")
def stopped_run(sets: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with ``mine``, which was stopped after 4 of 6 steps. Tests must not write to it."""
    root = tmp_path_factory.mktemp("stopped")
    data = ["--source", sets["source"], "--target", sets["unlabelled"], "--test", sets["test"]]
    words = ["train", *data, *NETWORK, "--steps", "6", "--runs", str(root), "--name", "mine"]
    ran = outcome(start(*words, before=stop_at(4)))
    assert ran.exit_code == 143, ran
    return root


@pytest.fixture
def runs(stopped_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(stopped_run, tmp_path / "runs")


@pytest.fixture
def run(runs: Path) -> RunDir:
    return RunDir(runs / "mine")


def files(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


# ---- checkpoints --------------------------------------------------------------------------------------------------


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def foreign_header(content: bytes) -> bytes:
    return content.replace(checkpoint.FORMAT.encode(), b"somebody-elses-1!"[: len(checkpoint.FORMAT)])


def older_format(content: bytes) -> bytes:
    return content.replace(checkpoint.FORMAT.encode(), b"dann-checkpoint-1")


def one_bit_flipped(content: bytes) -> bytes:
    return content[:-9] + bytes([content[-9] ^ 16]) + content[-8:]


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda content: b"", "is damaged"),
    "truncated": (truncated, "is damaged"),
    "a pickle": (lambda content: b"\x80\x05}q\x00." * 100, "is damaged"),
    "a flipped bit": (one_bit_flipped, "it is not what was written"),
    "another safetensors file": (foreign_header, "not a dann checkpoint"),
    "of an older dann": (older_format, "of another version of dann (dann-checkpoint-1)"),
}
COMMANDS = {"resume": ["train", "--resume"], "eval": ["eval", "--run"], "export": ["export", "--run"]}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_checkpoint_that_is_no_good_is_named_and_left_alone(command: str, damage: str, run: RunDir, runs: Path):
    change, said = DAMAGES[damage]
    run.last.write_bytes(change(run.last.read_bytes()))
    before = files(runs)
    refused(dann(*COMMANDS[command], "mine", "--runs", runs), 1, str(run.last), said)
    assert files(runs) == before


@pytest.mark.parametrize("command", ["eval", "export"])
def test_where_there_is_no_checkpoint_yet_there_is_nothing_to_use(command: str, run: RunDir, runs: Path):
    run.last.unlink()
    refused(dann(*COMMANDS[command], "mine", "--runs", runs), 2, "no checkpoint at", "dann train")


@pytest.fixture
def foreign_checkpoint(sets: dict[str, str], tmp_path: Path) -> Callable[..., Path]:
    """The checkpoint of a run on the same images with other classes, or of another network."""

    def train(classes: list[str], *words: str) -> Path:
        found = {}
        for name in ("source", "test"):
            found[name] = str(tmp_path / f"{name}.npz")
            with np.load(sets[name]) as stored:
                np.savez(found[name], x=stored["x"], y=np.arange(len(stored["y"])) % len(classes), classes=classes)
        data = ["--source", found["source"], "--target", sets["unlabelled"], "--test", found["test"]]
        done("train", *data, *NETWORK, *words, "--steps", "1", "--runs", tmp_path / "others", "--name", "other")
        return tmp_path / "others/other/checkpoints/last.safetensors"

    return train


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["cat", "dog"], "'cat', 'dog'"),
        (["a", "b", "c"], "'a', 'b', 'c'"),
    ],
    ids=["other names", "other number"],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_checkpoint_of_other_classes_is_refused(
    command: str,
    classes: list[str],
    said: str,
    foreign_checkpoint: Callable[..., Path],
    run: RunDir,
    runs: Path,
):
    shutil.copy(foreign_checkpoint(classes), run.last)
    before = files(runs)
    refused(dann(*COMMANDS[command], "mine", "--runs", runs), 1, str(run.last), said)
    assert files(runs) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_a_checkpoint_of_another_network_is_refused_in_one_line(
    command: str, foreign_checkpoint: Callable[..., Path], run: RunDir, runs: Path
):
    other = foreign_checkpoint(["across", "upright"], "--set", "model.width=0.2")
    shutil.copy(other, run.last)
    refused(dann(*COMMANDS[command], "mine", "--runs", runs), 1, str(run.last), "does not fit the network")


def test_a_checkpoint_of_another_optimiser_is_refused(foreign_checkpoint: Callable[..., Path], run: RunDir, runs: Path):
    other = foreign_checkpoint(["across", "upright"], "--optimizer", "sgd", "--set", "optimiser.momentum=0.9")
    shutil.copy(other, run.last)
    refused(dann("train", "--resume", "mine", "--runs", runs), 1, str(run.last), "does not fit the optimiser")


# ---- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("toml", "parts"),
    [
        ("[optimiser]\nlearning_rate = 0.1", ["unknown setting 'optimiser.learning_rate'", "Known: "]),
        ("[optimser]\nlr = 0.1", ["unknown setting 'optimser'", "did you mean 'optimiser'?"]),
        ("[objectives]\nentrpy = 0.1", ["unknown setting 'objectives.entrpy'", "did you mean 'objectives.entropy'?"]),
        ("[objectives]\ncdan = 1.0\ndann = 1.0", ["objectives.dann and objectives.cdan", "set one to 0"]),
        ("[objectives]\nmean_teacher = 1.0", ["objectives.mean_teacher needs averaged weights", "optimiser.ema"]),
        ("[objectives]\nrefine_from = 0.5", ["objectives.refine_from needs averaged weights", "optimiser.ema"]),
        ("[objectives]\ndann = 0.0", ["every weight in [objectives] is 0", "--mode source"]),
        (
            "[objectives]\nrefine_from = 0.5\nrefine = 0.0\n[optimiser]\nema = 0.9",
            ["objectives.refine", "objectives.refine_from"],
        ),
        ("[objectives]\nentropy = nan", ["objectives.entropy is nan"]),
        ("[selection]\ncriterion = 'accuracy'", ["'accuracy'", "source-accuracy"]),
        ("[model]\nbn = 'adaptive'", ["value of model.bn 'adaptive'", "shared, split"]),
        ("[augment]\nflip = 'yes'", ["augment.flip is 'yes'"]),
        ("objectives = 3", ["objectives is 3", "a table"]),
        ("[objectives\ndann = 1.0", ["is not valid TOML"]),
    ],
)
def test_an_unknown_or_contradictory_setting_is_refused(toml: str, parts: list[str], data: list[str], tmp_path: Path):
    (tmp_path / "mine.toml").write_text(toml)
    words = ["train", *data, *NETWORK, "--steps", "1", "--runs", tmp_path / "runs"]
    refused(dann(*words, "--config", tmp_path / "mine.toml"), 2, *parts)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is damaged or not a dann configuration"),
        ("[1]", "is damaged or not a dann configuration"),
        ('{"schema": 99, "config": {}}', "has schema 99"),
        ('{"schema": 1, "config": {"optimizer": {}}}', "unknown setting 'optimizer'"),
    ],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_run_whose_configuration_is_no_good_says_so(command: str, content: str, said: str, run: RunDir, runs: Path):
    run.config.write_text(content)
    ran = dann(*COMMANDS[command], "mine", "--runs", runs)
    refused(ran, 1, said, str(run.config))


# ---- numbers that are none ----------------------------------------------------------------------------------------


@pytest.fixture
def weights_with_nan(run: RunDir, tmp_path: Path) -> Path:
    network = {
        name.removeprefix("network."): value
        for name, value in load_file(run.last).items()
        if name.startswith("network.")
    }
    network["label_classifier.0.weight"][0, 0] = torch.nan
    save_file(network, tmp_path / "nan.safetensors")
    return tmp_path / "nan.safetensors"


def test_weights_with_nan_train_nothing(weights_with_nan: Path, data: list[str], tmp_path: Path):
    words = ["train", *data, *NETWORK, "--steps", "3", "--runs", tmp_path / "new", "--name", "mine"]
    refused(dann(*words, "--init-from", weights_with_nan), 1, "label_classifier.0.weight in", "not finite")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("command", "said"), [("resume", "not finite"), ("eval", "not finite"), ("export", "nan")])
def test_a_checkpoint_with_nan_goes_no_further(command: str, said: str, run: RunDir, runs: Path):
    about, tensors = checkpoint.read(run.last)
    tensors["network.label_classifier.0.weight"][0, 0] = torch.nan
    checkpoint.write(run.last, tensors, about)
    before = run.last.read_bytes()
    refused(dann(*COMMANDS[command], "mine", "--runs", runs), 1, said)
    assert not run.bundle.exists()
    assert run.last.read_bytes() == before


# ---- very few images ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["dann", "cdan", "mcc", "bnm", "adamatch", "dirt-t", "mean-teacher"])
def test_a_target_of_one_image_is_trained_on_evaluated_and_exported(method: str, sets: dict[str, str], tmp_path: Path):
    with np.load(sets["unlabelled"]) as stored:
        (tmp_path / "photos").mkdir()
        assert cv2.imwrite(str(tmp_path / "photos/only.png"), stored["x"][0])
    data = ["--source", sets["source"], "--target", tmp_path / "photos", "--test", sets["test"]]
    options = ["--method", method, "--select", "snd", "--set", "adabn=true", "--steps", "3", "--name", "mine"]
    assert done("train", *data, *NETWORK, *options, "--runs", tmp_path).stdout.startswith("run: ")
    done("eval", "--runs", tmp_path)
    assert json.loads((tmp_path / "mine/eval.json").read_text())["target"]["images"] == 20
    done("export", "--runs", tmp_path)


# ---- a full disk --------------------------------------------------------------------------------------------------


def with_a_full_disk(words: list[Any], run: RunDir, largest_bytes: int) -> Ran:
    """``dann WORDS…`` that, once it has saved a checkpoint, can write no file beyond so many bytes."""
    process, latest = start(*words), run.root.parent / "latest"  # the file that is written after the first checkpoint
    while not latest.is_file():
        assert process.poll() is None, outcome(process)
        time.sleep(0.001)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (largest_bytes, largest_bytes))
    return outcome(process)


@pytest.mark.slow
@pytest.mark.parametrize("largest_bytes", [4096, 0], ids=["the checkpoint does not fit", "nothing fits"])
def test_when_the_disk_is_full_the_previous_checkpoint_survives(largest_bytes: int, data: list[str], tmp_path: Path):
    run = RunDir(tmp_path / "mine")
    train = ["train", *data, *NETWORK, "--set", "save_every=5", "--steps", "2000", "--runs", tmp_path]
    ran = with_a_full_disk([*train, "--name", "mine"], run, largest_bytes)
    assert (ran.exit_code, ran.stdout, ran.stderr.count("\n")) == (1, "", 1), ran
    assert ran.stderr.startswith("error: ") and "kept" in ran.stderr
    saved, _ = checkpoint.read(run.last)
    assert saved["step"] % 5 == 0
    assert os.listdir(run.last.parent) == ["last.safetensors"]


def test_a_run_is_not_resumed_onto_a_full_disk_and_not_harmed(run: RunDir, runs: Path):
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"
    before = files(runs)
    ran = outcome(start("train", "--resume", "mine", "--runs", str(runs), "--quiet", before=full))
    assert (ran.exit_code, ran.stdout, ran.stderr.count("\n")) == (1, "", 1), ran
    assert "cannot be written" in ran.stderr
    assert {name: content for name, content in files(runs).items() if "tfevents" not in name} == {
        name: content for name, content in before.items() if "tfevents" not in name
    }


# ---- SIGTERM ------------------------------------------------------------------------------------------------------


def test_a_run_that_was_terminated_goes_on_to_the_end(run: RunDir, runs: Path):
    assert checkpoint.read(run.last)[0]["step"] == 4 and not run.result.exists()
    done("train", "--resume", "mine", "--runs", runs, "--quiet")
    assert checkpoint.read(run.last)[0]["step"] == 6 and run.result.exists()


def test_sigterm_before_the_first_step_is_one_message(data: list[str], tmp_path: Path):
    process = start("train", *data, *NETWORK, "--steps", "2000", "--runs", tmp_path, "--name", "mine")
    while not (tmp_path / "mine/config.json").is_file():
        assert process.poll() is None, outcome(process)
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    ran = outcome(process)
    assert (ran.exit_code, ran.stdout, ran.stderr.count("\n")) == (143, "", 1), ran
    assert ran.stderr.startswith("error: ")
