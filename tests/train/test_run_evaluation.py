"""Scores of a finished run, read back from its folder."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dann.infer.errors import UsageError
from dann.train.loop import TrainResult, fit
from dann.train.run_evaluation import evaluate_run
from dann.train.settings import TrainConfig

Configure = Callable[..., TrainConfig]


@pytest.fixture
def finished(configure: Configure, tmp_path: Path) -> TrainResult:
    return fit(configure({"data.holdout": 0.25}), runs=tmp_path / "runs", name="mine")


def test_the_scores_are_those_that_training_reported(finished: TrainResult, sets: dict[str, str]):
    found = evaluate_run(finished.run)
    assert found.scores == finished.scores
    assert found.scores.source is not None and found.scores.source.images == 6
    assert (found.run.root.name, found.mode, found.data) == ("mine", "dann", sets["test"])
    json.dumps(found.to_dict())


def test_other_images_can_be_named(finished: TrainResult, sets: dict[str, str]):
    found = evaluate_run(finished.run, data=sets["target"])
    assert found.scores.target is not None and found.scores.target.images == 40
    assert found.scores.source == finished.scores.source
    assert found.data == sets["target"]


def test_a_class_without_images_has_no_recall(finished: TrainResult, tmp_path: Path):
    pixels = np.zeros((3, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "upright.npz", x=pixels, y=np.zeros(3, int), classes=["upright"])
    scores = evaluate_run(finished.run, data=str(tmp_path / "upright.npz")).scores.target
    assert scores is not None
    assert scores.recall["across"] is None and scores.confusion[0] == [0, 0]
    assert sum(scores.confusion[1]) == 3 and scores.mean_recall == scores.accuracy


@pytest.mark.parametrize(("mode", "oracle"), [("source", False), ("target", True)])
def test_an_oracle_says_so(mode: str, oracle: bool, configure: Configure, sets: dict[str, str], tmp_path: Path):
    config = configure({"data.target": sets["target"]}, mode=mode, steps=1)
    found = evaluate_run(fit(config, runs=tmp_path / "runs").run).to_dict()
    assert (found["mode"], found["oracle"], found["simulated_target"]) == (mode, oracle, False)


def test_simulated_photos_are_named_for_what_they_are(finished: TrainResult, sets: dict[str, str], tmp_path: Path):
    (tmp_path / "cars.json").write_text('{"renderer": 1}', encoding="utf-8")
    photos = tmp_path / "test.npz"
    photos.write_bytes(Path(sets["test"]).read_bytes())
    assert evaluate_run(finished.run, data=str(photos)).simulated
    assert not evaluate_run(finished.run).simulated


def test_a_run_without_labelled_target_images_asks_for_them(configure: Configure, tmp_path: Path):
    run = fit(configure({"data.test": None}, steps=1), runs=tmp_path / "runs").run
    with pytest.raises(UsageError, match="names no labelled target images; give them as --data SPEC"):
        evaluate_run(run)


def test_classes_that_the_network_does_not_know_are_refused(finished: TrainResult, tmp_path: Path):
    np.savez(tmp_path / "other.npz", x=np.zeros((2, 16, 16, 3), np.uint8), y=[0, 1], classes=["across", "round"])
    with pytest.raises(UsageError, match=r"classes that the model was not trained on: \['round'\]"):
        evaluate_run(finished.run, data=str(tmp_path / "other.npz"))


def test_a_run_trained_in_fp16_can_be_evaluated_on_the_cpu(finished: TrainResult):
    about = json.loads(finished.run.config.read_text(encoding="utf-8"))
    about["config"]["amp"] = "fp16"  # as CUDA would have trained it
    finished.run.config.write_text(json.dumps(about), encoding="utf-8")
    assert evaluate_run(finished.run, device="cpu").scores == finished.scores
