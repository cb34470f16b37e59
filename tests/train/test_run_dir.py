"""Run folders: made, found, named the latest, and read back."""

import json
import os
from pathlib import Path

import pytest

from dann.infer.errors import DannError, UsageError
from dann.train.config import resolve
from dann.train.run_dir import CONFIG_SCHEMA, RunDir, create_run, find_run, mark_latest, write_json
from dann.train.settings import TrainConfig


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def finished(runs: Path, name: str) -> RunDir:
    run = create_run(runs, name, "default", TrainConfig(), {"classes": ["a", "b"]})
    mark_latest(run.root)
    return run


def test_the_latest_is_the_one_that_was_marked_last(runs: Path):
    first, second = finished(runs, "first"), finished(runs, "second")
    assert (runs / "latest").read_text(encoding="utf-8") == "second\n"
    assert find_run(None, runs).root == second.root != first.root


def test_a_default_name_that_is_taken_gets_a_number(runs: Path):
    names = [create_run(runs, None, "cars-dann-s0", TrainConfig(), {}).root.name for _ in range(3)]
    assert names == ["cars-dann-s0", "cars-dann-s0-2", "cars-dann-s0-3"]


def test_a_given_name_that_is_taken_is_refused_and_left_alone(runs: Path):
    finished(runs, "mine")
    finished(runs, "other")
    with pytest.raises(UsageError, match="exists already; choose another --name or --resume it"):
        create_run(runs, "mine", "default", TrainConfig(), {})
    assert (runs / "latest").read_text(encoding="utf-8") == "other\n"


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "-x", "with space", "é", "latest", "a\n"])
def test_names_that_are_no_plain_folder_names_are_refused(name: str, runs: Path):
    with pytest.raises(UsageError, match="may hold only letters"):
        create_run(runs, name, "default", TrainConfig(), {})
    assert not runs.exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "runs").write_text("in the way")
    with pytest.raises(DannError, match="the run folder .* cannot be made: Not a directory"):
        create_run(tmp_path / "runs", None, "default", TrainConfig(), {})


def test_a_run_whose_configuration_cannot_be_written_does_not_take_the_name(
    runs: Path, monkeypatch: pytest.MonkeyPatch
):
    def disk_full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("dann.train.run_dir.os.replace", disk_full)
        with pytest.raises(DannError, match="config.json cannot be written: No space left"):
            create_run(runs, "mine", "default", TrainConfig(), {})
    assert create_run(runs, "mine", "default", TrainConfig(), {}).config.is_file()


def test_a_latest_that_cannot_be_written_is_named(runs: Path):
    (runs / "latest").mkdir(parents=True)
    with pytest.raises(DannError, match="latest.* cannot be written: Is a directory"):
        mark_latest(runs / "mine")
    assert [path.name for path in runs.iterdir()] == ["latest"]


def test_a_run_is_found_by_name_and_by_path(runs: Path, monkeypatch: pytest.MonkeyPatch):
    run = finished(runs, "mine")
    assert find_run("mine", runs).root == run.root
    assert find_run(str(run.root), Path("elsewhere")).root == run.root
    monkeypatch.chdir(run.root)
    assert find_run(".", Path("elsewhere")).config.is_file()


def test_an_unknown_run_suggests_the_nearest(runs: Path):
    finished(runs, "cars-dann-s0")
    (runs / "no-run").mkdir()
    with pytest.raises(UsageError, match="unknown run 'cars-dan-s0'; did you mean 'cars-dann-s0'") as caught:
        find_run("cars-dan-s0", runs)
    assert "no-run" not in str(caught.value)


def test_no_run_yet(runs: Path):
    with pytest.raises(UsageError, match="there is no run in .* yet; train one with `dann train`"):
        find_run(None, runs)
    with pytest.raises(UsageError, match="unknown run 'mine'"):
        find_run("mine", runs)


def test_a_latest_run_that_was_deleted_is_named(runs: Path):
    run = finished(runs, "mine")
    run.config.unlink()
    with pytest.raises(UsageError, match="unknown run 'mine'"):
        find_run(None, runs)


def test_the_configuration_is_read_back_the_same(runs: Path):
    config = resolve("cars", overrides={"data.source": "bad\udcff name", "seed": 5})  # not UTF-8 on disk
    run = create_run(runs, "mine", "default", config, {"classes": ["ümläut", "车"]})
    read, about = run.read_config()
    assert read == config and about["classes"] == ["ümläut", "车"]
    assert "ümläut" in run.config.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"schema": 1}',
        b'{"schema": "x", "config": {}}',
        b'{"schema": 1, "config": 3}',
        b"\xff",
    ],
)
def test_a_damaged_configuration_is_refused(content: bytes, runs: Path):
    run = finished(runs, "mine")
    run.config.write_bytes(content)
    with pytest.raises(DannError, match="is damaged or not a dann configuration"):
        run.read_config()


def test_a_configuration_from_the_future_is_refused(runs: Path):
    run = finished(runs, "mine")
    about = json.loads(run.config.read_text(encoding="utf-8"))
    run.config.write_text(json.dumps({**about, "schema": CONFIG_SCHEMA + 1}), encoding="utf-8")
    with pytest.raises(DannError, match="upgrade dann"):
        run.read_config()


def test_what_is_evaluated_is_the_selected_checkpoint_where_there_is_one(runs: Path):
    run = finished(runs, "mine")
    assert run.evaluated == run.last == run.root / "checkpoints" / "last.safetensors"
    run.last.parent.mkdir()
    run.last.touch()
    assert run.evaluated == run.checkpoint("last")
    run.selected.touch()
    assert run.evaluated == run.checkpoint("selected") == run.root / "checkpoints" / "selected.safetensors"


def test_json_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "made" / "result.json"
    write_json(path, {"a": 1})
    assert path.read_text(encoding="utf-8") == '{\n  "a": 1\n}\n'

    def disk_full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", disk_full)
    with pytest.raises(DannError, match="result.json cannot be written: No space left"):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 1}
