"""``metrics.jsonl`` and TensorBoard hold the same numbers, also after a resumed run."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dann.infer.errors import DannError
from dann.train.metrics_log import MetricsLog, NoLog


@pytest.fixture
def log_at(tmp_path: Path):
    return lambda step=0: MetricsLog(tmp_path / "metrics.jsonl", tmp_path / "tensorboard", step=step)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def steps_in_jsonl(folder: Path) -> list[int]:
    return [row["step"] for row in rows(folder)]


def curve(folder: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_both_hold_the_same_values(log_at, tmp_path: Path):
    with log_at() as log:
        log.write("step", 1, {"loss": 0.5, "epoch": 1})
        log.write("eval", 1, {"target_accuracy": None, "source_accuracy": 0.75})
    assert rows(tmp_path) == [
        {"kind": "step", "step": 1, "loss": 0.5, "epoch": 1},
        {"kind": "eval", "step": 1, "target_accuracy": None, "source_accuracy": 0.75},
    ]
    assert curve(tmp_path, "step/loss") == [(1, 0.5)]
    assert curve(tmp_path, "eval/source_accuracy") == [(1, 0.75)]


def test_a_table_is_a_curve_for_each_of_its_entries(log_at, tmp_path: Path):
    with log_at() as log:
        log.write("eval", 3, {"criteria": {"im": 0.25, "dev": None}})
    assert rows(tmp_path) == [{"kind": "eval", "step": 3, "criteria": {"im": 0.25, "dev": None}}]
    assert curve(tmp_path, "eval/criteria/im") == [(3, 0.25)]


@pytest.mark.parametrize("damage", [b"[1]\n", b"\xff\xfe\n", b'{"step": "x"}\n', b"\x00" * 40 + b"\n", b'{"kind"'])
def test_lines_that_a_crash_left_behind_are_dropped(damage: bytes, log_at, tmp_path: Path):
    with log_at() as log:
        log.write("step", 1, {"loss": 0.5})
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(damage)
    with log_at(step=1) as log:
        log.write("step", 2, {"loss": 0.25})
    assert steps_in_jsonl(tmp_path) == [1, 2]


@pytest.mark.parametrize(("error", "shown"), [(OSError(28, "No space left on device"), 0), (ValueError("else"), 1)])
def test_a_full_disk_in_the_thread_of_tensorboard_is_said_once(
    error: Exception, shown: int, log_at, monkeypatch: pytest.MonkeyPatch
):
    seen: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", seen.append)

    def fail() -> None:
        raise error

    with log_at():
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
    assert len(seen) == shown
    assert threading.excepthook == seen.append


def test_texts_are_in_the_lines_only(log_at, tmp_path: Path):
    with log_at() as log:
        log.write("warning", 3, {"name": "collapse", "message": "ümläut"})
    assert rows(tmp_path) == [{"kind": "warning", "step": 3, "name": "collapse", "message": "ümläut"}]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_null(value: float, log_at, tmp_path: Path):
    with log_at() as log:
        log.write("eval", 1, {"loss": value, "criteria": {"dev": value}})
    assert rows(tmp_path) == [{"kind": "eval", "step": 1, "loss": None, "criteria": {"dev": None}}]


def test_a_full_disk_is_named(log_at, tmp_path: Path):
    class Full:
        name = "metrics.jsonl"

        def write(self, text: str) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            pass

    with log_at() as log:
        log._jsonl.close()
        log._jsonl = Full()
        with pytest.raises(DannError, match="metrics.jsonl cannot be written: No space left on device"):
            log.write("step", 1, {"loss": 0.5})


def test_a_process_that_is_not_the_first_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with NoLog() as log:
        log.write("step", 1, {"loss": 0.5})
    assert list(tmp_path.iterdir()) == []


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


def test_starting_again_drops_everything(log_at, tmp_path: Path):
    for loss in (1.0, 2.0):  # a run that was killed before its first checkpoint begins anew
        with log_at() as log:
            for step in range(1, 3):
                log.write("step", step, {"loss": loss})
    assert [row["loss"] for row in rows(tmp_path)] == [2.0, 2.0]
    assert curve(tmp_path, "step/loss") == [(1, 2.0), (2, 2.0)]
