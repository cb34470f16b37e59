"""The traps of ``docs/correctness.md`` that are nowhere else at home, and that every test named there exists."""

import ast
import re
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from project import ROOT

from dann.infer.errors import Interrupted
from dann.train import checkpoint
from dann.train.loop import fit
from dann.train.run_dir import RunDir, find_run
from dann.train.settings import TrainConfig

Configure = Callable[..., TrainConfig]

# ---- the table ----------------------------------------------------------------------------------------------------

ROW = re.compile(r"^\| (?P<number>\d+) \|(?P<trap>[^|]+)\|(?P<handled>[^|]+)\|(?P<tests>[^|]+)\|$", re.MULTILINE)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
FILE = re.compile(r"\[[^\]]*\]\(\.\./([\w/.]+)\)")


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    text = (ROOT / "docs/correctness.md").read_text(encoding="utf-8")
    return [found.groupdict() for found in ROW.finditer(text)]


@cache
def names_in(file: str) -> set[str]:
    """The names of the test functions of a file."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def missing(cell: str) -> list[str]:
    """The tests named in a cell of the table that do not exist."""
    return [
        f"{file}::{name}"
        for file, name in TEST.findall(cell)
        if not (ROOT / file).is_file() or name not in names_in(file)
    ]


def test_every_trap_has_its_row(rows: list[dict[str, str]]):
    assert [int(row["number"]) for row in rows] == list(range(1, 25))


def test_every_row_names_where_it_is_handled_and_a_test(rows: list[dict[str, str]]):
    for row in rows:
        assert FILE.findall(row["handled"]), row
        assert TEST.findall(row["tests"]), row
        assert row["tests"].count("::") == len(TEST.findall(row["tests"])), row


def test_every_named_test_exists(rows: list[dict[str, str]]):
    assert [test for row in rows for test in missing(row["tests"])] == []


def test_a_test_that_does_not_exist_is_seen():
    here = "tests/train/test_traps.py"
    cell = f"`{here}::test_that_is_gone`, `tests/train/test_none.py::test_a`, `{here}::{names_in.__name__}`"
    assert missing(cell) == [
        f"{here}::test_that_is_gone",
        "tests/train/test_none.py::test_a",
        f"{here}::{names_in.__name__}",
    ]
    assert missing(f"`{here}::test_every_named_test_exists`") == []


# ---- 6: a head that ends in a softmax or a sigmoid learns badly ---------------------------------------------------


def test_at_lam_0_the_domain_classifier_learns_to_tell_the_domains(
    configure: Configure, large_sets: dict[str, str], tmp_path: Path
):
    data = {"source": large_sets["source"], "target": large_sets["unlabelled"], "test": large_sets["test"]}
    settings = {f"data.{name}": spec for name, spec in data.items()} | {"data.holdout": 0.3, "model.batch_norm": False}
    network = {"model.width": 0.5, "model.domain_hidden": [32], "optimiser.name": "adam", "optimiser.lr": 0.01}
    config = configure({**settings, **network, "adapt.lam_max": 0.0}, batch_size=32, steps=150, eval_every=0)
    assert (fit(config, runs=tmp_path).last["domain_accuracy"] or 0.0) > 0.8


# ---- 17 and 21: which checkpoint is kept, and who decides ---------------------------------------------------------

SELECTING = {"selection.criterion": "dev", "selection.gate": 1.0, "data.holdout": 0.3, "optimiser.lr": 0.1, "seed": 2}
"""A criterion that decides alone, and not for the last step."""


@pytest.fixture
def labellings(sets: dict[str, str], tmp_path: Path) -> list[str]:
    """The labelled target images with their own labels, and with all of them wrong."""
    found = []
    for turned in (False, True):
        found.append(str(tmp_path / f"test-{turned}.npz"))
        with np.load(sets["test"]) as stored:
            np.savez(found[-1], x=stored["x"], y=stored["y"] ^ turned, classes=stored["classes"])
    return found


def test_target_labels_never_decide_which_checkpoint_is_kept(
    configure: Configure, labellings: list[str], tmp_path: Path
):
    right, wrong = (fit(configure({**SELECTING, "data.test": test}, steps=15), runs=tmp_path) for test in labellings)
    assert right.selected["target_accuracy"] != wrong.selected["target_accuracy"]
    assert right.selected["step"] == wrong.selected["step"]
    assert right.run.selected.read_bytes() == wrong.run.selected.read_bytes()


def network_in(file: Path) -> dict[str, torch.Tensor]:
    return {name: value for name, value in checkpoint.read(file)[1].items() if name.startswith("network.")}


def test_the_checkpoint_that_is_kept_is_of_the_step_that_was_selected(configure: Configure, tmp_path: Path):
    config = configure(SELECTING, steps=15)
    result = fit(config, runs=tmp_path)
    step = result.selected["step"]
    assert step != result.last["step"], "the last step is selected, so this proves nothing: choose another seed"
    assert checkpoint.read(result.run.selected)[0]["step"] == step

    def stop(done: int, total: int, numbers: dict[str, Any]) -> None:
        if done == step:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        fit(config, runs=tmp_path, name="stopped", on_step=stop)
    stopped: RunDir = find_run("stopped", tmp_path)
    found, expected = network_in(result.run.selected), network_in(stopped.last)
    assert found.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []


# ---- 20: nothing is unpickled -------------------------------------------------------------------------------------

UNPICKLING = re.compile(
    r"import pickle|pickle\.load|allow_pickle=True|weights_only=False|torch\.load\((?!.*weights_only)"
)


def test_no_module_unpickles():
    sources = [file for folder in ("infer", "train", "export") for file in (ROOT / folder).rglob("*.py")]
    assert sources
    assert [str(file) for file in sources if UNPICKLING.search(file.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("line", ["torch.load(file)", "import pickle", "np.load(file, allow_pickle=True)"])
def test_unpickling_is_seen(line: str):
    assert UNPICKLING.search(line)
    assert not UNPICKLING.search("torch.load(file, map_location='cpu', weights_only=True)")
