"""What comes from outside, made up: manifests here, everything for longer by :mod:`fuzz_inputs`."""

import copy
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from good_manifest import MANIFEST
from hypothesis import given, settings
from hypothesis import strategies as st

from dann.infer.bundle import BundleError, Manifest, sealed

TESTS = Path(__file__).parents[1]
SECONDS = 15
GOOD = MANIFEST.to_json()
KEYS = sorted(set(re.findall(r'"(\w+)":', GOOD.decode())))
WORDS = ["batch", "fp32", "uint8", "../x", "a/b", "", "x\n", "0" * 64, ">=1.21", "8.0+", "\ud800", "RGB", "stretch"]
NUMBERS = (
    st.integers(-2, 2) | st.integers() | st.sampled_from([2**31, 2**63, 2**64, 10**400]) | st.floats(allow_nan=False)
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.sampled_from(WORDS) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner),
    max_leaves=12,
)
"""JSON that resembles a manifest."""


def load(data: bytes) -> Manifest | None:
    """The manifest, which can be written and read again; or nothing, where it is refused."""
    try:
        manifest = Manifest.from_json(data)
    except BundleError as error:
        assert len(str(error)) < 1000
        return None
    if re.search(rb"\binf", repr(manifest).encode("utf-8", "replace")) is None:
        assert Manifest.from_json(manifest.to_json()) == manifest
    return manifest


def seal(tree: dict[str, Any]) -> bytes:
    text = json.dumps({"manifest_sha256": "0" * 64, **{k: v for k, v in tree.items() if k != "manifest_sha256"}})
    return sealed(text.encode())


QUICKLY = settings(max_examples=150, deadline=2000)


@QUICKLY
@given(st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_whatever_a_manifest_holds_it_is_refused(data):
    assert load(data) is None


@QUICKLY
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=5))
def test_a_sealed_manifest_of_anything_is_loaded_or_refused(tree):
    load(seal({"schema": 1, **tree}))


@QUICKLY
@given(st.data())
def test_a_good_manifest_with_a_value_exchanged_is_loaded_or_refused(data):
    tree = copy.deepcopy(json.loads(GOOD))
    for _ in range(data.draw(st.integers(1, 3))):
        place = tree
        while True:
            key = data.draw(st.sampled_from([*place] if isinstance(place, dict) else range(len(place))))
            if not (isinstance(place[key], dict | list) and place[key]) or data.draw(st.integers(0, 2)) == 0:
                break
            place = place[key]
        edit = data.draw(st.sampled_from(["exchange", "drop", "add"]))
        if edit == "exchange" or len(place) == 1:
            place[key] = data.draw(VALUES)
        elif edit == "drop":
            del place[key]
        elif isinstance(place, dict):
            place[data.draw(st.sampled_from(KEYS))] = data.draw(VALUES)
        else:
            place.append(data.draw(VALUES))
    load(seal(tree))


@QUICKLY
@given(st.integers(0, len(GOOD) - 1), st.integers(0, 9), st.binary(max_size=4) | st.sampled_from([b"1e999", b"NaN"]))
def test_a_good_manifest_with_bytes_exchanged_is_loaded_or_refused(at, length, new):
    edited = GOOD[:at] + new + GOOD[at + length :]
    assert edited == GOOD or load(edited) is None, "its hash does not fit"
    load(sealed(re.sub(rb'("manifest_sha256": )"\w*"', rb'\1"' + b"0" * 64 + b'"', edited, count=1)))


def test_the_good_manifest_is_loaded():
    assert load(GOOD) is not None and load(seal(json.loads(GOOD))) is not None


@pytest.mark.parametrize(
    "data", [b"[" * 10**6, b'{"a":' * 10**5, b"1" * 10**6, b'"' + b"x" * 10**7, b"[" + b"1," * 10**6]
)
def test_a_manifest_that_is_deep_or_long_is_refused(data):
    assert load(data) is None


# by coverage ----------------------------------------------------------------------------------------------------


needs_atheris = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="needs atheris, which dann[dev] has on Linux"
)


def fuzz(target: str, folder: Path, code: str = "") -> "subprocess.CompletedProcess[str]":
    """``fuzz_inputs.py`` for some seconds; ``code`` runs before, and what fails is left in ``folder``."""
    options = [f"-max_total_time={SECONDS}", "-timeout=30", "-rss_limit_mb=3000", "-max_len=20000"]
    return subprocess.run(
        [sys.executable, "-c", f"import fuzz_inputs, sys\n{code}\nfuzz_inputs.main(*sys.argv[1:])", target, *options]
        + [f"-artifact_prefix={folder}/"],
        cwd=TESTS,
        capture_output=True,
        text=True,
        errors="replace",
    )


@needs_atheris
@pytest.mark.slow
@pytest.mark.parametrize("target", ["image", "manifest", "rows"])
def test_nothing_is_found_in_seconds_of_fuzzing(target, tmp_path):
    ran = fuzz(target, tmp_path)
    assert (ran.returncode, [*tmp_path.iterdir()]) == (0, []), ran.stdout[-2000:] + ran.stderr[-2000:]
    done = re.search(r"Done (\d+) runs", ran.stderr)
    assert done is not None and int(done[1]) > 500, ran.stderr[-2000:]


@needs_atheris
@pytest.mark.slow
def test_an_exception_is_found_by_fuzzing(tmp_path):
    ran = fuzz("rows", tmp_path, "fuzz_inputs.TARGETS['rows'] = lambda data: 1 / (b'!' not in data[9:])")
    assert ran.returncode != 0 and "ZeroDivisionError" in ran.stdout + ran.stderr
    assert b"!" in next(tmp_path.iterdir()).read_bytes()
