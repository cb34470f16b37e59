import csv
import io
import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dann.infer.errors import UsageError
from dann.infer.predict import Prediction
from dann.infer.results import Rows, row_format

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
    text = b"".join(lines).decode("utf-8", "surrogateescape")
    return list(csv.reader(io.StringIO(text, newline="")))


# rows -----------------------------------------------------------------------------------------------------------


def test_a_row_says_path_label_probability_status_error():
    rows = Rows(CLASSES)
    assert rows.header() == b"path,label,probability,status,error\n"
    assert rows.row(answer()) == b"x.png,dog,0.700000,ok,\n"
    assert rows.row(Prediction("y.png", error="is empty")) == b"y.png,,,error,is empty\n"


def test_top_k_adds_the_next_classes_and_probs_adds_them_all():
    rows = Rows(CLASSES, top_k=3, probs=True)
    header, good, bad = parsed(rows.header(), rows.row(answer()), rows.row(Prediction("y.png", error="no")))
    assert header[5:] == ["label_2", "probability_2", "label_3", "probability_3", "p_cat", "p_dog", "p_a, b"]
    assert good[1:3] == ["dog", "0.700000"]
    assert good[5:] == ["cat", "0.200000", "a, b", "0.100000", "0.200000", "0.700000", "0.100000"]
    assert bad == ["y.png", "", "", "error", "no"] + [""] * 7


def test_equal_probabilities_keep_the_order_of_the_classes():
    (row,) = parsed(Rows(CLASSES, top_k=2).row(answer(probabilities=(0.25, 0.25, 0.5))))
    assert (row[1], row[5]) == ("a, b", "cat")


@pytest.mark.parametrize("top_k", [0, 4])
def test_a_top_k_beyond_the_classes_is_refused(top_k):
    with pytest.raises(UsageError, match="expected 1 to 3"):
        Rows(CLASSES, top_k=top_k)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_path_that_looks_like_a_formula_gets_a_dot_in_front(start):
    (row,) = parsed(Rows(CLASSES).row(answer(f"{start}x.png")))
    assert row[0] == f"./{start}x.png"


FILE_NAMES = st.lists(st.binary(max_size=255).map(lambda name: name.replace(b"\0", b"")), min_size=1, max_size=3)
"""Of any bytes that a disk may hold."""


@given(FILE_NAMES)
def test_any_path_comes_back_from_a_csv_reader(names):
    rows = Rows(CLASSES)
    read = parsed(*(rows.row(answer("d/" + os.fsdecode(name))) for name in names))
    assert [os.fsencode(row[0]) for row in read] == [b"d/" + name for name in names]
    assert all(len(row) == 5 for row in read)


@given(FILE_NAMES)
def test_any_path_comes_back_from_json(names):
    rows = Rows(CLASSES, format="jsonl")
    lines = b"".join(rows.row(answer("d/" + os.fsdecode(name))) for name in names).decode("ascii").splitlines()
    assert [os.fsencode(json.loads(line)["path"]) for line in lines] == [b"d/" + name for name in names]


def test_json_has_the_names_of_the_columns():
    rows = Rows(CLASSES, format="jsonl", top_k=2, probs=True)
    assert rows.header() == b""
    assert json.loads(rows.row(answer())) == {
        "path": "x.png",
        "label": "dog",
        "probability": 0.7,
        "status": "ok",
        "error": None,
        "label_2": "cat",
        "probability_2": 0.2,
        "p_cat": 0.2,
        "p_dog": 0.7,
        "p_a, b": 0.1,
    }
    failed = json.loads(rows.row(Prediction("y.png", error="is empty")))
    assert failed == {**dict.fromkeys(failed), "path": "y.png", "status": "error", "error": "is empty"}


def test_what_is_not_probable_enough_is_unknown():
    rows = Rows(CLASSES, min_probability=0.7)
    sure, unsure = answer(probabilities=(0.1, 0.75, 0.15)), answer(probabilities=(0.2, 0.6, 0.2))
    assert [row[1:3] for row in parsed(rows.row(sure), rows.row(unsure))] == [
        ["dog", "0.750000"],
        ["unknown", "0.600000"],
    ]
    failed = Prediction("y.png", error="is empty")
    assert [rows.answer(prediction) for prediction in (sure, unsure, failed)] == [1, 3, None]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_probability": -0.1}, "smallest probability is -0.1; expected 0 to 1"),
        ({"min_probability": 1.1}, "expected 0 to 1"),
        ({"min_probability": 0.5, "classes": ("cat", "unknown")}, "'unknown', which is a class"),
    ],
)
def test_a_smallest_probability_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        Rows(**{"classes": CLASSES, **options})


@pytest.mark.parametrize(
    ("name", "path", "expected"),
    [(None, "a.csv", "csv"), (None, "a.JSONL", "jsonl"), (None, "-", "csv"), ("jsonl", "a.csv", "jsonl")],
)
def test_the_format_is_the_one_asked_for_or_that_of_the_suffix(name, path, expected):
    assert row_format(name, path) == expected


def test_an_unknown_format_is_refused():
    with pytest.raises(UsageError, match="unknown format 'cvs'; did you mean 'csv'"):
        row_format("cvs", "a.csv")
