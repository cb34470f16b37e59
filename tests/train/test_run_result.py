"""``result.json``: what a run says of itself when it has ended."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dann.train import selection
from dann.train.evaluate import DomainScores
from dann.train.loop import TrainResult, fit, resume
from dann.train.run_dir import find_run
from dann.train.settings import TrainConfig

Configure = Callable[..., TrainConfig]
KEYS = """mode method oracle simulated_target checkpoint selection last selected best_on_test_labels notes warnings
seconds images_per_second skipped_images source target domain_accuracy""".split()


class Killed(Exception):
    """What ends a run without its saving anything."""


def killed_at_3(done: int, total: int, numbers: dict[str, Any]) -> None:
    if done == 3:
        raise Killed


def written(result: TrainResult) -> dict[str, Any]:
    return json.loads(result.run.result.read_text(encoding="utf-8"))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def finished(configure: Configure, runs: Path) -> TrainResult:
    settings = {"data.holdout": 0.25, "selection.criterion": "im", "selection.gate": 1.0}
    return fit(configure(settings, epochs=3, steps=None), runs=runs)


def test_what_is_written_is_what_the_result_says(finished: TrainResult):
    found = written(finished)
    assert found == json.loads(json.dumps(finished.to_dict()))
    assert list(found) == KEYS


def test_last_selected_and_best_stand_side_by_side(finished: TrainResult):
    found = written(finished)
    headlines = finished.history.headlines
    assert [entry["step"] for entry in headlines] == [2, 4, 6]
    assert found["last"] == headlines[-1]
    assert found["selected"] == next(entry for entry in headlines if entry["step"] == found["selection"]["step"])
    assert found["best_on_test_labels"]["target_accuracy"] == max(entry["target_accuracy"] for entry in headlines)  # type: ignore[type-var]
    assert found["last"].keys() == {"step", "source_accuracy", "target_accuracy", "domain_accuracy"}


def test_the_scores_are_those_of_the_selected_step(finished: TrainResult):
    found = written(finished)
    assert found["checkpoint"] == "selected"
    assert found["target"]["accuracy"] == found["selected"]["target_accuracy"]
    assert found["source"]["accuracy"] == found["selected"]["source_accuracy"]
    assert found["domain_accuracy"] == found["selected"]["domain_accuracy"]


def test_every_criterion_says_what_it_would_have_chosen(finished: TrainResult):
    found = written(finished)["selection"]
    assert found["criterion"] == "im" and found["step"] == found["choices"]["im"]
    assert set(found["choices"]) == {"last", *selection.CRITERIA}
    assert found["choices"]["last"] == 6 and set(found["choices"].values()) <= {2, 4, 6}


@pytest.mark.parametrize(
    ("settings", "mode", "method"),
    [
        ({}, "dann", "dann"),
        ({"objectives.entropy": 0.1}, "dann", "dann+entropy"),
        ({}, "source", None),
        ({}, "target", None),
    ],
)
def test_mode_and_objectives_are_named(
    settings: dict[str, Any], mode: str, method: str | None, configure: Configure, sets: dict[str, str], runs: Path
):
    config = configure({**settings, "data.target": sets["target"]}, mode=mode, steps=1)
    found = written(fit(config, runs=runs))
    assert (found["mode"], found["method"], found["oracle"]) == (mode, method, mode == "target")
    assert (found["checkpoint"], found["selection"]["criterion"], found["selection"]["step"]) == ("last", "last", 1)
    assert found["selected"] == found["last"] == found["best_on_test_labels"]
    assert found["warnings"] == [] and found["skipped_images"] == []


def test_without_test_labels_there_is_nothing_to_be_best_on(configure: Configure, runs: Path):
    found = written(fit(configure({"data.test": None}, steps=1), runs=runs))
    assert found["best_on_test_labels"] is None and found["target"] is None
    assert found["last"]["target_accuracy"] is None


def test_a_resumed_run_says_the_same_but_for_the_time(finished: TrainResult, runs: Path):
    with pytest.raises(Killed):
        fit(finished.config, runs=runs, name="parts", on_step=killed_at_3)
    again = written(resume(find_run("parts", runs)))
    timing = {"seconds", "images_per_second"}
    assert {key: value for key, value in again.items() if key not in timing} == {
        key: value for key, value in written(finished).items() if key not in timing
    }


def test_times_are_rounded_and_images_that_were_left_out_named(finished: TrainResult, configure: Configure):
    result = TrainResult(
        run=finished.run,
        config=configure(),
        scores=DomainScores(source=None, target=None, domain_accuracy=None),
        history=finished.history,
        simulated=True,
        seconds=1.26,
        images_per_second=123.456,
        skipped=[("a.png", "is empty")],
    )
    found = result.to_dict()
    assert (found["seconds"], found["images_per_second"], found["simulated_target"]) == (1.3, 123.5, True)
    assert found["skipped_images"] == [{"path": "a.png", "reason": "is empty"}]
    assert (found["source"], found["target"], found["domain_accuracy"]) == (None, None, None)
