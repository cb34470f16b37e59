"""The three commands, each finding what the one before left."""

import csv
import json
import os
from collections import Counter
from pathlib import Path

import cv2
import pytest
from command import DATA, TINY, dann, done, refused


def confusion(preds: Path, classes: list[str]) -> list[list[int]]:
    """Rows are the true classes, which the paths begin with, and columns the predicted ones."""
    with preds.open(encoding="utf-8", newline="") as file:
        pairs = Counter((row["path"].split("/")[0], row["label"]) for row in csv.DictReader(file))
    return [[pairs[true, predicted] for predicted in classes] for true in classes]


@pytest.mark.parametrize("mode", ["source", "dann", "target"])
def test_train_export_infer_follow_each_other_with_nothing_named(mode: str, place: Path):
    done("train", *DATA, *TINY, "--mode", mode)
    done("export")
    done("infer", "--test-loc", "labelled", "--out-path", "preds.csv")
    done("eval")
    scores = json.loads(Path(f"runs/custom-{mode}-s0/eval.json").read_text())["target"]
    assert confusion(place / "preds.csv", ["night", "noon"]) == scores["confusion"]
    assert scores["images"] == 16


def test_predictions_and_evaluation_agree_on_every_image(finished: Path):
    done("infer", "--test-loc", "labelled", "--out-path", "preds.csv")
    printed = done("eval", "--data", "labelled", "--out-path", "scores.json").stdout
    scores = json.loads(Path("scores.json").read_text())["target"]
    found = confusion(finished / "preds.csv", ["night", "noon"])
    assert found == scores["confusion"]
    assert found[0][0] + found[1][1] == scores["correct"]
    assert f"({scores['correct']}/16)" in printed
    assert all(sum(column) for column in zip(*found, strict=True)), "a network that says one class proves little"


def test_large_jpegs_are_reduced_while_they_are_decoded_everywhere_or_nowhere(place: Path):
    for png in (place / "labelled").rglob("*.png"):
        small_HWC = cv2.imread(str(png))
        assert small_HWC is not None
        large_HWC = cv2.resize(small_HWC, (320, 240), interpolation=cv2.INTER_CUBIC)
        assert cv2.imwrite(str(png.with_suffix(".jpg")), large_HWC)
        png.unlink()
    done("train", *DATA, *TINY, "--steps", "20", "--set", "data.decode=reduced", "--set", "data.interpolation=linear")
    done("export", "--verify-data", "labelled")
    manifest = json.loads(next(place.glob("runs/*/bundle/manifest.json")).read_text())
    assert manifest["preprocess"]["decode"] == "reduced"
    done("infer", "--test-loc", "labelled", "--out-path", "preds.csv", "--probs")
    done("eval")
    scores = json.loads(next(place.glob("runs/*/eval.json")).read_text())["target"]
    assert confusion(place / "preds.csv", ["night", "noon"]) == scores["confusion"]


def test_the_latest_run_is_the_one_that_is_used(finished: Path):
    done("train", *DATA, *TINY, "--name", "newer")
    done("export")
    assert (finished / "runs/newer/bundle/manifest.json").is_file()
    refused(dann("train", "--resume", "latest"), 2, "runs/newer", "is finished")


def test_inference_from_a_run_exports_it_first(place: Path):
    done("train", *DATA, *TINY, "--name", "fresh")
    ran = done("infer", "--checkpoint", "fresh", "--test-loc", "labelled", "--out-path", "preds.csv")
    assert "verdict on model.onnx: passed" in ran.stderr and ran.stdout == ""
    assert sum(map(sum, confusion(place / "preds.csv", ["night", "noon"]))) == 16


def test_names_that_are_not_utf_8_are_fine_too(place: Path):
    odd = place / os.fsdecode(b"labelled\xff")
    (place / "labelled").rename(odd)
    (odd / "noon/0.png").rename(odd / "noon" / os.fsdecode(b"0\xff.png"))
    done("train", "--source", odd, "--target", odd, "--test", odd, *TINY)
    done("export", "--verify-data", odd)
    done("infer", "--test-loc", odd, "--out-path", "preds.csv")
    done("eval")
    assert b"noon/0\xff.png," in (place / "preds.csv").read_bytes()
    refused(dann("eval", "--data", odd / "none"), 2, "does not exist")


def test_odd_names_of_folders_and_classes_are_fine_all_the_way(place: Path):
    odd = place / "fotos für später, 100%"
    (place / "labelled").rename(odd)
    (odd / "night").rename(odd / "Größe: ‘XL’, neu")
    (odd / "Größe: ‘XL’, neu" / "0.png").rename(odd / "Größe: ‘XL’, neu" / "Ä B.PNG")
    (odd / ".DS_Store").write_bytes(b"clutter")
    done("train", "--source", odd, "--target", odd, "--test", odd, *TINY)
    done("export", "--out", "my bundle")
    done("infer", "--bundle", "my bundle", "--test-loc", odd, "--out-path", "my preds.csv")
    done("eval", "--out-path", "scores.json")
    classes = ["Größe: ‘XL’, neu", "noon"]
    assert (
        confusion(place / "my preds.csv", classes) == json.loads(Path("scores.json").read_text())["target"]["confusion"]
    )
    assert "Größe: ‘XL’, neu/Ä B.PNG" in (place / "my preds.csv").read_text(encoding="utf-8")
