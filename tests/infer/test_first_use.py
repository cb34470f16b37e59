from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dann.infer.bundle import read_bundle
from dann.infer.engine import Engine, open_engine
from dann.infer.errors import DannError
from dann.infer.first_use import check_first_use
from dann.infer.predict import Classifier

pytest.importorskip("onnxruntime", reason="needs an ONNX Runtime: dann[cpu] or dann[gpu]")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Counting:
    """An engine that counts its batches."""

    def __init__(self, engine: Engine):
        self.engine, self.batches = engine, 0
        self.artefact, self.description = engine.artefact, engine.description
        self.lanes, self.elsewhere = engine.lanes, engine.elsewhere

    def run(self, images_NHWC: np.ndarray) -> dict[str, np.ndarray]:
        self.batches += 1
        return self.engine.run(images_NHWC)

    def close(self) -> None:
        self.engine.close()


def opened(bundle: Path) -> Counting:
    return Counting(open_engine(read_bundle(bundle), device="cpu"))


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_first_use_is_checked_and_the_second_is_not(verifiable: Path, cache: Path):
    before = content(verifiable)
    first, second = opened(verifiable), opened(verifiable)
    check_first_use(read_bundle(verifiable), first)
    check_first_use(read_bundle(verifiable), second)
    assert first.batches > 0 and second.batches == 0
    assert content(verifiable) == before and len(list(cache.rglob("*"))) == 3  # dann/first-use/…


@pytest.mark.parametrize("change", ["runtime", "artefact"])
def test_another_runtime_or_artefact_is_a_first_use(verifiable: Path, cache: Path, change: str):
    bundle = read_bundle(verifiable)
    check_first_use(bundle, opened(verifiable))
    engine = opened(verifiable)
    if change == "runtime":
        engine.description += " with another driver"
    else:
        files = {name: replace(entry, sha256="0" * 64) for name, entry in bundle.manifest.files.items()}
        files["verify.npz"] = bundle.manifest.files["verify.npz"]
        bundle = replace(bundle, manifest=replace(bundle.manifest, files=files))
    check_first_use(bundle, engine)
    assert engine.batches > 0


def test_a_network_that_answers_otherwise_is_refused_each_time(bundle: Path, cache: Path, with_answers):
    with_answers(bundle, np.zeros((2, 8, 8, 3), np.uint8), np.array([[0, 0, 1.0], [0, 0, 1.0]]))
    for _ in range(2):
        with pytest.raises(DannError, match="model.onnx does not answer here what it did .*FAILED.*`dann verify`"):
            Classifier.load(bundle, device="cpu")


@pytest.mark.parametrize("cause", ["a file", "no home"])
def test_where_nothing_can_be_remembered_every_use_is_the_first(
    verifiable: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, cause: str
):
    if cause == "a file":
        cache.touch()
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    for _ in range(2):
        engine = opened(verifiable)
        check_first_use(read_bundle(verifiable), engine)
        assert engine.batches > 0


def test_a_bundle_without_answers_is_used_as_it_is(bundle: Path, cache: Path):
    engine = opened(bundle)
    check_first_use(read_bundle(bundle), engine)
    assert engine.batches == 0 and not cache.exists()
