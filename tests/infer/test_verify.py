from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dann.infer.bundle import MANIFEST, Bundle, BundleError, file_hash, read_bundle
from dann.infer.verify import Checked, batch_sizes, verify_bundle

pytest.importorskip("onnxruntime", reason="needs an ONNX Runtime: dann[cpu] or dann[gpu]")


def by_device(bundle: Path | Bundle) -> dict[str, Checked]:
    bundle = bundle if isinstance(bundle, Bundle) else read_bundle(bundle)
    return {checked.device: checked for checked in verify_bundle(bundle)}


def test_what_answers_as_before_passes_and_is_timed(verifiable: Path):
    checked = by_device(verifiable)["cpu"]
    assert checked.name == "model.onnx" and checked.verdict is not None and not checked.broken
    assert checked.verdict.passed and checked.verdict.batch_sizes == (1, 2, 3, 4, 64) and checked.verdict.images == 2
    assert checked.milliseconds is not None and checked.milliseconds > 0
    assert str(checked).startswith("passed, max |Δ logit| ") and str(checked).endswith(" ms a batch of 4")


def test_what_answers_otherwise_is_broken(bundle: Path, with_answers):
    images_NHWC = np.zeros((2, 8, 8, 3), np.uint8)
    with_answers(bundle, images_NHWC, np.array([[0, 0, 1.0], [0, 0, 1.0]]))
    checked = by_device(bundle)["cpu"]
    assert checked.broken and checked.verdict is not None and str(checked).startswith("FAILED")


def test_a_device_that_is_not_there_is_no_fault_of_the_bundle(verifiable: Path):
    checked = by_device(verifiable)["cuda:0"]
    if checked.verdict is None:
        assert not checked.broken and str(checked).startswith("not run: ")


def test_a_file_that_changed_is_broken_and_the_others_are_still_checked(verifiable: Path):
    manifest = read_bundle(verifiable).manifest
    (verifiable / "second.onnx").write_bytes((verifiable / "model.onnx").read_bytes())
    second = replace(manifest.artefact(), files=("second.onnx",))
    files = {**manifest.files, "second.onnx": file_hash(verifiable / "second.onnx")}
    both = Bundle(verifiable, replace(manifest, files=files, artefacts=(manifest.artefact(), second)))
    (verifiable / "model.onnx").write_bytes(b"hello world")
    found = {checked.name: checked for checked in verify_bundle(both) if checked.device == "cpu"}
    assert found["model.onnx"].broken and "SHA-256 differs" in str(found["model.onnx"])
    assert not found["second.onnx"].broken


def test_the_reference_of_a_precision_that_was_not_stored_is_float32(verifiable: Path):
    manifest = read_bundle(verifiable).manifest
    other = replace(manifest, artefacts=(replace(manifest.artefact(), precision="bf16"),))
    checked = by_device(Bundle(verifiable, other))["cpu"]
    assert checked.verdict is not None and checked.verdict.passed


def test_what_only_others_run_is_passed_over(verifiable: Path):
    manifest = read_bundle(verifiable).manifest
    assert (
        by_device(Bundle(verifiable, replace(manifest, artefacts=(replace(manifest.artefact(), format="triton"),))))
        == {}
    )


def test_a_bundle_without_answers_says_so(bundle: Path):
    with pytest.raises(BundleError, match="has no verify.npz to compare with; re-export"):
        by_device(bundle)


@pytest.mark.parametrize("content", [b"", b"hello", "no fp32"])
def test_answers_that_cannot_be_read_are_named(verifiable: Path, content: bytes | str):
    file = verifiable / "verify.npz"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        np.savez(file, images=np.zeros((1, 8, 8, 3), np.uint8))
    manifest = read_bundle(verifiable).manifest
    manifest = replace(manifest, files={**manifest.files, "verify.npz": file_hash(file)})
    (verifiable / MANIFEST).write_bytes(manifest.to_json())
    with pytest.raises(BundleError, match="verify.npz cannot be read .*; re-export"):
        by_device(verifiable)


@pytest.mark.parametrize(
    ("batch", "sizes"),
    [
        ({"min": 1, "opt": 8, "max": None}, (1, 2, 3, 8, 64)),
        ({"min": 2, "opt": 3, "max": 3}, (2, 3)),
        ({"min": 5, "opt": 5, "max": 5}, (5,)),
    ],
)
def test_batches_are_those_that_the_artefact_takes(bundle: Path, batch: dict, sizes: tuple[int, ...]):
    assert batch_sizes(replace(read_bundle(bundle).manifest.artefact(), batch=batch)) == sizes
