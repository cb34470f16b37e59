"""``metrics.jsonl`` and TensorBoard hold the same numbers, also after a resumed run."""

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dann.train.metrics_log import MetricsLog


@pytest.fixture
def log_at(tmp_path: Path):
    return lambda step=0: MetricsLog(tmp_path / "metrics.jsonl", tmp_path / "tensorboard", step=step)


def steps_in_jsonl(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def curve(folder: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_both_hold_the_same_values(log_at, tmp_path: Path):
    with log_at() as log:
        log.write("step", 1, {"loss": 0.5, "epoch": 1})
        log.write("eval", 1, {"target_accuracy": None, "source_accuracy": 0.75})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows == [
        {"kind": "step", "step": 1, "loss": 0.5, "epoch": 1},
        {"kind": "eval", "step": 1, "target_accuracy": None, "source_accuracy": 0.75},
    ]
    assert curve(tmp_path, "step/loss") == [(1, 0.5)]
    assert curve(tmp_path, "eval/source_accuracy") == [(1, 0.75)]


def test_each_line_is_on_disk_at_once(log_at, tmp_path: Path):
    with log_at() as log:
        log.write("step", 1, {"loss": 0.5})
        assert steps_in_jsonl(tmp_path) == [1]


def test_resuming_drops_what_comes_later_and_a_torn_line(log_at, tmp_path: Path):
    with log_at() as log:
        for step in range(1, 6):
            log.write("step", step, {"loss": 1.0})
    with open(tmp_path / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"kind": "step", "st')
    with log_at(3) as log:
        log.write("step", 4, {"loss": 2.0})
    assert steps_in_jsonl(tmp_path) == [1, 2, 3, 4]
    assert curve(tmp_path, "step/loss") == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0)]
