"""A run that is killed with SIGKILL, again and again, ends with the bytes of a run that nobody touched."""

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import Ran, done, outcome, start

from dann.train import checkpoint
from dann.train.run_dir import RunDir

SAVE_EVERY = 5
STATEFUL = (
    "--method mean-teacher --select im --backbone dann-mnist --size 16 --batch-size 8 --device cpu --quiet "
    "--set model.width=0.1 --set model.label_hidden=[6] --set model.dropout=0.2 --set data.holdout=0.2 "
    "--set objectives.confidence=0.5 --set objectives.warmup=0.3 --set objectives.refine_from=0.8 "
    f"--set eval_every=3 --set save_every={SAVE_EVERY}"
).split()
"""Averaged weights, momentum, class marginals, a second stage, selection, and randomness of every kind."""


@pytest.fixture
def settings(sets: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # or sums of floats come in another order than in this process
    return ["--source", sets["source"], "--target", sets["unlabelled"], "--test", sets["test"], *STATEFUL]


def step_of(run: RunDir) -> int:
    """The step of the newest checkpoint; 0 before the first."""
    return checkpoint.read(run.last)[0]["step"] if run.last.is_file() else 0


def killed(words: list[str], when: Callable[[], bool], *, delay: float = 0.0) -> None:
    """Start ``dann WORDS…``, and SIGKILL it ``delay`` seconds after ``when`` becomes true."""
    process = start(*words)
    while not when():
        assert process.poll() is None, f"it ended before it was killed: {outcome(process)}"
        time.sleep(0.001)
    time.sleep(delay)
    process.kill()
    ran: Ran = outcome(process)
    assert (ran.exit_code, ran.stderr) == (-9, ""), ran


def without_clock(text: str) -> list[dict[str, Any]]:
    """JSON lines less what depends on the time that they took."""
    rows = [json.loads(line) for line in text.splitlines()]
    return [{key: value for key, value in row.items() if key not in ("seconds", "images_per_second")} for row in rows]


def contents(run: RunDir) -> dict[str, Any]:
    """All that a run leaves, less the clock; the checkpoints as bytes."""
    found: dict[str, Any] = {file.name: file.read_bytes() for file in run.last.parent.iterdir()}
    found["metrics"] = without_clock(run.metrics.read_text())
    found["result"] = without_clock(json.dumps(json.loads(run.result.read_text())))
    found["config"] = run.config.read_bytes()
    return found


def assert_killing_leaves_no_trace(settings: list[str], runs: Path, *, kills: int, steps: int) -> None:
    train = ["train", *settings, "--steps", str(steps), "--runs", str(runs), "--name"]
    done(*train, "whole")
    run, resume = RunDir(runs / "killed"), ["train", "--resume", "killed", "--runs", str(runs), "--quiet"]
    rng = random.Random(0)

    killed([*train, "killed"], run.config.is_file)
    assert not run.last.exists(), "the first kill is to come before the first checkpoint"
    for _ in range(kills - 1):
        goal = step_of(run) + SAVE_EVERY * rng.randint(1, 3)
        anywhere = rng.uniform(0.0, 0.1)  # in a step, judging, saving
        killed(resume, lambda goal=goal: step_of(run) >= goal, delay=anywhere)
    done(*resume)
    found, expected = contents(run), contents(RunDir(runs / "whole"))
    assert found.keys() == expected.keys() >= {"last.safetensors", "selected.safetensors"}
    assert [name for name, content in expected.items() if found[name] != content] == []


@pytest.mark.slow
def test_a_run_that_is_killed_twice_ends_as_if_nothing_had_happened(settings: list[str], tmp_path: Path):
    assert_killing_leaves_no_trace(settings, tmp_path, kills=2, steps=60)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_that_is_killed_twenty_times_ends_as_if_nothing_had_happened(settings: list[str], tmp_path: Path):
    assert_killing_leaves_no_trace(settings, tmp_path, kills=20, steps=600)
