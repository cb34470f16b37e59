"""The rows of ``benchmarks/accuracy.toml``: settings that training accepts, and what the documents name."""

import importlib.util
import re
import tomllib

import pytest
from project import ROOT

from dann.train import resolve

SCRIPT = ROOT / "benchmarks" / "accuracy.py"
ROWS = tomllib.loads(SCRIPT.with_suffix(".toml").read_text(encoding="utf-8"))
NAMES = [f"{pair}/{row}" for pair, rows in ROWS.items() for row in rows]


@pytest.fixture(scope="module")
def accuracy():
    spec = importlib.util.spec_from_file_location("accuracy", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", NAMES)
def test_every_row_resolves(name: str, accuracy):
    pair, row = name.split("/")
    settings = accuracy.settings_of(ROWS[pair], row)
    overrides = {key: value for key, value in settings.items() if key not in ("preset", "method")}
    assert resolve(settings.get("preset", pair), overrides=overrides, method=settings.get("method")).data.target


def test_a_row_takes_what_it_does_not_say_from_the_one_that_it_is_like(accuracy):
    rows = {"a": {"steps": 1, "lr": 2}, "b": {"like": "a", "lr": 3}, "c": {"like": "b", "steps": 4}}
    assert accuracy.settings_of(rows, "c") == {"steps": 4, "lr": 3}


@pytest.mark.parametrize("document", ["README.md", "docs/results.md"])
def test_documents_name_rows_that_exist(document: str):
    text = (ROOT / document).read_text(encoding="utf-8")
    commands = re.findall(r"benchmarks/accuracy\.py (.*?)--data-root", text)
    named = {word for command in commands for word in command.split() if not word.startswith("-")} - {"ROW"}
    named |= {name for name in re.findall(r"`([a-z-]+/[a-z0-9-]+)`", text) if name.split("/")[0] in ROWS}
    assert commands and named <= {*NAMES, *ROWS}
