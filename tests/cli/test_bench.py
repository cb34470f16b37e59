"""``dann bench``: tables, JSON, and what is refused."""

import json
import re
import shutil
from pathlib import Path

import pytest
from command import dann, done, refused

QUICK = ("--seconds", "0.01", "--images", "labelled", "--batch", "1,4", "--threads", "1")


def test_it_prints_tables_and_writes_all_as_json(finished: Path):
    ran = done("bench", *QUICK, "--engine", "ort", "--out-path", "bench.json")
    assert re.search(r"^\| ort +\| fp32 +\| cpu +\| 1 +\| 4 +\| 1 ", ran.stdout, re.MULTILINE)
    assert re.search(r"^\| ort +\| fp16 +\| cpu +\| 1 +\| 1 +\| 1 ", ran.stdout, re.MULTILINE)
    assert "\n16 images at 'labelled', " in ran.stdout and "bench: 5/5" in ran.stderr
    found = json.loads(Path("bench.json").read_text(encoding="utf-8"))
    assert [(time["place"]["precision"], time["batch"]) for time in found["engines"]] == [
        ("fp32", 1), ("fp32", 4), ("fp16", 1), ("fp16", 4),
    ]  # fmt: skip
    assert found["images"] in ran.stdout and found["packages"]["onnxruntime"]


def test_one_precision_can_be_chosen_and_progress_left_out(finished: Path):
    ran = done("bench", *QUICK, "--precision", "fp16", "--quiet")
    assert "| fp16 " in ran.stdout and "| fp32 " not in ran.stdout and ran.stderr == ""


def test_an_engine_that_cannot_run_here_is_refused(finished: Path, without_cuda):
    bundle = Path("runs/tiny/bundle")
    manifest = json.loads((bundle / "manifest.json").read_text())
    for artefact in manifest["artefacts"]:
        artefact["format"] = "tensorrt"
    write_sealed(bundle, manifest)
    ran = dann("bench", *QUICK, "--engine", "trt", "--quiet")
    refused(ran, 4, "nothing of what was asked for can run here", "model.fp16.onnx on cuda:0")


def test_a_damaged_network_exits_with_1_and_the_rest_is_told(finished: Path):
    Path("runs/tiny/bundle/model.fp16.onnx").write_bytes(b"damaged")
    ran = dann("bench", *QUICK, "--quiet")
    assert ran.exit_code == 1 and "| fp32 " in ran.stdout
    assert "BROKEN: model.fp16.onnx on cpu: " in ran.stdout
    assert ran.stderr.startswith("error: what should run here does not: model.fp16.onnx on cpu: ")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--batch", "1,x"], ["--batch is '1,x'", "expected numbers, as in 1,8"]),
        (["--threads", ""], ["--threads is ''"]),
        (["--threads", "0"], ["threads to measure with are 0"]),
        (["--engine", "openvino"], ["no openvino/classifier artefact"]),
        (["--out-path", "no/where.json"], ["'no'", "is not a folder"]),
        (["--images", "nowhere"], ["no such file or folder: 'nowhere'"]),
        (["--seconds", "0"], ["expected more than 0"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and value[0].startswith("--") else None,
)
def test_what_makes_no_sense_is_refused(words: list[str], parts: list[str], finished: Path):
    refused(dann("bench", *words), 2, *parts)


def test_a_run_without_a_bundle_says_what_to_type(finished: Path):
    shutil.rmtree("runs/tiny/bundle")
    refused(dann("bench"), 2, "has no bundle yet", "dann export")


def write_sealed(bundle: Path, manifest: dict) -> None:
    from dann.infer.bundle import MANIFEST, sealed

    manifest["manifest_sha256"] = "0" * 64
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (bundle / MANIFEST).write_bytes(sealed(text.encode()))
