"""``compare``: what it trains, what it takes from before, and what it writes; on runs of seconds."""

import json
import shutil
import signal
import xml.etree.ElementTree
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from dann.infer.errors import DannError, Interrupted, UnavailableError, UsageError
from dann.train.config import with_method
from dann.train.loop import fit
from dann.train.reporting import compare as module
from dann.train.reporting.compare import compare
from dann.train.reporting.compare_table import Comparison
from dann.train.run_dir import find_run
from dann.train.settings import TrainConfig

ROWS = ["source-only", "dann", "target"]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def config(configure: Callable[..., TrainConfig], sets: dict[str, str]) -> TrainConfig:
    """Two epochs, evaluated after each, on a target that has labels."""
    return configure({"data.target": sets["target"], "data.holdout": 0.25}, steps=4, eval_every=1)


@pytest.fixture
def compared(config: TrainConfig, runs: Path) -> Callable[..., Comparison]:
    """``compare`` with two seeds under the name ``bars``."""

    def call(**changes: Any) -> Comparison:
        return compare(**{"config": config, "seeds": [0, 1], "runs": runs, "name": "bars", **changes})

    return call


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shelf") / "runs"


@pytest.fixture
def finished(shelf: Path, compared: Callable[..., Comparison], runs: Path) -> Path:
    """The folder of a finished comparison with seed 0: trained once, and copied for each test."""
    if not shelf.exists():
        compared(seeds=[0])
        shutil.copytree(runs, shelf)
    else:
        shutil.copytree(shelf, runs)
    return runs / "bars"


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the runs that are begun or resumed, as ``fit …`` and ``resume …``."""
    calls: list[str] = []
    fit, resume = module.fit, module.resume

    def record_fit(config: TrainConfig, **options: Any) -> Any:
        calls.append(f"fit {options['name']}")
        return fit(config, **options)

    def record_resume(run: Any, **options: Any) -> Any:
        calls.append(f"resume {run.root.name}")
        return resume(run, **options)

    monkeypatch.setattr(module, "fit", record_fit)
    monkeypatch.setattr(module, "resume", record_resume)
    return calls


def interrupting(at_run: int, at_step: int) -> dict[str, Any]:
    """Callbacks that interrupt at a step of the run of that number."""
    begun: list[str] = []

    def on_step(done: int, total: int, numbers: dict[str, Any]) -> None:
        if len(begun) == at_run and done == at_step:
            signal.raise_signal(signal.SIGINT)

    return {"on_step": on_step, "on_message": begun.append}


def test_every_row_is_an_ordinary_run_for_each_seed(compared, config: TrainConfig, runs: Path):
    found = compared(methods=["mcc", "dann"], seeds=[1])
    folders = {folder.name for folder in (runs / "bars").iterdir() if folder.is_dir()}
    assert folders == {"source-only-s1", "mcc-s1", "dann-s1", "target-s1"}
    assert [row.mode for row in found.rows] == ["source", "dann", "dann", "target"]
    stored = find_run("mcc-s1", runs / "bars").read_config()[0]
    assert replace(stored, data=config.data) == replace(with_method(config, "mcc"), seed=1)


def test_accuracies_are_those_that_the_runs_report(compared, config: TrainConfig, runs: Path, tmp_path: Path):
    found = compared(seeds=[3])
    alone = fit(replace(config, mode="source", seed=3), runs=tmp_path / "alone").scores
    assert alone.source is not None and alone.target is not None
    (cell,) = found.source_only.cells
    assert (cell.last.source, cell.last.target) == (alone.source.accuracy, alone.target.accuracy)
    assert cell.recall == alone.target.recall
    assert list(cell.target_at) == [2, 4] and cell.target_at[4] == cell.last.target
    assert cell.best == max(accuracy or 0 for accuracy in cell.target_at.values())


def test_three_files_say_what_was_found(finished: Path, compared):
    found, folder = compared(seeds=[0], command="dann compare --name bars"), finished
    assert (folder / "compare.md").read_text(encoding="utf-8") == found.to_markdown()
    assert json.loads((folder / "compare.json").read_text(encoding="utf-8")) == json.loads(json.dumps(found.to_json()))
    assert xml.etree.ElementTree.parse(folder / "compare.svg").getroot().tag.endswith("svg")
    assert "dann compare --name bars" in found.to_markdown()
    assert not [file.name for file in folder.iterdir() if file.name.endswith((".part", ".tmp"))]


def test_the_latest_run_stays_the_one_outside(finished: Path, compared, config: TrainConfig, runs: Path):
    outside = fit(config, runs=runs, name="outside").run
    compared()
    assert find_run(None, runs).root == outside.root


def test_finished_runs_are_read_and_only_missing_ones_trained(finished: Path, compared, trained: list[str]):
    trained.clear()
    messages: list[str] = []
    assert compared(seeds=[0, 1], on_message=messages.append).seeds == [0, 1]
    assert trained == [f"fit {row}-s1" for row in ROWS]
    titles = ("source only", "dann", "trained on target")  # a seed is complete before the next one begins
    runs = [f"{title}, seed {seed}" for seed in (0, 1) for title in titles]
    assert messages == [f"run {number} of 6: {run}" for number, run in enumerate(runs, start=1)]


def test_the_precision_that_auto_stood_for_is_no_other_setting(
    finished: Path, compared, config: TrainConfig, trained: list[str]
):
    trained.clear()
    compared(config=replace(config, amp="auto"), seeds=[0])
    assert trained == []
    with pytest.raises(UsageError, match="trained with other settings .amp 'off' instead of 'bf16'"):
        compared(config=replace(config, amp="bf16"), seeds=[0])


def test_paths_are_the_same_however_they_are_written(
    finished: Path, compared, config: TrainConfig, trained: list[str], monkeypatch: pytest.MonkeyPatch
):
    trained.clear()
    monkeypatch.chdir(Path(config.data.source).parent)
    relative = replace(config.data, source="source.npz", target="target.npz")
    compared(config=replace(config, data=relative), seeds=[0])
    assert trained == []


def test_a_stopped_comparison_goes_on_where_it_was(compared, trained: list[str], runs: Path):
    with pytest.raises(Interrupted, match="the same command goes on") as caught:
        compared(seeds=[0], **interrupting(at_run=2, at_step=3))
    assert caught.value.exit_code == 130
    assert trained == ["fit source-only-s0", "fit dann-s0"]
    assert not (runs / "bars" / "compare.json").exists()
    trained.clear()
    stopped = compared(seeds=[0])
    assert trained == ["resume dann-s0", "fit target-s0"]
    assert stopped.rows == compared(seeds=[0]).rows
    unbroken = compared(seeds=[0], name="unbroken")
    assert [row.targets for row in stopped.rows] == [row.targets for row in unbroken.rows]


@pytest.mark.parametrize("kept", [{"config.json"}, {"config.json.part"}, set()])
def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(kept: set[str], finished: Path, compared):
    whole, folder = compared(seeds=[0]), finished / "dann-s0"
    (folder / "config.json.part").write_text('{"sch', encoding="utf-8")
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.name not in kept:
            path.rmdir() if path.is_dir() else path.unlink()
    assert compared(seeds=[0]).rows[1].targets == whole.rows[1].targets


def test_the_checkpoint_of_a_finished_run_may_be_deleted(finished: Path, compared, trained: list[str]):
    for file in (finished / "dann-s0" / "checkpoints").iterdir():
        file.unlink()
    trained.clear()
    compared(seeds=[0])
    assert trained == []


@pytest.mark.parametrize("change", ["batch_size", "second_view"])  # a plain value, and a table that was not there
def test_runs_with_other_settings_are_refused_and_kept(change: str, finished: Path, compared, config: TrainConfig):
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    other = replace(config, batch_size=6) if change == "batch_size" else replace(config, second_view=config.augment)
    with pytest.raises(UsageError, match=f"source-only-s0.*{change}.*another --name, or delete"):
        compared(config=other, seeds=[0])
    assert before == {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}


def test_somebody_elses_folder_is_left_alone(compared, runs: Path):
    notes = runs / "bars" / "source-only-s0" / "notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        compared(seeds=[0])
    assert notes.read_text() == "mine"


def test_without_target_labels_there_is_no_oracle_and_the_table_says_so(
    compared, config: TrainConfig, sets, runs: Path
):
    unlabelled = replace(config, data=replace(config.data, target=sets["unlabelled"]))
    messages: list[str] = []
    found = compared(config=unlabelled, seeds=[0], on_message=messages.append)
    assert [row.title for row in found.rows] == ["source only", "dann"]
    assert found.oracle is None
    (note,) = [message for message in messages if "target labels" in message]
    assert "has no labels" in note and note in (runs / "bars" / "compare.md").read_text(encoding="utf-8")


def test_mode_and_seed_of_the_settings_do_not_matter(finished: Path, compared, config: TrainConfig, trained: list[str]):
    trained.clear()
    compared(config=replace(config, mode="target", seed=9), seeds=[0])
    assert trained == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seeds": []}, "at least one"),
        ({"seeds": [1, 1]}, "none twice"),
        ({"methods": ["dann", "dann"]}, "none twice"),
        ({"methods": ["dan"]}, "did you mean 'dann'"),
        ({"name": "latest"}, "'latest'"),
        ({"name": "a/b"}, "'a/b'"),
        ({"name": ".."}, "'..'"),
        ({"name": ""}, "''"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_trained(changes: dict[str, Any], says: str, compared, runs):
    with pytest.raises(UsageError, match=says):
        compared(**changes)
    assert not runs.exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"target": None}, "needs target images"), ({"test": None}, "--test"), ({"target": "nowhere"}, "nowhere")],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_trained(
    settings: dict[str, Any], says: str, compared, config: TrainConfig, runs: Path
):
    with pytest.raises(UsageError, match=says):
        compared(config=replace(config, data=replace(config.data, **settings)))
    assert not runs.exists()


def test_the_name_of_a_run_is_refused(compared, config: TrainConfig, runs: Path):
    fit(config, runs=runs, name="bars")
    with pytest.raises(UsageError, match="is a run"):
        compared()


def test_several_processes_are_refused(compared, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="torchrun"):
        compared()


def digits(folder: Path) -> dict[str, str]:
    """Settings for handwritten digits: 800 white on black, and 997 others, bright on a ground of some colour."""
    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(images))
    labels, ink_NHW1 = labels[order], images[order].reshape(-1, 8, 8, 1).repeat(2, axis=1).repeat(2, axis=2) / 16
    ground, bright = (rng.uniform(*between, (len(labels), 1, 1, 3)) for between in ((0.2, 0.6), (0.8, 1.0)))
    coloured = ground + (bright - ground) * ink_NHW1 + rng.normal(0, 0.03, (*ink_NHW1.shape[:3], 3))
    parts = {
        "source": (ink_NHW1, slice(800)),
        "target": (coloured, slice(800, 1400)),
        "test": (coloured, slice(1400, None)),
    }
    for name, (pixels, part) in parts.items():
        x = (pixels[part] * np.ones(3) * 255).clip(0, 255).astype(np.uint8)
        np.savez(folder / f"{name}.npz", x=x, y=labels[part])
    return {f"data.{name}": str(folder / f"{name}.npz") for name in parts}


@pytest.mark.slow
def test_dann_closes_most_of_the_gap_between_two_sets_of_digits(configure, runs: Path, tmp_path: Path):
    network = {"model.width": 0.5, "model.label_hidden": [32], "model.domain_hidden": [32]}
    optimiser = {"optimiser.name": "adam", "optimiser.lr": 0.003}
    settings = {**digits(tmp_path), **network, **optimiser, "data.holdout": 0.1}
    config = configure(settings, steps=200, batch_size=32, eval_every=0)
    found = compare(config, seeds=[0, 1], runs=runs, name="digits")
    source_only, dann, _ = found.rows
    # 0.69 against 0.97, and 0.94 of the gap, where this was written
    assert np.mean(np.array(dann.targets) - np.array(source_only.targets)) > 0.15
    assert np.mean(np.array(found.gap_closed(dann))) > 0.7


def test_a_run_that_diverges_leaves_a_dash_and_the_others_go_on(compared, runs: Path, monkeypatch: pytest.MonkeyPatch):
    fit, weights = module.fit, runs.parent / "huge.safetensors"
    save_file({"domain_classifier.0.bias": torch.full((6,), 3e38)}, weights)  # finite, and too much for what follows

    def diverging(config: TrainConfig, **options: Any) -> Any:
        return fit(replace(config, init_from=str(weights)) if options["name"] == "dann-s0" else config, **options)

    monkeypatch.setattr(module, "fit", diverging)
    found = compared()
    source_only, dann, target = found.rows
    assert None not in source_only.targets + target.targets
    assert dann.targets[0] is None and dann.targets[1] is not None
    (failure,) = found.failures
    assert failure.startswith("dann-s0 failed: the loss is not finite at step 1")
    markdown = (runs / "bars/compare.md").read_text()
    assert failure in markdown and "| dann | – | – |" in markdown
    stored = json.loads((runs / "bars/compare.json").read_text())
    assert stored["failures"] == [failure] and stored["rows"][1]["runs"][0]["failure"] in failure
    assert (runs / "bars/compare.svg").is_file()


@pytest.mark.parametrize("error", [UsageError("no such folder"), UnavailableError("no such device")])
def test_what_no_run_can_do_ends_the_comparison(error: DannError, compared, monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(module, "fit", refuse)
    with pytest.raises(type(error), match="no such"):
        compared()
