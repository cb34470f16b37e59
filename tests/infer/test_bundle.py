import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dann.infer.bundle import (
    MANIFEST,
    SCHEMA,
    Artefact,
    BundleError,
    Manifest,
    TensorSpec,
    is_one_line,
    is_plain_relative,
    read_bundle,
)
from dann.infer.errors import UsageError
from dann.infer.preprocess import PreprocessSpec

VALID = Manifest(
    classes=("cat", "dog"),
    preprocess=PreprocessSpec(height=8, width=8),
    artefacts=(
        Artefact(
            file="model.onnx",
            sha256="0" * 64,
            bytes=451,
            format="onnx",
            opset=20,
            inputs=(TensorSpec(name="images", dtype="uint8", shape=("batch", 8, 8, 3)),),
            outputs=(TensorSpec(name="probabilities", dtype="float32", shape=("batch", 2)),),
            batch={"min": 1, "opt": 32, "max": None},
            requires={"onnxruntime": ">=1.20"},
            verdict={"max_abs_logit": 1e-6},
        ),
    ),
    provenance={"dann": "0.1.0"},
)

# property tests -------------------------------------------------------------------------------------------------

text = st.text(st.characters(codec="utf-8"), max_size=12)
side = st.integers(1, 4096)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3), max_leaves=6
)
json_objects = st.dictionaries(text, json_values, max_size=3)
tensors = st.builds(
    TensorSpec,
    name=text,
    dtype=st.sampled_from(["uint8", "float32"]),
    shape=st.lists(side | st.just("batch"), max_size=4).map(tuple),
)
artefacts = st.builds(
    Artefact,
    file=st.sampled_from(["model.onnx", "openvino/model.xml", "a b ü.engine"]),
    sha256=text,
    bytes=st.integers(0),
    format=text,
    role=text,
    precision=text,
    opset=st.none() | side,
    inputs=st.lists(tensors, max_size=2).map(tuple),
    outputs=st.lists(tensors, max_size=2).map(tuple),
    batch=st.fixed_dictionaries({key: st.none() | side for key in ("min", "opt", "max")}),
    requires=st.dictionaries(text, text, max_size=2),
    verdict=json_objects,
)
manifests = st.builds(
    Manifest,
    classes=st.lists(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=9).filter(is_one_line),
        min_size=2,
        max_size=4,
        unique=True,
    ).map(tuple),
    preprocess=st.builds(
        PreprocessSpec,
        height=side,
        width=side,
        resize=st.sampled_from(["stretch", "crop", "letterbox"]),
        interpolation=st.sampled_from(["area", "linear", "cubic"]),
    ),
    artefacts=st.lists(artefacts, max_size=2).map(tuple),
    provenance=json_objects,
    schema=st.just(SCHEMA),
)


@given(manifests)
def test_a_manifest_survives_writing_and_reading(manifest):
    assert Manifest.from_json(manifest.to_json()) == manifest


@given(st.text() | json_values.map(json.dumps))
def test_garbage_is_refused_as_a_damaged_bundle(garbage):
    with pytest.raises(BundleError):
        Manifest.from_json(garbage)


@given(st.data())
def test_a_manifest_with_one_wrong_value_is_refused_or_usable(data):
    tree = json.loads(VALID.to_json())
    *parents, last = data.draw(st.sampled_from(list(_places(tree))))
    node = tree
    for key in parents:
        node = node[key]
    if data.draw(st.booleans()):
        node[last] = data.draw(json_values)
    else:
        del node[last]
    try:
        manifest = Manifest.from_json(json.dumps(tree))
    except BundleError:
        return
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert all(isinstance(name, str) for name in manifest.classes)
    assert isinstance(manifest.preprocess.height, int)
    assert all(is_plain_relative(artefact.file) for artefact in manifest.artefacts)


def _places(tree, path=()):
    """The path of every value below ``tree``."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from _places(value, (*path, key))


# the manifest ---------------------------------------------------------------------------------------------------


def wrong(**changes) -> str:
    return json.dumps(json.loads(VALID.to_json()) | changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not a dann manifest"),
        (wrong(schema="1"), "not a dann manifest"),
        (wrong(schema=True), "not a dann manifest"),
        (wrong(schema=SCHEMA + 1), "has schema 2, this dann reads 1; upgrade dann or re-export"),
        (wrong(schema=0), "has schema 0"),
        (wrong(classes="ab"), "wrong field"),
        (wrong(classes=[1, 2]), "wrong field"),
        (wrong(classes=["a"]), "two or more different names"),
        (wrong(classes=["a", "a"]), "two or more different names"),
        (wrong(classes=["a", ""]), "can be printed"),
        (wrong(classes=["a", "\ud800"]), "can be printed"),
        (wrong(preprocess={"height": 8}), "wrong field"),
        (wrong(preprocess={"height": 0, "width": 8}), "at least 1"),
        (wrong(preprocess={"height": 8.5, "width": 8}), "whole pixels"),
        (wrong(preprocess={"height": 8, "width": 8, "resize": "squash"}), "unknown resize mode 'squash'"),
        (wrong(artefacts=[{}]), "wrong field"),
    ],
)
def test_a_wrong_manifest_is_refused_with_its_reason(text, message):
    with pytest.raises(BundleError, match=message) as raised:
        Manifest.from_json(text, where="m/manifest.json")
    assert "m/manifest.json" in str(raised.value) or "the manifest" in str(raised.value)
    assert raised.value.exit_code == 1


@pytest.mark.parametrize("file", ["../x.onnx", "/etc/passwd", "a/../../x", "C:x", "a\\b", "", "a//b", "x\0"])
def test_an_artefact_outside_the_bundle_is_refused(file):
    with pytest.raises(BundleError, match="not a path inside the bundle"):
        replace(VALID, artefacts=(replace(VALID.artefacts[0], file=file),))


def test_an_artefact_that_was_not_exported_is_named_with_those_that_were():
    with pytest.raises(UsageError, match="no onnx/fp16/classifier artefact; it has: onnx/fp32/classifier"):
        VALID.artefact(precision="fp16")
    assert VALID.artefact() is VALID.artefacts[0]


def test_float32_is_taken_where_nothing_is_asked_for_and_what_there_is_without_it():
    [full] = VALID.artefacts
    half = replace(full, file="model.fp16.onnx", precision="fp16")
    both = replace(VALID, artefacts=(half, full))
    assert (both.artefact(), both.artefact(precision="fp16")) == (full, half)
    alone = replace(VALID, artefacts=(half,))
    assert alone.artefact() is half
    with pytest.raises(UsageError, match="no onnx/fp32/classifier artefact; it has: onnx/fp16/classifier"):
        alone.artefact(precision="fp32")


# the folder -----------------------------------------------------------------------------------------------------


def test_a_bundle_is_read_with_its_file_checked(bundle):
    opened = read_bundle(bundle)
    assert opened.manifest.classes == ("red", "green", "blue")
    assert opened.file(opened.manifest.artefact()) == bundle / "model.onnx"


@pytest.mark.parametrize("where", ["missing", ".", "file.txt"])
def test_where_there_is_no_bundle_the_usage_is_wrong(tmp_path, where):
    (tmp_path / "file.txt").touch()
    with pytest.raises(UsageError, match="no bundle at"):
        read_bundle(tmp_path / where)


def test_a_manifest_that_is_not_text_is_refused(bundle):
    (bundle / MANIFEST).write_bytes(b"\xff\xfe")
    with pytest.raises(BundleError, match="not UTF-8"):
        read_bundle(bundle)


@pytest.mark.parametrize("damage", ["flip a byte", "cut", "append", "remove"])
def test_a_damaged_model_file_is_refused(bundle: Path, damage):
    model = bundle / "model.onnx"
    data = bytearray(model.read_bytes())
    changed = copy.copy(data)
    changed[100] ^= 1
    if damage == "remove":
        model.unlink()
    else:
        model.write_bytes({"flip a byte": changed, "cut": data[:-1], "append": data + b"\0"}[damage])
    opened = read_bundle(bundle)
    with pytest.raises(BundleError, match="missing" if damage == "remove" else "SHA-256 differs") as raised:
        opened.file(opened.manifest.artefact())
    assert raised.value.exit_code == 1


@pytest.mark.parametrize("name", ["suv", "a b", "Lada\u00a0Niva", "\u0646\u200c\u0645", "车"])
def test_names_in_any_script_are_one_line(name):
    assert is_one_line(name)


@pytest.mark.parametrize("name", ["", " ", "\u00a0", "a\nb", "a\u2028b", "a\x1b[31m", "\ud800"])
def test_names_that_are_blank_or_break_a_line_are_not(name):
    assert not is_one_line(name)
