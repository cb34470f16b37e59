"""The published contract of a bundle: the schema, the page that describes it, and the reader say the same."""

import json
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from time import perf_counter
from typing import Any, get_args

import numpy as np
import pytest
from project import ROOT

from dann.infer import Classifier, preprocess
from dann.infer.bundle import MANIFEST, Artefact, BundleError, Manifest, read_bundle, sealed
from dann.infer.engine import FORMATS
from dann.infer.preprocess import PreprocessSpec
from dann.infer.verdict import ELSEWHERE, STANDARDS, Verdict

jsonschema = pytest.importorskip("jsonschema", reason="the schema is checked with the package jsonschema")

SCHEMA = json.loads((ROOT / "infer/manifest.schema.json").read_text())
PAGE = (ROOT / "docs/bundle.md").read_text()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
LONE = "\ud800"
VALUES = [
    None,
    True,
    0,
    1,
    -1,
    2,
    1.5,
    2.0,
    1e300,
    "",
    " ",
    "a",
    "a\n",
    "é\x85",
    LONE,
    "batch",
    "fp16",
    "triton",
    "RGB",
]
VALUES += ["0" * 64, "A" * 64, "0" * 63, "verify.npz", "../verify.npz", "./verify.npz", "a/..", "C:x", ">=1.2", "1 2"]
VALUES += ["8.0, 8.6", "8.0+", "8", [], {}, [1], [[]], ["batch"], ["batch", 2], ["verify.npz"], ["a", "a"], {"a": 1}]
_REMOVED, _ADDED = object(), object()
BEYOND = r"no hash of an artefact's files|expected min ≤ opt ≤ max|expected type|expected names that can be printed"
"""What the reader refuses and no schema can say: that an integer has no fraction, and that ``$`` is the very end."""


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_reader_and_the_schema_refuse_the_same(verifiable: Path):
    manifest = read_bundle(verifiable).manifest
    requires = {"tensorrt": "10.1", "compute_capability": "8.6"}
    artefact = replace(manifest.artefact(), opset=20, outputs=manifest.artefact().outputs[:1], requires=requires)
    manifest = replace(manifest, artefacts=(artefact,))
    tree = json.loads(manifest.to_json())
    outcomes = []
    for changed in _changed(tree):
        valid, refusal = VALIDATOR.is_valid(changed), _refusal(changed)
        assert valid == (refusal is None) or (valid and re.search(BEYOND, refusal or "")), (refusal, changed)
        outcomes.append((valid, refusal is None))
    assert outcomes.count((False, False)) > 1000 and outcomes.count((True, True)) > 50


def _changed(tree: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The tree with one value changed, removed or added, at every place but the seal."""
    text = json.dumps(tree)
    for *parents, last in _places(tree):
        for value in [_REMOVED, _ADDED, *VALUES]:
            changed = node = json.loads(text)
            for key in parents:
                node = node[key]
            if value is _REMOVED:
                del node[last]
            elif value is not _ADDED:
                node[last] = value
            elif isinstance(node, dict):
                node["added"] = node[last]
            yield changed


def _places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if key != "manifest_sha256":
            yield (*path, key)
        if isinstance(value, dict | list):
            yield from _places(value, (*path, key))


def _refusal(tree: dict[str, Any]) -> str | None:
    data = json.dumps(tree).encode()
    try:
        Manifest.from_json(sealed(data.replace(tree["manifest_sha256"].encode(), b"0" * 64, 1)))
    except BundleError as error:
        return str(error)
    return None


def test_the_names_in_the_schema_are_those_of_the_code():
    defined = SCHEMA["$defs"]["artefact"]["properties"]
    assert set(defined["format"]["enum"]) == {*FORMATS.values(), "triton"}
    assert defined["precision"]["enum"] == list(STANDARDS) and set(STANDARDS) == set(ELSEWHERE)
    assert {*FORMATS.values()} - {"onnx"} | {"onnxruntime", "compute_capability"} == set(
        defined["requires"]["properties"]
    )
    pixels = SCHEMA["properties"]["preprocess"]["properties"]
    for name, kind in (("resize", "Resize"), ("interpolation", "Interpolation"), ("decode", "Decoding")):
        assert pixels[name]["enum"] == list(get_args(getattr(preprocess, kind)))


def test_the_reader_knows_every_keyword_of_the_schema(verifiable: Path, monkeypatch: pytest.MonkeyPatch):
    """Or what the schema asks would not be checked."""
    monkeypatch.setitem(SCHEMA["$defs"]["count"], "maximum", 9)
    from dann.infer.json_schema import check

    with pytest.raises(NotImplementedError, match="'maximum'"):
        check(json.loads((verifiable / MANIFEST).read_bytes()), SCHEMA, SCHEMA, "it")


@pytest.mark.parametrize("change", [(b'"schema": 1', b'"schema": 2'), (b'"red"', b'"rot"'), (b'"min": 1', b'"min": 0')])
def test_a_manifest_of_fifty_artefacts_is_refused_at_once(verifiable: Path, change):
    manifest = read_bundle(verifiable).manifest
    many = replace(manifest, artefacts=50 * manifest.artefacts).to_json().replace(*change)
    if b'"min": 0' in many:
        stated = json.loads(many)["manifest_sha256"].encode()
        many = sealed(many.replace(stated, b"0" * 64, 1))
    seconds = []
    for _ in range(5):
        start = perf_counter()
        with pytest.raises(BundleError):
            Manifest.from_json(many)
        seconds.append(perf_counter() - start)
    assert min(seconds) < 0.05, "about a millisecond, 5 for a wrong field"


# the page -------------------------------------------------------------------------------------------------------


def test_the_manifest_on_the_page_is_valid_and_sealed():
    [shown] = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    VALIDATOR.validate(json.loads(shown))
    assert Manifest.from_json(shown.encode()).artefact().files == ("model.onnx",)


@pytest.mark.parametrize(
    ("head", "names"),
    [
        ("field", {"manifest_sha256", *(field.name for field in fields(Manifest))}),
        ("field of an artefact", {field.name for field in fields(Artefact)}),
        ("role", set(SCHEMA["$defs"]["artefact"]["properties"]["role"]["enum"])),
        ("format", set(SCHEMA["$defs"]["artefact"]["properties"]["format"]["enum"])),
        ("name", set(SCHEMA["$defs"]["artefact"]["properties"]["requires"]["properties"])),
    ],
)
def test_each_table_of_the_page_has_every_name(head, names):
    assert _first_column(rf"\| {head} \| (?:type|input|files|value) \|.*") == names


def test_the_page_has_every_field_of_a_verdict():
    assert _first_column(r"\| field \| meaning \|") == {field.name for field in fields(Verdict)} | {"unverified"}


def _first_column(head: str) -> set[str]:
    [table] = re.findall(rf"^{head}\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return {name for row in table.splitlines() for name in re.findall(r"`([\w-]+)`", row.split(" | ")[0])}


def test_the_page_names_every_way_of_preprocessing():
    asked = [name for field in fields(PreprocessSpec) for name in get_args(field.type)]
    assert {"letterbox", "cubic", "reduced", "RGB"} <= set(asked)
    assert [name for name in asked if name not in PAGE and f"INTER_{name.upper()}" not in PAGE] == []


def test_the_examples_of_the_page_do_what_dann_does(verifiable: Path, draw, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(verifiable.parent)
    draw(Path("car.jpg"), np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8))
    check, classify = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(check, {})
    with Classifier.load(verifiable) as classifier:
        [prediction] = classifier.predict(["car.jpg"])
    _describe(verifiable)
    with pytest.raises(AssertionError, match=r"model\.onnx"):
        exec(check, {})
    given: dict[str, Any] = {}
    exec(classify, given)
    assert given["label"] == prediction.label
    assert given["probability"] == pytest.approx(prediction.probability, abs=1e-6)


def _describe(bundle: Path) -> None:
    """Append to ``model.onnx`` the ``metadata_props`` that an export has: field 14 of the message, pairs of strings."""
    fields = json.loads((bundle / MANIFEST).read_bytes())
    with open(bundle / "model.onnx", "ab") as model:
        for name in ("classes", "preprocess"):
            pair = _field(1, name.encode()) + _field(2, json.dumps(fields[name]).encode())
            model.write(_field(14, pair))


def _field(number: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else bytes([size % 128 + 128, size // 128])
    return bytes([number * 8 + 2]) + length + content
