"""Two processes under torchrun against one: the same numbers, one run folder, and an end that can be resumed."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import Ran, done, outcome

from dann.infer.errors import UnavailableError, UsageError
from dann.infer.preprocess import PreprocessSpec
from dann.train import checkpoint
from dann.train.batches import BatchStream
from dann.train.device import training_device
from dann.train.distributed import AgreedNumber, World
from dann.train.image_set import images_from_arrays
from dann.train.loop import fit, resume
from dann.train.run_dir import RunDir
from dann.train.settings import AugmentConfig, TrainConfig

Configure = Callable[..., TrainConfig]
Lines = Callable[[Path], list[dict[str, Any]]]
EXACT = (
    "--backbone dann-mnist --size 16 --device cpu --quiet --steps 100 --optimizer sgd --lr 0.01 "
    "--set model.width=0.1 --set model.label_hidden=[6] --set model.batch_norm=false --set data.holdout=0 "
    "--set objectives.entropy=0.1 --set augment.noise=0.05 --set eval_every=0 --amp off"
).split()
"""No batch normalisation, no dropout, and losses that are means over images."""


@pytest.fixture
def train(sets: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The beginning of a command line that trains into ``tmp_path``."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    data = ["--source", sets["source"], "--target", sets["unlabelled"], "--test", sets["test"]]
    return ["train", "--runs", str(tmp_path), *data]


def torchrun(*words: str) -> subprocess.Popen[str]:
    """``dann WORDS…`` in two processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*launcher, "-m", "dann.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def both_done(*words: str) -> Ran:
    ran = outcome(torchrun(*words))
    assert ran.exit_code == 0, ran
    return ran


def assert_close(one: RunDir, other: RunDir, lines: Lines) -> None:
    """The same loss curve and the same weights, to 1e-5."""
    curves = [[row for row in lines(run.metrics) if row.pop("kind") == "step"] for run in (one, other)]
    assert len(curves[0]) == 2
    for row, expected in zip(*curves, strict=True):
        assert row == pytest.approx(expected, rel=0, abs=1e-5)
    found, expected = checkpoint.read(one.last)[1], checkpoint.read(other.last)[1]
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_two_processes_train_like_one_with_twice_the_batch(train: list[str], tmp_path: Path, lines: Lines):
    ran = both_done(*train, *EXACT, "--batch-size", "4", "--name", "two")
    done(*train, *EXACT, "--batch-size", "8", "--name", "one")
    two, one = RunDir(tmp_path / "two"), RunDir(tmp_path / "one")
    assert_close(two, one, lines)
    assert {entry.name for entry in tmp_path.iterdir()} == {"one", "two", "latest"}, "the first process writes, alone"
    assert [(row["kind"], row["step"]) for row in lines(two.metrics)] == [("step", 50), ("step", 100), ("eval", 100)]
    assert ran.stdout.count("run: ") == 1
    assert json.loads(two.result.read_text())["target"]["images"] == 20


@pytest.mark.slow
def test_accumulation_and_processes_share_a_batch_in_any_way(train: list[str], tmp_path: Path, lines: Lines):
    both_done(*train, *EXACT, "--batch-size", "2", "--accumulate", "2", "--name", "two-by-two")
    done(*train, *EXACT, "--batch-size", "4", "--accumulate", "2", "--name", "accumulated")
    done(*train, *EXACT, "--batch-size", "8", "--name", "one")
    for name in ("two-by-two", "accumulated"):
        assert_close(RunDir(tmp_path / name), RunDir(tmp_path / "one"), lines)


STATEFUL = (
    "--method mean-teacher --select im --backbone dann-mnist --size 16 --batch-size 4 --device cpu --steps 200 "
    "--set model.width=0.1 --set model.label_hidden=[6] --set model.dropout=0.2 --set data.holdout=0 "
    "--set objectives.confidence=0.5 --set eval_every=20"
).split()


@pytest.mark.slow
def test_sigterm_to_torchrun_saves_and_the_run_goes_on_to_the_same_end(train: list[str], tmp_path: Path, lines: Lines):
    process = torchrun(*train, *STATEFUL, "--name", "parts")
    assert process.stderr is not None
    for text in process.stderr:
        if text.startswith("train: 1/200"):
            break
    process.send_signal(signal.SIGTERM)
    ran = outcome(process)
    errors = {line for line in ran.stderr.splitlines() if line.startswith("error: ")}
    assert (ran.exit_code, ran.stdout, len(errors)) == (1, "", 1), ran  # the exit code is torchrun's own
    said = re.fullmatch(r"error: stopped by SIGTERM after step (\d+) of 200; the state is saved\..*", errors.pop())
    parts, whole = RunDir(tmp_path / "parts"), RunDir(tmp_path / "whole")
    assert said and checkpoint.read(parts.last)[0]["step"] == int(said[1])
    assert not parts.result.exists()

    both_done("train", "--runs", str(tmp_path), "--resume", "parts", "--quiet")
    both_done(*train, *STATEFUL, "--quiet", "--name", "whole")
    found, expected = checkpoint.read(parts.last)[1], checkpoint.read(whole.last)[1]
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []
    assert parts.selected.read_bytes() == whole.selected.read_bytes()
    assert [(row["kind"], row["step"]) for row in lines(parts.metrics)] == [
        (row["kind"], row["step"]) for row in lines(whole.metrics)
    ]


@pytest.mark.slow
def test_what_fails_on_the_first_process_alone_ends_all_with_its_message(train: list[str], tmp_path: Path):
    (tmp_path / "taken").mkdir()
    ran = outcome(torchrun(*train, *EXACT, "--name", "taken"))
    assert ran.exit_code == 1
    assert f"error: run '{tmp_path / 'taken'}' exists already; choose another --name or --resume it\n" in ran.stderr
    assert not re.search(r"^\[rank\d\]: Traceback", ran.stderr, re.MULTILINE), ran
    assert os.listdir(tmp_path) == ["taken"]


class WithAnother(World):
    """Two processes, the other of which gives ``others`` step by step."""

    others: list[int]

    def maximum(self, values: torch.Tensor) -> torch.Tensor:
        return values.maximum(torch.tensor(self.others.pop(0)))


@pytest.mark.parametrize("steps_late", [0, 2])
def test_a_signal_to_one_process_is_heard_by_all_after_the_same_steps(steps_late: int, monkeypatch: pytest.MonkeyPatch):
    heard = []
    for own, others in (([0, 0, 0, 0, 0], [0, 15, 0, 0, 0]), ([0, 15, 0, 0, 0], [0, 0, 0, 0, 0])):
        world = WithAnother(size=2)
        object.__setattr__(world, "others", others)
        stop = AgreedNumber(world, torch.device("cpu"))
        monkeypatch.setattr(stop, "_steps_late", steps_late)
        heard.append([stop.after(number) for number in own])
    assert heard[0] == heard[1]
    assert [step for step, number in enumerate(heard[0]) if number == 15] == [1 + steps_late]


# ---- what each process is given -----------------------------------------------------------------------------------


def test_each_process_of_a_machine_takes_a_gpu_of_its_own(configure: Configure, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    config = configure(device="auto")
    assert training_device(config) == torch.device("cuda")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in (0, 1):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert training_device(config) == torch.device("cuda", rank)
        assert training_device(configure(device="cpu")) == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UnavailableError, match="'cuda:2' was asked for: 2 usable CUDA devices are here"):
        training_device(config)


def test_a_run_goes_on_only_with_as_many_processes_as_it_was_begun_by(configure: Configure, tmp_path: Path):
    run = fit(configure(), runs=tmp_path).run
    about = json.loads(run.config.read_text())
    assert about["processes"] == 1
    run.config.write_text(json.dumps({**about, "processes": 2}))
    with pytest.raises(UsageError, match="was begun by 2 processes, and here is 1.*resume it under torchrun"):
        resume(run)


# ---- who sees which image -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("processes", "passes"), [(2, 1), (3, 1), (2, 3), (1, 6)])
def test_no_image_is_dropped_or_repeated_over_all_processes(processes: int, passes: int):
    pixels_NHWC = np.zeros((24, 2, 2, 3), np.uint8)
    images = images_from_arrays(pixels_NHWC, [str(i) for i in range(24)], PreprocessSpec(height=2, width=2))
    shards = processes * passes
    stream = BatchStream(images, batch_size=4 * shards, views=(AugmentConfig(),), seed=1, stream=0)
    seen = [
        [
            stream.batch(step, rank * passes + number, shards).indices
            for rank in range(processes)
            for number in range(passes)
        ]
        for step in range(shards)  # so many epochs end together: 4 · shards images a step
    ]
    assert all(len(indices) == 4 for step in seen for indices in step)
    drawn = np.concatenate([indices for step in seen for indices in step])
    for start in range(0, len(drawn) - 23, 24):
        assert sorted(drawn[start : start + 24]) == list(range(24))
    assert np.array_equal(drawn, np.concatenate([stream.indices(step) for step in range(shards)]))
