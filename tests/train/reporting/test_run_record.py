"""What a run wrote, read back however it ended."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dann.infer.errors import DannError
from dann.train.reporting.run_record import read_record
from dann.train.run_dir import RunDir
from dann.train.settings import TrainConfig

STEPS = [
    {"kind": "step", "step": 50, "loss": 2.0, "epoch": 0.5},
    {"kind": "eval", "step": 100, "source_accuracy": 0.5, "target_accuracy": None},
    {"kind": "step", "step": 100, "loss": 1.0, "lam": 0.3, "epoch": 1.0},
    {"kind": "step", "step": 150, "epoch": 1.5},
]


@pytest.fixture
def run(configure: Callable[..., TrainConfig], tmp_path: Path) -> RunDir:
    """A run that has written its configuration and nothing else."""
    run = RunDir(tmp_path / "mine")
    run.write_config(configure(), {"classes": ["a", "b"]})
    return run


def log(run: RunDir, *lines: dict[str, Any] | str) -> None:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    run.metrics.write_text("\n".join(texts), encoding="utf-8")


def test_a_run_that_only_began_has_an_empty_record(run: RunDir):
    record = read_record(run)
    assert (record.log, record.result, record.about["classes"]) == ([], {}, ["a", "b"])
    assert record.curve("step", "loss") == ([], [])
    assert (record.time(7), record.time_unit) == (7, "step")


def test_a_curve_is_what_was_logged_over_epochs(run: RunDir):
    log(run, *STEPS)
    record = read_record(run)
    assert record.curve("step", "loss") == ([0.5, 1.0], [2.0, 1.0])
    assert record.curve("eval", "source_accuracy") == ([1.0], [0.5])
    assert record.curve("eval", "target_accuracy") == ([], [])
    assert record.time_unit == "epoch"
    assert record.keys("step") == ["kind", "step", "loss", "epoch", "lam"]


def test_lines_that_are_torn_or_foreign_are_passed_over(run: RunDir):
    log(run, STEPS[0], "[1, 2]", '"text"', '{"kind": "step"}', json.dumps(STEPS[2])[:20])
    assert read_record(run).log == STEPS[:1]


def test_without_epochs_time_is_steps(run: RunDir):
    log(run, {"kind": "step", "step": 0, "loss": 1.0, "epoch": 0.0}, {"kind": "step", "step": 50, "loss": 2.0})
    record = read_record(run)
    assert record.curve("step", "loss") == ([0, 50], [1.0, 2.0])
    assert record.time_unit == "step"


@pytest.mark.parametrize("text", ["{", "[1]", "7"])
def test_a_damaged_result_is_named(run: RunDir, text: str):
    run.result.write_text(text, encoding="utf-8")
    with pytest.raises(DannError, match=r"result\.json is damaged: .*; restore it, or take it away"):
        read_record(run)
