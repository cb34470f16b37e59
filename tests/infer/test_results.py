import csv
import io
import os
import resource
import signal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dann.infer.errors import DannError, UsageError
from dann.infer.predict import Prediction
from dann.infer.results import CsvRows, WholeFile

CLASSES = ("cat", "dog", "a, b")


def answer(path="x.png", probabilities=(0.2, 0.7, 0.1)):
    best = int(np.argmax(probabilities))
    return Prediction(
        path,
        label=CLASSES[best],
        probability=probabilities[best],
        probabilities=np.array(probabilities, np.float32),
    )


def parsed(*lines):
    return list(csv.reader(io.StringIO("".join(lines), newline="")))


# rows -----------------------------------------------------------------------------------------------------------


def test_a_row_says_path_label_probability_status_error():
    rows = CsvRows(CLASSES)
    assert rows.header() == "path,label,probability,status,error\n"
    assert rows.row(answer()) == "x.png,dog,0.700000,ok,\n"
    assert rows.row(Prediction("y.png", error="is empty")) == "y.png,,,error,is empty\n"


def test_top_k_adds_the_next_classes_and_probs_adds_them_all():
    rows = CsvRows(CLASSES, top_k=3, probs=True)
    header, good, bad = parsed(rows.header(), rows.row(answer()), rows.row(Prediction("y.png", error="no")))
    assert header[5:] == ["label_2", "probability_2", "label_3", "probability_3", "p_cat", "p_dog", "p_a, b"]
    assert good[1:3] == ["dog", "0.700000"]
    assert good[5:] == ["cat", "0.200000", "a, b", "0.100000", "0.200000", "0.700000", "0.100000"]
    assert bad == ["y.png", "", "", "error", "no"] + [""] * 7


def test_equal_probabilities_keep_the_order_of_the_classes():
    (row,) = parsed(CsvRows(CLASSES, top_k=2).row(answer(probabilities=(0.25, 0.25, 0.5))))
    assert (row[1], row[5]) == ("a, b", "cat")


@pytest.mark.parametrize("top_k", [0, 4])
def test_a_top_k_beyond_the_classes_is_refused(top_k):
    with pytest.raises(UsageError, match="expected 1 to 3"):
        CsvRows(CLASSES, top_k=top_k)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_path_that_looks_like_a_formula_gets_a_dot_in_front(start):
    (row,) = parsed(CsvRows(CLASSES).row(answer(f"{start}x.png")))
    assert row[0] == f"./{start}x.png"


@given(st.lists(st.text(st.characters(exclude_characters="\0")), min_size=1, max_size=3))
def test_any_path_comes_back_from_a_csv_reader(paths):
    rows = CsvRows(CLASSES)
    read = parsed(*(rows.row(answer("d/" + path)) for path in paths))
    assert [row[0] for row in read] == ["d/" + path for path in paths]
    assert all(len(row) == 5 for row in read)


# the file -------------------------------------------------------------------------------------------------------


def write(path, text="new\n"):
    with WholeFile(path) as file:
        file.write(text)


def test_the_file_appears_when_the_block_ends(tmp_path):
    out = tmp_path / "preds.csv"
    with WholeFile(out) as file:
        file.write("a\n")
        assert not out.exists()
    assert out.read_text() == "a\n"
    assert os.listdir(tmp_path) == ["preds.csv"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path, failure):
    out = tmp_path / "preds.csv"
    out.write_text("old\n")
    with pytest.raises(failure), WholeFile(out) as file:
        file.write("half")
        raise failure
    assert out.read_text() == "old\n"
    assert os.listdir(tmp_path) == ["preds.csv"]


def test_a_full_disk_leaves_what_was_there_and_says_so(tmp_path):
    out = tmp_path / "preds.csv"
    out.write_text("old\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN  # else the limit would end the process
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(DannError, match="cannot write .*File too large") as raised:
            write(out, "x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert raised.value.exit_code == 1
    assert out.read_text() == "old\n"
    assert os.listdir(tmp_path) == ["preds.csv"]


def test_a_missing_folder_is_refused_on_entering(tmp_path):
    with pytest.raises(UsageError, match="missing', which is not a folder; create it"):
        WholeFile(tmp_path / "missing" / "preds.csv").__enter__()


@pytest.mark.parametrize("what", ["folder", "pipe"])
def test_what_is_no_file_is_not_replaced(tmp_path, what):
    out = tmp_path / "out"
    out.mkdir() if what == "folder" else os.mkfifo(out)
    with pytest.raises(UsageError, match="expected the name of a file"):
        write(out)
    assert os.listdir(tmp_path) == ["out"]


def test_a_read_only_folder_is_refused_on_entering(world_folder, as_ordinary_user):
    world_folder.chmod(0o555)
    with as_ordinary_user(), pytest.raises(DannError, match="cannot write .*Permission denied") as raised:
        WholeFile(world_folder / "preds.csv").__enter__()
    assert raised.value.exit_code == 1


def test_a_link_keeps_pointing_at_the_file_it_names(tmp_path):
    (tmp_path / "real.csv").write_text("old\n")
    (tmp_path / "link.csv").symlink_to("real.csv")
    write(tmp_path / "link.csv")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text() == "new\n"


def test_the_file_is_readable_as_any_new_file_is(tmp_path):
    (tmp_path / "plain").touch()
    write(tmp_path / "preds.csv")
    assert (tmp_path / "preds.csv").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_bytes_of_a_name_that_is_not_utf8_survive(tmp_path):
    write(tmp_path / "preds.csv", os.fsdecode(b"latin-\xe9.png") + ",ü\n")
    assert (tmp_path / "preds.csv").read_bytes() == b"latin-\xe9.png,\xc3\xbc\n"
