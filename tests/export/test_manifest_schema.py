"""A real export keeps the published contract, and the page's examples run on it."""

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from project import ROOT

from dann.export.formats import MAKERS
from dann.export.network import FeatureExtractor, InferenceNetwork, LabelClassifier
from dann.infer import Classifier
from dann.infer.bundle import MANIFEST

jsonschema = pytest.importorskip("jsonschema", reason="the schema is checked with the package jsonschema")

SCHEMA = json.loads((ROOT / "infer/manifest.schema.json").read_text())
ARTEFACT = SCHEMA["$defs"]["artefact"]["properties"]


def test_the_manifest_of_an_export_is_as_the_schema_says(exported):
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads((exported.root / MANIFEST).read_bytes()))


def test_the_schema_has_the_roles_and_precisions_that_are_exported():
    assert {module.role for module in (InferenceNetwork, FeatureExtractor, LabelClassifier)} == set(
        ARTEFACT["role"]["enum"]
    )
    assert {name for maker in MAKERS.values() for name in maker.precisions} == set(ARTEFACT["precision"]["enum"])


def test_the_examples_of_the_page_do_what_dann_does(exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("bundle").symlink_to(exported.root)
    assert cv2.imwrite("car.jpg", np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8))
    check, classify = re.findall(r"```python\n(.*?)```", (ROOT / "docs/bundle.md").read_text(), re.DOTALL)
    exec(check, {})
    given: dict[str, Any] = {}
    exec(classify, given)
    with Classifier.load(exported.root) as classifier:
        [prediction] = classifier.predict(["car.jpg"])
    assert given["label"] == prediction.label
    assert given["probability"] == pytest.approx(prediction.probability, abs=1e-6)
