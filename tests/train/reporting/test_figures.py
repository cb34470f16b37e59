"""The plots of a report: readable on white and on dark, the same for the same values, and safe in a page."""

import re
from base64 import b64decode
from collections.abc import Callable
from importlib import resources
from xml.etree import ElementTree

import cv2
import matplotlib as mpl
import numpy as np
import pytest

from dann.train.evaluate import ConfidenceBin
from dann.train.reporting import figures

CURVE = ([1.0, 2.0, 3.0], [0.9, 0.5, 0.4])
BINS = [ConfidenceBin(images=5, confidence=0.4, accuracy=0.2), ConfidenceBin(images=9, confidence=0.9, accuracy=0.95)]
FIGURES: dict[str, Callable[[], str]] = {
    "losses": lambda: figures.loss_curves({"label": CURVE, "domain": CURVE}),
    "told": lambda: figures.domain_accuracy_curve({"training": CURVE}),
    "schedules": lambda: figures.schedule_curves({"λ": CURVE, "learning rate": CURVE}),
    "accuracy": lambda: figures.accuracy_curves(CURVE, CURVE, {"last": (3, 0.4), "selected (im)": (2, 0.5)}),
    "confusion": lambda: figures.confusion_matrix([[3, 1], [0, 2]], ["across", "upright"]),
    "embedding": lambda: figures.embedding(np.random.default_rng(0).normal(size=(30, 2)), ["#3280dd"] * 30, "dots"),
    "bars": lambda: figures.recall_bars({"across": 0.5, "upright": 1.0}, {"across": 0.25, "upright": None}),
    "reliability": lambda: figures.reliability(BINS, 0.1),
}
every_figure = pytest.mark.parametrize("name", FIGURES)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("}text")]


def luminance(colour: str) -> float:
    """Relative luminance of a hexadecimal colour, as WCAG 2 defines it."""
    digits = colour.lstrip("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    channels = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.fixture(scope="module")
def pages() -> list[str]:
    """The backgrounds that the report puts figures on, light and dark."""
    template = (resources.files("dann.train.reporting") / "templates" / "report.html").read_text(encoding="utf-8")
    found = re.findall(r"--(?:page|card): (#\w+)", template)
    assert len(found) == 4
    return found


@pytest.mark.parametrize("colour", [*figures.COLOURS, figures.NO_LABEL_COLOUR])
def test_every_colour_is_seen_on_white_and_on_dark(colour: str, pages: list[str]):
    assert min(contrast(colour, page) for page in [*pages, "#ffffff"]) >= 3


def test_classes_differ_in_colour_until_they_repeat():
    assert len({figures.colour_of(number) for number in range(10)}) == 10
    assert figures.colour_of(13) == figures.colour_of(3)
    assert figures.NO_LABEL_COLOUR not in figures.COLOURS


@every_figure
def test_a_figure_says_what_it_shows_to_those_who_cannot_see_it(name: str):
    root = ElementTree.fromstring(FIGURES[name]())
    assert root.get("role") == "img"
    assert len(root.get("aria-label", "")) > 3


@every_figure
def test_text_takes_the_colour_of_the_page_and_nothing_hides_the_page(name: str):
    svg = FIGURES[name]()
    for element in ElementTree.fromstring(svg).iter():
        if element.tag.endswith("}text"):
            assert "fill: currentColor" in element.get("style", "")
    assert "#000" not in svg and "#fff" not in svg.lower()


@every_figure
def test_the_same_values_give_the_same_bytes(name: str):
    assert FIGURES[name]() == FIGURES[name]()


@every_figure
def test_what_a_figure_refers_to_is_in_it(name: str):
    svg = FIGURES[name]()
    ids = re.findall(r' id="([^"]+)"', svg)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg)) == set(ids)
    assert "<style" not in svg  # it would hold for the whole page


def test_figures_on_one_page_do_not_share_ids():
    ids = [found for draw in FIGURES.values() for found in re.findall(r' id="([^"]+)"', draw())]
    assert len(ids) == len(set(ids))


def test_drawing_leaves_the_settings_of_matplotlib_alone():
    before = dict(mpl.rcParams)
    for draw in FIGURES.values():
        draw()
    assert dict(mpl.rcParams) == before


def test_class_names_are_shown_as_they_are():
    names = ["$a$", "_b", "<i>&", "车"]
    found = texts(figures.confusion_matrix(np.eye(4, dtype=int).tolist(), names))
    assert [text for text in found if text in names] == 2 * names
    assert set(names) <= set(texts(figures.recall_bars(dict.fromkeys(names, 0.5))))


def test_long_names_are_cut_where_they_still_differ():
    names = ["Station Wagon Turbo 2012", "Station Wagon Turbo 2013"]
    shown = [text for text in texts(figures.recall_bars(dict.fromkeys(names, 0.5))) if "…" in text]
    assert len(set(shown)) == 2 and max(map(len, shown)) <= 16


def test_the_shade_of_a_cell_is_its_share_of_the_true_class():
    svg = figures.confusion_matrix([[3, 1, 0], [0, 0, 0], [2, 0, 6]], ["a", "b", "c"])
    [encoded] = re.findall(r"data:image/png;base64,([^\"]+)", svg)
    decoded = cv2.imdecode(np.frombuffer(b64decode(encoded), np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded is not None
    expected = 255 * np.array([[0.75, 0.25, 0], [0, 0, 0], [0.25, 0, 0.75]])
    assert decoded.shape == (3, 3, 4) and np.abs(decoded[..., 3] - expected).max() <= 1


def test_the_cells_of_few_classes_have_their_numbers():
    found = texts(figures.confusion_matrix([[31, 17], [0, 29]], ["a", "b"]))
    assert {"31", "17", "0", "29"} <= set(found)
    many = figures.confusion_matrix(np.full((60, 60), 777).tolist(), [f"class {k}" for k in range(60)])
    assert not any("777" in text or "class " in text and text[-1].isdigit() for text in texts(many))


def test_the_confusion_that_is_worst_is_said():
    svg = figures.confusion_matrix([[3, 1], [0, 2]], ["car", "van"])
    assert "25% of car taken for van" in svg
    assert "Nothing is confused" in figures.confusion_matrix([[3, 0], [0, 2]], ["car", "van"])


def test_a_folder_whose_name_is_no_utf_8_is_drawn():
    names = ["caf\udce9", "b"]
    assert "caf?" in texts(figures.recall_bars(dict.fromkeys(names, 0.5)))
    assert "of caf? taken for b" in figures.confusion_matrix([[3, 1], [0, 2]], names)


def test_a_class_name_cannot_end_the_description():
    root = ElementTree.fromstring(figures.confusion_matrix([[3, 1], [0, 2]], ['"><script>', "a & b"]))
    assert root.get("aria-label", "").endswith('25% of "><script> taken for a & b.')


def test_marks_are_named():
    assert {"source", "target", "last", "selected (im)"} <= set(texts(FIGURES["accuracy"]()))


def test_accuracy_of_one_domain_is_enough():
    found = texts(figures.accuracy_curves(CURVE, ([], []), {}))
    assert "source" in found and "target" not in found


def test_chance_is_drawn_beside_domain_accuracy():
    assert {"chance", "training"} <= set(texts(FIGURES["told"]()))


def test_thousands_of_dots_are_one_picture():
    points_N2 = np.random.default_rng(0).normal(size=(5000, 2))
    svg = figures.embedding(points_N2, ["#3280dd", "#df6e1b"] * 2500, "dots")
    assert svg.count("<image") == 1 and "<use" not in svg and len(svg) < 5000 * 100


def test_a_class_without_images_has_no_bar():
    assert "nan" not in figures.recall_bars({"a": None, "b": 0.5}, {"a": 0.5, "b": None}).lower()
