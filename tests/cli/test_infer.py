"""``dann infer``: where images and bundle come from, what the file holds, and what is refused."""

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from command import DATA, NETWORK, TINY, dann, done, outcome, refused, start

BUNDLE = Path("runs/tiny/bundle")
OUT = ("--out-path", "preds.csv")


def rows(path: str = "preds.csv") -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# ---- what it does -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "paths"),
    [
        ("labelled", [f"{name}/{index}.png" for name in ("night", "noon") for index in range(8)]),
        ("labelled/*/3.png", ["night/3.png", "noon/3.png"]),
        ("labelled/**/7.png", ["night/7.png", "noon/7.png"]),
        ("labelled/noon/0.png", ["0.png"]),
    ],
)
def test_a_folder_a_pattern_or_a_file_is_classified(location: str, paths: list[str], finished: Path):
    done("infer", "--test-loc", location, *OUT)
    assert [row["path"] for row in rows()] == paths
    assert {row["status"] for row in rows()} == {"ok"}


def test_the_network_in_half_precision_is_used_where_it_is_asked_for(finished: Path):
    done("export", "--precision", "fp16,fp32", "--out", "both")
    done("infer", "--bundle", "both", "--test-loc", "labelled", *OUT)
    full = rows()
    ran = done("infer", "--bundle", "both", "--test-loc", "labelled", "--precision", "fp16", *OUT)
    assert "fp16 in onnxruntime" in ran.stderr
    pairs = [(float(a["probability"]), float(b["probability"])) for a, b in zip(full, rows(), strict=True)]
    assert 0 < max(abs(a - b) for a, b in pairs) < 1e-2
    refused(dann("infer", "--test-loc", "labelled", "--precision", "int8", *OUT), 2, "no onnx/int8/classifier artefact")


def test_more_classes_and_all_probabilities_are_columns(finished: Path):
    done("infer", "--test-loc", "labelled", *OUT)
    plain = rows()
    done("infer", "--test-loc", "labelled", *OUT, "--top-k", "2", "--probs")
    full = rows()
    assert list(full[0]) == [*plain[0], "label_2", "probability_2", "p_night", "p_noon"]
    for short, long in zip(plain, full, strict=True):
        assert {name: long[name] for name in short} == short
        assert {short["label"], long["label_2"]} == {"night", "noon"}
        assert (
            long["probability"] == long[f"p_{long['label']}"] and long["probability_2"] == long[f"p_{long['label_2']}"]
        )
        assert float(long["probability"]) + float(long["probability_2"]) == pytest.approx(1, abs=2e-6)


def test_the_file_does_not_depend_on_batches_and_workers(finished: Path):
    done("infer", "--test-loc", "labelled", *OUT)
    done("infer", "--test-loc", "labelled", "--out-path", "b.csv", "--batch-size", "3", "--workers", "1")
    assert Path("preds.csv").read_bytes() == Path("b.csv").read_bytes()


def test_a_bundle_that_was_copied_elsewhere_is_enough(finished: Path, tmp_path: Path):
    moved = BUNDLE.rename(tmp_path / "my bundle")
    done("infer", "--bundle", moved, "--test-loc", "labelled", *OUT, "--runs", "none")
    assert len(rows()) == 16


def test_nothing_is_printed_where_results_go(finished: Path):
    ran = done("infer", "--test-loc", "labelled", *OUT)
    assert ran.stdout == "" and "16 images → preds.csv" in ran.stderr
    assert dann("infer", "--test-loc", "labelled", *OUT, "--quiet").stderr == ""


def test_rows_as_json(finished: Path):
    done("infer", "--test-loc", "labelled", *OUT, "--probs")
    done("infer", "--test-loc", "labelled", "--out-path", "preds.jsonl", "--probs")
    lines = [json.loads(line) for line in Path("preds.jsonl").read_text().splitlines()]
    assert [(line["path"], line["label"], f"{line['p_noon']:.6f}") for line in lines] == [
        (row["path"], row["label"], row["p_noon"]) for row in rows()
    ]
    assert done("infer", "--test-loc", "labelled", "--out-path", "-", "--format", "jsonl", "--probs").stdout == (
        Path("preds.jsonl").read_text()
    )


def test_rows_go_to_standard_output_and_the_rest_to_standard_error(finished: Path):
    done("infer", "--test-loc", "labelled", *OUT)
    ran = done("infer", "--test-loc", "labelled", "--out-path", "-", "--labels", "folder")
    assert ran.stdout == Path("preds.csv").read_text()
    assert "16 images → -" in ran.stderr and "rows: true class" in ran.stderr


def test_a_list_keeps_its_order_and_each_entry_has_a_row(finished: Path):
    names = ["noon/3.png", "night/0.png", "noon/gone.png", "noon/3.png"]
    Path("labelled/some.txt").write_text("\n".join(names))
    assert dann("infer", "--test-loc", "labelled/some.txt", *OUT).exit_code == 3
    assert [row["path"] for row in rows()] == names
    assert [row["status"] for row in rows()] == ["ok", "ok", "error", "ok"]
    assert "No such file" in rows()[2]["error"]


@pytest.mark.parametrize("separator", ["\n", "\0"])
def test_standard_input_lists_images(separator: str, finished: Path):
    process = start("infer", "--test-loc", "-", *OUT, stdin=subprocess.PIPE)
    _, stderr = process.communicate(separator.join(["labelled/noon/3.png", "labelled/night/0.png"]))
    assert process.returncode == 0, stderr
    assert [row["path"] for row in rows()] == ["labelled/noon/3.png", "labelled/night/0.png"]


def test_only_the_folder_itself_where_it_is_asked_for(finished: Path):
    shutil.copy("labelled/noon/3.png", "labelled/top.png")
    done("infer", "--test-loc", "labelled", *OUT, "--no-recursive")
    assert [row["path"] for row in rows()] == ["top.png"]


def test_features_are_an_array_in_the_order_of_the_rows(finished: Path, spoil):
    names = spoil(finished / "labelled/noon")
    done("export", "--with-features", "--out", "with")
    ran = dann("infer", "--bundle", "with", "--test-loc", "labelled", *OUT, "--features", "features.npy")
    assert ran.exit_code == 3, ran
    features_ND = np.load("features.npy")
    assert features_ND.dtype == np.float32 and features_ND.shape[0] == len(rows()) == 16 + len(names)
    unread = [row["status"] == "error" for row in rows()]
    assert (np.isnan(features_ND).all(axis=1) == unread).all() and np.isfinite(features_ND[~np.array(unread)]).all()
    refused(dann("infer", "--test-loc", "labelled", *OUT, "--features", "f.npy"), 2, "dann export --with-features")


def test_what_is_not_probable_enough_is_unknown(finished: Path):
    done("infer", "--test-loc", "labelled", *OUT)
    limit = sorted(float(row["probability"]) for row in rows())[8]
    expected = [row["label"] if float(row["probability"]) >= limit else "unknown" for row in rows()]
    done("infer", "--test-loc", "labelled", *OUT, "--min-probability", str(limit - 1e-6))
    assert [row["label"] for row in rows()] == expected and 0 < expected.count("unknown") < 16


def test_labels_of_folders_and_of_a_file_give_the_same_accuracy(finished: Path):
    by_folder = done("infer", "--test-loc", "labelled", *OUT, "--labels", "folder").stdout
    right = sum(row["label"] == row["path"].split("/")[0] for row in rows())
    assert by_folder.startswith(f"accuracy {right / 16:.4f} ({right}/16)\nrows: true class")
    lines = [f"labelled/{row['path']},{row['path'].split('/')[0]}" for row in rows()]
    Path("labels.csv").write_text("\n".join(["path,label", *lines]))
    assert done("infer", "--test-loc", "labelled", *OUT, "--labels", "labels.csv").stdout == by_folder
    Path("labels.csv").write_text("\n".join(["path,label", *lines[:4], f"{lines[4].split(',')[0]},elsewhere"]))
    ran = done("infer", "--test-loc", "labelled", *OUT, "--labels", "labels.csv")
    assert "12 without a known label" in ran.stdout


def test_the_summary_names_the_bottleneck(finished: Path):
    ran = done("infer", "--test-loc", "labelled", *OUT, "--workers", "1", "--batch", "4")
    assert "onnxruntime" in ran.stderr and ", 4 images at once" in ran.stderr
    assert re.search(
        r"1 thread: reading \d\.\d s \(\d+%\), .*; the bottleneck is (reading|decoding|network|writing)\n", ran.stderr
    )


# ---- images that cannot be read -----------------------------------------------------------------------------------


def test_images_that_cannot_be_read_are_rows_and_change_the_exit_code(finished: Path, spoil):
    names = spoil(finished / "labelled/noon")
    ran = dann("infer", "--test-loc", "labelled", *OUT)
    assert ran.exit_code == 3
    assert {row["path"] for row in rows() if row["status"] == "error"} == {f"noon/{name}" for name in names}
    assert len(rows()) == 20
    assert "1 with an error: empty" in ran.stderr, ran.stderr


def test_where_no_image_can_be_read_there_is_still_a_file(finished: Path, spoil):
    spoil(finished / "spoiled")
    assert dann("infer", "--test-loc", "spoiled", *OUT).exit_code == 3
    assert [(row["label"], row["status"]) for row in rows()] == [("", "error")] * 4


def test_a_run_may_stop_at_an_error_and_go_on_when_it_is_repaired(finished: Path, spoil):
    spoil(finished / "labelled/noon")
    whole = dann("infer", "--test-loc", "labelled", "--out-path", "whole.csv")
    words = ["infer", "--test-loc", "labelled", *OUT, "--batch", "2", "--workers", "1"]
    refused(dann(*words, "--on-error", "stop"), 1, "stopped at 'noon/", "repair it", "add --resume to go on")
    refused(dann(*words, "--resume", "--max-errors", "2"), 1, "--max-errors", "add --resume to go on")
    assert not Path("preds.csv").exists()
    assert dann(*words, "--resume", "--max-errors", "4").exit_code == whole.exit_code == 3
    assert Path("preds.csv").read_bytes() == Path("whole.csv").read_bytes()


def test_images_of_too_many_pixels_are_errors(finished: Path):
    ran = dann("infer", "--test-loc", "labelled", *OUT, "--max-pixels", "10")
    assert ran.exit_code == 3 and "16 with an error: too large" in ran.stderr
    assert "pixels; at most 10 are decoded" in rows()[0]["error"]


# ---- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "exit_code", "parts"),
    [
        (["--test-loc", "nowhere"], 2, ["'nowhere'", "a folder, a pattern, an image file or a list"]),
        (["--test-loc", "empty"], 2, ["no images at 'empty'", ".jpg"]),
        (["--test-loc", "labelled/*.gif"], 2, ["no images at 'labelled/*.gif'", ".jpg"]),
        (["--out-path", "no/where.csv"], 2, ["no', which is not a folder; create it"]),
        (["--out-path", "preds.csv/b.csv"], 2, ["preds.csv', which is not a folder"]),
        (["--out-path", "labelled"], 2, ["labelled' is a folder"]),
        (["--out-path", "/proc/preds.csv"], 1, ["cannot write '/proc/preds.csv'"]),
        (["--bundle", "nowhere"], 2, ["no bundle at 'nowhere'", "dann export"]),
        (["--checkpoint", "tinny"], 2, ["unknown run 'tinny'", "did you mean 'tiny'?"]),
        (["--bundle", "b", "--checkpoint", "tiny"], 2, ["--bundle and --checkpoint", "one of them"]),
        (["--runs", "empty"], 2, ["no run in 'empty' yet", "dann train"]),
        (["--top-k", "3"], 2, ["top-k is 3", "1 to 2"]),
        (["--batch-size", "0"], 2, ["batch size is 0"]),
        (["--batch", "many"], 2, ["--batch is 'many'", "expected auto"]),
        (["labelled/noon"], 2, ["'labelled/noon' follows", "quote a pattern"]),
        (["--format", "xml"], 2, ["unknown format 'xml'", "csv, jsonl"]),
        (["--labels", "nowhere.csv"], 2, ["nowhere.csv", "--labels takes 'folder'"]),
        (["--on-error", "skip"], 2, ["'skip'", "row, stop"]),
        (["--max-errors", "-1"], 2, ["-1 errors", "0 or more"]),
        (["--max-pixels", "0"], 2, ["pixels of an image are 0"]),
        (["--min-probability", "2"], 2, ["2.0", "expected 0 to 1"]),
        (["--features", "no/where.npy"], 2, ["no', which is not a folder"]),
        (["--features", "preds.csv"], 2, ["both to go to 'preds.csv'"]),
        (["--out-path", "-", "--resume"], 2, ["standard output cannot be resumed"]),
        (["--workers", "0"], 2, ["0 decode workers", "expected 1 to"]),
        (["--threads", "0"], 2, ["0 engine threads", "expected 1 to"]),
        (["--device", "gpu"], 2, ["unknown device 'gpu'", "cuda:0"]),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) and value[0].startswith("--") else None,
)
def test_what_cannot_be_inferred_is_refused_and_earlier_predictions_stay(
    words: list[str], exit_code: int, parts: list[str], finished: Path
):
    (finished / "empty").mkdir()
    Path("preds.csv").write_text("earlier")
    before = sorted(finished.rglob("*"))
    refused(dann("infer", "--test-loc", "labelled", *OUT, *words), exit_code, *parts)
    assert Path("preds.csv").read_text() == "earlier" and sorted(finished.rglob("*")) == before


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (lambda: rewrite(BUNDLE / "manifest.json", '"schema": 1', '"schema": 2'), ["schema 2", "upgrade dann"]),
        (lambda: rewrite(BUNDLE / "manifest.json", '"classes"', '"klasses"'), ["not as it was written", "re-export"]),
        (lambda: (BUNDLE / "manifest.json").write_text("{"), ["is not JSON", "re-export"]),
        (lambda: (BUNDLE / "model.onnx").write_bytes(b"another"), ["model.onnx", "SHA-256 differs", "re-export"]),
        (lambda: (BUNDLE / "model.onnx").unlink(), ["model.onnx", "missing", "re-export"]),
    ],
    ids=["from the future", "edited manifest", "half a manifest", "another model", "no model"],
)
def test_a_bundle_that_is_not_whole_is_refused(damage, parts: list[str], finished: Path):
    Path("preds.csv").write_text("earlier")
    damage()
    refused(dann("infer", "--test-loc", "labelled", *OUT), 1, *parts)
    assert Path("preds.csv").read_text() == "earlier"


def test_a_run_that_was_not_exported_says_what_to_type(place: Path):
    done("train", *DATA, *TINY, "--name", "mine")
    refused(
        dann("infer", "--test-loc", "labelled", *OUT), 2, "'runs/mine' has no bundle", "dann export --run runs/mine"
    )


def test_a_device_that_is_not_there_is_refused(finished: Path, without_cuda: None):
    ran = dann("infer", "--test-loc", "labelled", *OUT, "--device", "cuda:0")
    refused(ran, 4, "cuda:0")


# ---- what is installed --------------------------------------------------------------------------------------------


def without(*modules: str) -> str:
    """A statement after which these packages are as if they were not installed."""
    return f"import sys; sys.modules |= dict.fromkeys({modules})"


def test_inference_needs_no_torch(finished: Path):
    ran = outcome(start("infer", "--test-loc", "labelled", *OUT, before=without("torch", "torchvision", "onnx")))
    assert ran.exit_code == 0, ran
    assert len(rows()) == 16


@pytest.mark.parametrize(
    ("words", "missing", "line"),
    [
        (["infer", "--test-loc", "labelled", *OUT], "onnxruntime", 'pip install "dann[cpu]"'),
        (["train", *DATA, *TINY], "torch", 'pip install "dann[train]"'),
        (["eval"], "torch", 'pip install "dann[train]"'),
        (["export"], "torch", 'pip install "dann[train]"'),
    ],
    ids=["infer", "train", "eval", "export"],
)
def test_a_package_that_is_not_installed_is_named_with_what_to_type(words, missing: str, line: str, finished: Path):
    refused(outcome(start(*words, before=without(missing))), 4, missing, line)
    assert json.loads((BUNDLE / "manifest.json").read_text())["schema"] == 1


def test_a_bundle_that_is_older_than_the_checkpoint_is_not_used_silently(finished: Path):
    done("train", *DATA, *NETWORK, "--steps", "60", "--lr", "0.02", "--seed", "1", "--name", "other")
    shutil.copy("runs/other/checkpoints/last.safetensors", "runs/tiny/checkpoints/last.safetensors")
    (finished / "runs/latest").write_text("tiny\n")
    refused(dann("infer", "--test-loc", "labelled", *OUT), 2, "is older than the checkpoint", "dann export --run")
    assert not Path(OUT[-1]).exists()
    done("infer", "--checkpoint", "tiny", "--test-loc", "labelled", *OUT)
    done("infer", "--test-loc", "labelled", *OUT)


def test_a_bundle_that_is_up_to_date_is_not_exported_again(finished: Path):
    done("export", "--with-features")
    before = (finished / "runs/tiny/bundle/manifest.json").read_bytes()
    done("infer", "--checkpoint", "tiny", "--test-loc", "labelled", *OUT)
    assert (finished / "runs/tiny/bundle/manifest.json").read_bytes() == before


@pytest.mark.slow
def test_a_bundle_that_is_damaged_is_exported_again_where_a_run_is_named(finished: Path):
    (finished / BUNDLE / "model.onnx").write_bytes(b"")
    refused(dann("infer", "--test-loc", "labelled", *OUT), 1, "model.onnx", "re-export")
    done("infer", "--checkpoint", "tiny", "--test-loc", "labelled", *OUT)
    (finished / BUNDLE / "manifest.json").write_text("{}")
    done("infer", "--checkpoint", "tiny", "--test-loc", "labelled", *OUT)
