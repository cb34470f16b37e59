import copy
import hashlib
import json
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dann.infer.bundle import (
    SCHEMA,
    Artefact,
    Bundle,
    BundleError,
    FileHash,
    Manifest,
    TensorSpec,
    file_hash,
    is_one_line,
    is_plain_relative,
    read_bundle,
    sealed,
)
from dann.infer.errors import UsageError
from dann.infer.preprocess import PreprocessSpec

VALID = Manifest(
    classes=("cat", "dog"),
    preprocess=PreprocessSpec(height=8, width=8),
    files={"model.onnx": FileHash(sha256="0" * 64, bytes=451)},
    artefacts=(
        Artefact(
            files=("model.onnx",),
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
lines = st.text(st.characters(codec="utf-8"), min_size=1, max_size=9).filter(is_one_line)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3), max_leaves=6
)
json_objects = st.dictionaries(text, json_values, max_size=3)
tensors = st.builds(
    TensorSpec,
    name=lines,
    dtype=st.sampled_from(["uint8", "float32"]),
    shape=st.lists(side, min_size=1, max_size=3).map(lambda sides: ("batch", *sides)),
)
names = st.sampled_from(["model.onnx", "openvino/model.xml", "a b ü.engine"])
hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)
files = st.dictionaries(names, st.builds(FileHash, sha256=hashes, bytes=st.integers(0)), min_size=1)
versions = st.sampled_from(["1.21", ">=1.21", "10.13.3.9.post1"])
artefacts = st.builds(
    Artefact,
    files=st.just(("model.onnx",)),
    format=st.sampled_from(["onnx", "openvino", "tensorrt", "tensorrt-rtx", "triton"]),
    role=st.sampled_from(["classifier", "feature_extractor", "label_classifier"]),
    precision=st.sampled_from(["fp32", "fp16", "bf16", "int8"]),
    opset=st.none() | side,
    inputs=st.tuples(tensors),
    outputs=st.lists(tensors, min_size=1, max_size=2).map(tuple),
    batch=st.lists(side, min_size=2, max_size=3).map(
        lambda sizes: dict(zip_longest(("min", "opt", "max"), sorted(sizes)))
    ),
    requires=st.dictionaries(st.sampled_from(["onnxruntime", "tensorrt-rtx"]), versions, max_size=2)
    | st.just({"compute_capability": "8.0, 8.6+"}),
    verdict=json_objects,
)
SEAL = json.loads(VALID.to_json())["manifest_sha256"].encode()


def as_json(tree: object) -> bytes:
    """A manifest of this content, sealed if it states the seal of ``VALID``."""
    return sealed(json.dumps(tree).encode().replace(SEAL, b"0" * 64, 1))


manifests = st.builds(
    Manifest,
    classes=st.lists(lines, min_size=2, max_size=4, unique=True).map(tuple),
    preprocess=st.builds(
        PreprocessSpec,
        height=side,
        width=side,
        resize=st.sampled_from(["stretch", "crop", "letterbox"]),
        interpolation=st.sampled_from(["area", "linear", "cubic"]),
    ),
    files=files.map(lambda found: found | VALID.files),
    artefacts=st.lists(artefacts, max_size=2).map(tuple),
    provenance=json_objects,
    schema=st.just(SCHEMA),
)


@given(manifests)
def test_a_manifest_survives_writing_and_reading(manifest):
    assert Manifest.from_json(manifest.to_json()) == manifest


@given(st.binary() | st.text().map(str.encode) | json_values.map(as_json))
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
        manifest = Manifest.from_json(as_json(tree))
    except BundleError:
        return
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert all(isinstance(name, str) for name in manifest.classes)
    assert isinstance(manifest.preprocess.height, int)
    assert all(is_plain_relative(name) for artefact in manifest.artefacts for name in artefact.files)


def _places(tree, path=()):
    """The path of every value below ``tree``."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from _places(value, (*path, key))


# the manifest ---------------------------------------------------------------------------------------------------


PREPROCESS = json.loads(VALID.to_json())["preprocess"]


def wrong(**changes) -> bytes:
    return as_json(json.loads(VALID.to_json()) | changes)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a dann manifest"),
        (wrong(schema="1"), "not a dann manifest"),
        (wrong(schema=True), "not a dann manifest"),
        (wrong(schema=SCHEMA + 1), "has schema 2, this dann reads 1; upgrade dann or re-export"),
        (wrong(schema=0), "has schema 0"),
        (wrong(classes="ab"), "wrong field"),
        (wrong(classes=[1, 2]), "wrong field"),
        (wrong(classes=["a"]), r"classes is \['a'\]; expected minItems 2"),
        (wrong(classes=["a", "a"]), "expected uniqueItems"),
        (wrong(classes=[[], []]), "wrong field"),
        (wrong(classes=["a", ""]), r"classes\[1\] is ''; expected pattern"),
        (wrong(classes=["a", "b\n"]), "can be printed"),  # Python's $ matches before it
        (wrong(preprocess={"height": 8}), r"the manifest.preprocess has no \['width', "),
        (wrong(preprocess=PREPROCESS | {"height": 0}), "height is 0; expected minimum 1"),
        (wrong(preprocess=PREPROCESS | {"height": True}), "height is True; expected type 'integer'"),
        (wrong(preprocess=PREPROCESS | {"height": 8.0}), "height is 8.0; expected type 'integer'"),
        (wrong(preprocess=PREPROCESS | {"resize": "squash"}), "resize is 'squash'; expected enum"),
        (wrong(artefacts=[{}]), r"the manifest.artefacts\[0\] has no \['files', "),
        (wrong(later=1), r"has \['later'\], which is not known"),
        (wrong(provenance=float("nan")), "not JSON .NaN is no number"),
        (wrong(files={}), r"no hash of an artefact's files \['model.onnx'\]"),
        (VALID.to_json().replace(b"cat", b"bat"), "not as it was written"),
        (VALID.to_json().replace(b'"manifest_sha256"', b'"sha256"'), "not as it was written"),
        (VALID.to_json()[:-1], "not as it was written"),
        (wrong(manifest_sha256=None), "not as it was written"),
        (wrong(manifest_sha256="\ud800"), "not as it was written"),
        (wrong(manifest_sha256="", provenance={"manifest_sha256": SEAL.decode()}), "not as it was written"),
        (VALID.to_json().replace(b'"schema": 1', b'"schema": 2'), "upgrade dann"),
    ],
)
def test_a_wrong_manifest_is_refused_with_its_reason(data, message):
    with pytest.raises(BundleError, match=message) as raised:
        Manifest.from_json(data, where="m/manifest.json")
    assert "m/manifest.json" in str(raised.value) or "the manifest" in str(raised.value)
    assert raised.value.exit_code == 1


def test_a_batch_that_no_size_fits_is_refused():
    [artefact] = VALID.artefacts
    with pytest.raises(BundleError, match="expected min ≤ opt ≤ max"):
        replace(VALID, artefacts=(replace(artefact, batch={"min": 1, "opt": 9, "max": 8}),))


@pytest.mark.parametrize("names", [("a",), ("a", "a")])
def test_classes_have_to_differ(names):
    with pytest.raises(BundleError, match="two or more different names"):
        replace(VALID, classes=names)


def test_a_number_that_json_lacks_is_not_written():
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace(VALID, provenance={"score": float("nan")}).to_json()


@pytest.mark.parametrize("file", ["../x.onnx", "./x", "/etc/passwd", "a/../../x", "C:x", "a\\b", "", "a//b", "x\0"])
def test_a_file_outside_the_bundle_is_refused(file):
    with pytest.raises(BundleError, match="not a path inside the bundle"):
        replace(VALID, files={**VALID.files, file: VALID.files["model.onnx"]})


def test_the_seal_is_the_hash_of_the_bytes_with_zeros_in_its_place():
    data = VALID.to_json()
    stated = json.loads(data)["manifest_sha256"]
    assert hashlib.sha256(data.replace(stated.encode(), b"0" * 64, 1)).hexdigest() == stated


def test_a_name_that_is_not_unicode_survives():
    named = replace(VALID, provenance={"folder": "caf\udce9"})
    assert Manifest.from_json(named.to_json()) == named


def test_an_artefact_that_was_not_exported_is_named_with_those_that_were():
    with pytest.raises(UsageError, match="no onnx/fp16/classifier artefact; it has: onnx/fp32/classifier"):
        VALID.artefact(precision="fp16")
    assert VALID.artefact() is VALID.artefacts[0]


def test_float32_is_taken_where_nothing_is_asked_for_and_what_there_is_without_it():
    [full] = VALID.artefacts
    half = replace(full, precision="fp16")
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


def test_every_file_of_an_artefact_is_checked(bundle: Path):
    (bundle / "weights.bin").write_bytes(b"123")
    manifest = read_bundle(bundle).manifest
    files = {**manifest.files, "weights.bin": file_hash(bundle / "weights.bin")}
    artefact = replace(manifest.artefact(), files=("model.onnx", "weights.bin"))
    opened = Bundle(bundle, replace(manifest, files=files, artefacts=(artefact,)))
    assert opened.file(artefact) == bundle / "model.onnx"
    (bundle / "weights.bin").write_bytes(b"124")
    with pytest.raises(BundleError, match="weights.bin is not the file that was exported"):
        opened.file(artefact)


@pytest.mark.parametrize("name", ["suv", "a b", "Lada\u00a0Niva", "\u0646\u200c\u0645", "车"])
def test_names_in_any_script_are_one_line(name):
    assert is_one_line(name)


@pytest.mark.parametrize("name", ["", " ", "\u00a0", "a\nb", "a\u2028b", "a\x1b[31m", "\ud800"])
def test_names_that_are_blank_or_break_a_line_are_not(name):
    assert not is_one_line(name)
