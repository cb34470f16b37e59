"""``dann export`` and ``dann eval``: output, and what they refuse."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from command import DATA, TINY, dann, done, refused

from dann.train import checkpoint
from dann.train.run_dir import RunDir
from dann.train.trained import load_trained


def test_the_report_ends_with_the_bundle(finished: Path):
    ran = done("export", "--with-features", "--split", "--precision", "fp32", "--out", "bundle")
    lines = ran.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == [
        "model.onnx",
        "feature_extractor.onnx",
        "label_classifier.onnx",
    ]
    assert "verdict on model.onnx: passed" in lines[3] and lines[-1] == "bundle: bundle"


def test_a_network_that_half_precision_cannot_hold_is_left_out(finished: Path):
    run = RunDir(finished / "runs/tiny")
    _, classes, network = load_trained(run)
    with torch.no_grad():
        first, *_, last = (layer for layer in network.label_classifier if isinstance(layer, torch.nn.Linear))
        for tensor in first.parameters():
            tensor *= 1e6  # what is between the two is then beyond 65,504, the largest number of half precision
        last.weight /= 1e6
    checkpoint.save_network(run.selected, network, step=2, classes=classes)
    ran = dann("export", "--out", "bundle")
    assert ran.exit_code == 1 and "verdict on model.fp16.onnx: FAILED" in ran.stdout
    assert ran.stderr.startswith("error: model.fp16.onnx would not do what the trained network does")
    assert sorted(file.name for file in Path("bundle").iterdir()) == ["manifest.json", "model.onnx", "verify.npz"]
    done("infer", "--bundle", "bundle", "--test-loc", "labelled", "--out-path", "preds.csv")


def test_export_before_any_run_says_what_to_type(place: Path):
    refused(dann("export"), 2, "no run in 'runs' yet", "dann train")
    refused(dann("export", "--run", "mine"), 2, "unknown run 'mine'", "no run in 'runs' yet", "dann train")


@pytest.mark.parametrize(
    ("words", "exit_code", "parts"),
    [
        (["--run", "tinny"], 2, ["unknown run 'tinny'", "did you mean 'tiny'?"]),
        (["--batch", "1:2"], 2, ["'1:2'", "expected MIN:OPT:MAX"]),
        (
            ["--format", "trt", "--gpu", "sm68"],
            2,
            ["unknown GPU 'sm68'", "Known: sm120, sm121, sm75"],
        ),
        (["--precision", "bf16"], 2, ["bf16 is a precision of the format openvino alone"]),
        (["--format", "onxx"], 2, ["unknown export format 'onxx'", "did you mean 'onnx'?"]),
        (["--precision", "fp23"], 2, ["unknown precision 'fp23'", "did you mean 'fp32'?"]),
        (["--precision", ""], 2, ["unknown precision ''"]),
        (["--out", "no/where"], 2, ["'no/where'", "not a folder"]),
        (["--out", "labelled"], 2, ["'labelled' holds files that are no bundle's", "--out"]),
        (["--out", "/proc/bundle"], 1, ["'/proc/bundle' cannot be written"]),
        (["--verify-data", "nowhere/"], 2, ["'nowhere/' does not exist"]),
        (["--verify-data", "spoiled"], 1, ["none of ", " images can be read"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and value[0].startswith("--") else None,
)
def test_what_cannot_be_exported_is_refused_and_the_bundle_stays(
    words: list[str], exit_code: int, parts: list[str], finished: Path, spoil
):
    spoil(finished / "spoiled")
    before = (finished / "runs/tiny/bundle/manifest.json").read_bytes()
    refused(dann("export", *words), exit_code, *parts)
    assert (finished / "runs/tiny/bundle/manifest.json").read_bytes() == before
    assert len(list((finished / "labelled").rglob("*.png"))) == 16


def test_scores_are_printed_and_written(finished: Path):
    ran = done("eval")
    title, *rows = ran.stdout.partition("\n\n")[2].splitlines()
    assert title == "rows: true class, columns: predicted class"
    assert [row.split()[0] for row in rows] == ["night", "night", "noon"]  # the header, then a row a class
    assert ran.stderr == "written to runs/tiny/eval.json\n"
    scores = json.loads((finished / "runs/tiny/eval.json").read_text())
    assert {"accuracy", "recall", "confusion", "ece"} <= scores["target"].keys() and "domain_accuracy" in scores


@pytest.mark.parametrize(
    ("words", "exit_code", "parts"),
    [
        (["--data", "other"], 2, ["'other' has classes", "['dusk']", "the model knows ['night', 'noon']"]),
        (["--data", "nowhere/"], 2, ["'nowhere/' does not exist"]),
        (["--data", "labelled/noon"], 2, ["has no labels"]),
        (["--run", "tinny"], 2, ["did you mean 'tiny'?"]),
        (["--out-path", "no/where.json"], 2, ["--out-path is 'no/where.json'", "a folder that exists"]),
        (["--out-path", "labelled"], 2, ["--out-path is 'labelled'", "the name of a file"]),
        (["--device", "gpu"], 2, ["'gpu'", "auto, cpu, cuda"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and value[0].startswith("--") else None,
)
def test_what_cannot_be_evaluated_is_refused(words: list[str], exit_code: int, parts: list[str], finished: Path):
    shutil.copytree("labelled/noon", "other/dusk")
    refused(dann("eval", *words), exit_code, *parts)


def test_scores_that_cannot_be_written_are_still_printed(finished: Path):
    ran = dann("eval", "--out-path", "/proc/scores.json")
    assert (ran.exit_code, ran.stdout.count("accuracy")) == (1, 2)
    assert ran.stderr.startswith("error: /proc/scores.json cannot be written")


def test_a_run_without_labelled_photos_asks_for_some(place: Path):
    done("train", *DATA[:4], *TINY)
    refused(dann("eval"), 2, "names no labelled target images", "--data SPEC")


def test_a_run_that_was_damaged_is_named(finished: Path):
    weights = finished / "runs/tiny/checkpoints/last.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(dann("export"), 1, "last.safetensors")
    refused(dann("eval"), 1, "last.safetensors")


def test_photos_that_cannot_be_scored_are_named_and_change_the_exit_code(finished: Path, spoil):
    names = spoil(finished / "labelled/noon")
    ran = dann("eval", "--data", "labelled")
    assert ran.exit_code == 3 and all(f"left out 'labelled/noon/{name}': " in ran.stderr for name in names)
    scores = json.loads((finished / "runs/tiny/eval.json").read_text())
    assert scores["target"]["images"] == 16 and len(scores["skipped_images"]) == len(names)


@pytest.mark.parametrize("change", ["gone", "grown"])
def test_a_source_that_is_not_what_it_was_is_not_scored(change: str, place: Path):
    done("train", *DATA, *TINY)
    if change == "gone":
        (place / "renders").rename(place / "elsewhere")
    else:
        shutil.copy(place / "renders/noon/0.png", place / "renders/noon/new.png")
    ran = done("eval")
    assert "the source is not scored: " in ran.stderr
    assert "source  " not in ran.stdout and "target  " in ran.stdout


def test_named_photos_are_scored_when_everything_else_has_moved(place: Path):
    for old, new in (("renders", "train/source"), ("photos", "train/target"), ("labelled", "test")):
        shutil.copytree(place / old, place / "root" / new)
    done("train", "--layout", "split", "--data-root", "root", *TINY)
    shutil.rmtree(place / "root")
    refused(dann("eval"), 2, "the split layout of")
    ran = done("eval", "--data", "labelled")
    assert "the source is not scored: " in ran.stderr and "target  " in ran.stdout


def test_a_format_that_cannot_be_made_is_left_out_with_the_line_to_type(
    finished: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    ran = dann("export", "--format", "trt", "--precision", "fp32", "--out", "bundle")
    assert ran.exit_code == 4 and 'pip install "dann[trt-rtx]"' in ran.stderr
    assert "verdict on model.onnx: passed" in ran.stdout
    done("verify", "--bundle", "bundle")


def test_a_bundle_is_verified_where_it_is(finished: Path):
    ran = done("verify")
    lines = ran.stdout.splitlines()
    assert [line.partition(": passed, ")[0] for line in lines if "passed" in line][:1] == ["model.onnx on cpu"]
    model = finished / "runs/tiny/bundle/model.onnx"
    model.write_bytes(model.read_bytes()[:-1])
    ran = dann("verify")
    assert ran.exit_code == 1 and "model.onnx on cpu: BROKEN: " in ran.stdout
    assert ran.stderr.startswith("error: not what was exported: model.onnx on cpu")
