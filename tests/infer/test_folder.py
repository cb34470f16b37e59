import csv
import os

import numpy as np
import pytest

from dann.infer.bundle import BundleError, read_bundle
from dann.infer.errors import DannError, UsageError
from dann.infer.folder import classify_folder

pytest.importorskip("onnxruntime", reason="needs an ONNX Runtime: dann[cpu] or dann[gpu]")


def read(path):
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def test_every_input_has_a_row_and_the_summary_counts_them(bundle, pictures, tmp_path):
    summary = classify_folder(bundle, pictures, tmp_path / "preds.csv", device="cpu")
    rows = read(tmp_path / "preds.csv")
    assert [(row["path"], row["label"], row["status"]) for row in rows] == [
        ("a.png", "red", "ok"),
        ("b.png", "green", "ok"),
        ("deep/d.jpg", "red", "ok"),
        ("deep/er/c.png", "blue", "ok"),
        ("e.bmp", "green", "ok"),
        ("empty.png", "", "error"),
        ("half.jpg", "", "error"),
        ("text.jpg", "", "error"),
        ("z.png", "blue", "ok"),
    ]
    assert (summary.images, summary.failed, summary.exit_code) == (9, 3, 3)
    assert summary.errors == {"empty": 1, "cannot be decoded": 1, "not an image": 1}
    assert summary.images_per_second == 9 / summary.seconds > 0
    assert "on cpu" in summary.engine


def test_the_whole_file_is_as_documented(bundle, draw, tmp_path):
    draw(tmp_path / "imgs" / "a.png", "red")
    (tmp_path / "imgs" / "b, c.jpg").touch()
    summary = classify_folder(bundle, tmp_path / "imgs", tmp_path / "preds.csv", device="cpu", top_k=2, probs=True)
    # softmax(8, 0, 0)
    assert (tmp_path / "preds.csv").read_text() == (
        "path,label,probability,status,error,label_2,probability_2,p_red,p_green,p_blue\n"
        "a.png,red,0.999330,ok,,green,0.000335,0.999330,0.000335,0.000335\n"
        '"b, c.jpg",,,error,is empty (0 bytes),,,,,\n'
    )
    assert summary.exit_code == 3


def test_all_readable_exits_0_and_all_unreadable_exits_3(bundle, draw, tmp_path):
    good, bad = tmp_path / "good", tmp_path / "bad"
    draw(good / "a.png")
    bad.mkdir()
    (bad / "a.png").touch()
    assert classify_folder(bundle, good, tmp_path / "preds.csv", device="cpu").exit_code == 0
    assert classify_folder(bundle, bad, tmp_path / "preds.csv", device="cpu").exit_code == 3
    assert [row["status"] for row in read(tmp_path / "preds.csv")] == ["error"]


def test_bytes_are_the_same_for_any_batch_size_and_workers(make_bundle, pictures, draw, tmp_path):
    bundle = make_bundle("conv")
    rng = np.random.default_rng(0)
    for name in ["=f.png", "line\nbreak.png", os.fsdecode(b"latin-\xe9.png"), "cr\r.png", "ü.png"]:
        draw(pictures / name, rng.integers(0, 256, (12, 9, 3), dtype=np.uint8))
    outs = []
    for batch_size, workers in [(1, 1), (2, 3), (5, 1), (64, 2)]:
        out = tmp_path / f"{batch_size}.csv"
        classify_folder(
            bundle,
            pictures,
            out,
            probs=True,
            device="cpu",
            threads=1,
            batch_size=batch_size,
            workers=workers,
        )
        outs.append(out.read_bytes())
    assert len(set(outs)) == 1
    paths = [row["path"] for row in read(out)]
    assert len(paths) == 14 and paths == sorted(paths) and paths[0] == "./=f.png"
    assert b"latin-\xe9.png," in outs[0]


def test_progress_counts_up_to_the_number_of_images(bundle, pictures, tmp_path):
    calls = []
    classify_folder(
        bundle,
        pictures,
        tmp_path / "preds.csv",
        device="cpu",
        workers=1,
        batch_size=2,
        on_progress=lambda *call: calls.append(call),
    )
    assert calls == [(0, 9), (2, 9), (4, 9), (6, 9), (8, 9), (9, 9)]


def interrupting(rows):
    def on_progress(done, total):
        if done >= rows:
            raise KeyboardInterrupt

    return on_progress


def test_an_interrupt_keeps_the_earlier_file_and_what_was_done(bundle, pictures, tmp_path):
    out = tmp_path / "out" / "preds.csv"
    out.parent.mkdir()
    out.write_text("old\n")
    options = {"device": "cpu", "batch_size": 2, "workers": 1}
    with pytest.raises(KeyboardInterrupt) as raised:
        classify_folder(bundle, pictures, out, on_progress=interrupting(4), **options)
    assert raised.value.__notes__ == ["4 of 9 rows are kept: add --resume to go on from there"]
    assert out.read_text() == "old\n"
    assert sorted(os.listdir(out.parent)) == [".preds.csv.dann-journal", "preds.csv"]
    summary = classify_folder(bundle, pictures, out, resume=True, **options)
    assert (summary.images, summary.resumed) == (9, 4)
    assert summary.errors == {"empty": 1, "cannot be decoded": 1, "not an image": 1}
    assert os.listdir(out.parent) == ["preds.csv"]
    classify_folder(bundle, pictures, tmp_path / "whole.csv", **options)
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_an_interrupt_before_the_first_row_leaves_nothing(bundle, pictures, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt):
        classify_folder(bundle, pictures, tmp_path / "out" / "preds.csv", device="cpu", on_progress=interrupt)
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"out_path": "missing/preds.csv"}, UsageError),
        ({"out_path": "imgs"}, UsageError),
        ({"test_loc": "nowhere"}, UsageError),
        ({"bundle": "nowhere"}, UsageError),
        ({"top_k": 4}, UsageError),
        ({"device": "tpu"}, UsageError),
    ],
)
def test_what_cannot_work_is_refused_before_an_image_is_read(bundle, pictures, tmp_path, monkeypatch, changes, error):
    monkeypatch.chdir(tmp_path)
    before = sorted(path for path in tmp_path.rglob("*"))
    arguments = {"bundle": bundle, "test_loc": "imgs", "out_path": "preds.csv", "device": "cpu"} | changes
    with pytest.raises(error) as raised:
        classify_folder(**arguments, on_progress=lambda *_: pytest.fail("an image was read"))
    assert raised.value.exit_code == 2
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_a_read_only_folder_is_refused_before_an_image_is_read(bundle, draw, world_folder, as_ordinary_user):
    draw(world_folder / "imgs" / "a.png")
    closed = world_folder / "closed"
    closed.mkdir(mode=0o555)
    opened = read_bundle(bundle)
    with as_ordinary_user(), pytest.raises(DannError, match="Permission denied") as raised:
        classify_folder(
            opened,
            world_folder / "imgs",
            closed / "preds.csv",
            on_progress=lambda *_: pytest.fail("an image was read"),
        )
    assert raised.value.exit_code == 1


def test_a_damaged_bundle_is_refused_and_the_earlier_file_stays(bundle, pictures, tmp_path):
    out = tmp_path / "preds.csv"
    out.write_text("old\n")
    with open(bundle / "model.onnx", "ab") as file:
        file.write(b"\0")
    with pytest.raises(BundleError, match="SHA-256"):
        classify_folder(bundle, pictures, out, device="cpu")
    assert out.read_text() == "old\n"
