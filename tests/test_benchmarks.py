"""The rows of ``benchmarks/accuracy.toml``: settings that training accepts, and what the documents name. That of
inference runs."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from project import ROOT

from dann.infer.bundle import MANIFEST, Artefact, Manifest, TensorSpec, file_hash
from dann.infer.preprocess import PreprocessSpec
from dann.train import resolve

BENCHMARKS = ROOT / "benchmarks"
SCRIPT = BENCHMARKS / "accuracy.py"
ROWS = tomllib.loads(SCRIPT.with_suffix(".toml").read_text(encoding="utf-8"))
NAMES = [f"{pair}/{row}" for pair, rows in ROWS.items() for row in rows]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def accuracy():
    return script("accuracy")


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


# ---- inference -----------------------------------------------------------------------------------------------------


def infer(folder: Path, *words: str) -> tuple[str, dict]:
    """What ``benchmarks/infer.py`` prints, and the numbers of its one network."""
    quick = ["--count", "4", "--rounds", "1", "--seconds", "0.01", "--tries", "1", "--json", str(folder / "out.json")]
    command = [sys.executable, str(BENCHMARKS / "infer.py"), *quick, *words]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    [network] = json.loads((folder / "out.json").read_text())["networks"].values()
    return ran.stdout, network["numbers"]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """With one of the golden networks of ``tests/infer``."""
    root = tmp_path / "bundle"
    root.mkdir()
    shutil.copy(ROOT / "tests/infer/golden/colour.onnx", root / "model.onnx")
    outputs = [TensorSpec(name=name, dtype="float32", shape=("batch", 3)) for name in ("logits", "probabilities")]
    artefact = Artefact(
        files=("model.onnx",),
        format="onnx",
        inputs=(TensorSpec(name="images", dtype="uint8", shape=("batch", 8, 8, 3)),),
        outputs=(*outputs, TensorSpec(name="features", dtype="float32", shape=("batch", 3))),
        batch={"min": 1, "opt": 4, "max": None},
    )
    manifest = Manifest(
        classes=("red", "green", "blue"),
        preprocess=PreprocessSpec(height=8, width=8),
        files={"model.onnx": file_hash(root / "model.onnx")},
        artefacts=(artefact,),
    )
    (root / MANIFEST).write_bytes(manifest.to_json())
    return root


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_inference_is_measured_beside_its_limit_and_a_peer(bundle: Path, tmp_path: Path):
    words = ("--bundle", str(bundle), "--engines", "ort/fp32", "--peers", "cv2 loop, batch 32")
    printed, numbers = infer(tmp_path, *words)
    assert "4 images of 7" in printed and "| cv2 loop, batch 32 " in printed and "| first row " in printed
    limit = 1 / (1 / numbers["decoding alone"][0] + 1 / numbers["ort fp32 alone"][0])
    assert f"| joint limit with ort fp32                 | {limit:,.0f}" in printed
    share = numbers["dann infer, ort fp32"][0] / limit
    assert re.search(rf"^\| dann infer, ort fp32 +\| [\d,]+ +\| {share:.2f} ", printed, re.MULTILINE)
    assert numbers["memory with ort fp32"][0]["images"] == 4


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_inference_is_measured_with_a_network_of_its_own(tmp_path: Path):
    ways = "ort/fp32,openvino/fp32,ort/int8"
    peers = "torch DataLoader, cv2;torchvision ImageFolder"
    words = ("--models", "dann-mnist", "--size", "32", "--engines", ways, "--peers", peers)
    _, numbers = infer(tmp_path, *words)
    assert {"dann infer, ort fp32", "dann infer, openvino fp32", "dann infer, ort int8"} <= numbers.keys()
    assert set(peers.split(";")) <= numbers.keys()


@pytest.fixture
def disturbing(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """``rounds`` on a machine of one core, where others take half of the first second, and nothing of the second."""
    rounds = script("rounds")
    monkeypatch.setattr(rounds, "usable_cores", lambda: 1)
    monkeypatch.setattr(rounds, "_own_s", lambda: 0.0)
    monkeypatch.setattr(rounds, "_busy_s", iter([0.0, 0.5, 0.5, 0.5]).__next__)
    monkeypatch.setattr(rounds, "perf_counter", iter([0.0, 1.0, 1.0, 2.0]).__next__)
    yield rounds


def test_a_measurement_that_others_disturb_is_made_again(disturbing: ModuleType):
    found = disturbing.Rounds(tries=3)
    assert found.add("x", iter([1.0, 2.0]).__next__) == 2.0
    assert found.numbers == {"x": [2.0]} and found.others == {"x": [0.0]}


def test_after_the_last_try_the_least_disturbed_one_counts(disturbing: ModuleType):
    found = disturbing.Rounds(tries=1)
    found.add("x", iter([1.0]).__next__)
    assert found.numbers == {"x": [1.0]} and found.others == {"x": [0.5]}
