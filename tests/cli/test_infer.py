"""``dann infer``: where images and bundle come from, what the file holds, and what is refused."""

import csv
import json
import shutil
from pathlib import Path

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


def test_a_bundle_that_is_damaged_is_exported_again_where_a_run_is_named(finished: Path):
    (finished / BUNDLE / "model.onnx").write_bytes(b"")
    refused(dann("infer", "--test-loc", "labelled", *OUT), 1, "model.onnx", "re-export")
    done("infer", "--checkpoint", "tiny", "--test-loc", "labelled", *OUT)
    (finished / BUNDLE / "manifest.json").write_text("{}")
    done("infer", "--checkpoint", "tiny", "--test-loc", "labelled", *OUT)
