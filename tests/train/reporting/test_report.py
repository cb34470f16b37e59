"""The report: what the run wrote is on the page, what is missing is said, and nothing but the page is needed."""

import json
import re
import tomllib
from base64 import b64decode
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tiny import TINY

from dann.infer.errors import DannError, UsageError
from dann.train.config import resolve
from dann.train.loop import fit
from dann.train.reporting.report import write_report
from dann.train.run_dir import RunDir
from dann.train.settings import TrainConfig

Configure = Callable[..., TrainConfig]
VOID = {"meta", "img", "br", "link", "input", "hr"}
SCORES = {
    "images": 20,
    "correct": 15,
    "accuracy": 0.75,
    "recall": {"across": 0.9, "upright": 0.6},
    "mean_recall": 0.75,
    "confusion": [[9, 1], [4, 6]],
    "ece": 0.123,
}
HEADLINE = {"source_accuracy": 0.911, "target_accuracy": 0.75, "domain_accuracy": 0.555}
RESULT = {
    "mode": "dann",
    "method": "dann",
    "oracle": False,
    "simulated_target": False,
    "seconds": 12.0,
    "images_per_second": 345.0,
    "skipped_images": [{"path": "broken.png", "reason": "is not an image"}],
    "warnings": [{"step": 6, "name": "collapse", "message": "few classes are used; try less"}],
    "checkpoint": "selected",
    "selection": {"criterion": "im", "step": 3, "choices": {"last": 6, "im": 3, "snd": 6}},
    "last": {"step": 6, **HEADLINE, "target_accuracy": 0.702},
    "selected": {"step": 3, **HEADLINE},
    "best_on_test_labels": {"step": 6, **HEADLINE, "target_accuracy": 0.802},
    "source": {**SCORES, "accuracy": 0.911},
    "target": SCORES,
    "domain_accuracy": 0.555,
}
LOG = [
    {"kind": "step", "step": 3, "loss": 1.0, "label_loss": 0.5, "mcc_loss": 0.4, "lam": 0.1, "lr": 0.01, "epoch": 1.0},
    {"kind": "eval", "step": 3, **HEADLINE, "criteria": {"im": 0.321, "snd": 4.0}},
    {"kind": "step", "step": 6, "loss": 0.8, "label_loss": 0.4, "mcc_loss": 0.3, "lam": 0.2, "lr": 0.01, "epoch": 2.0},
    {"kind": "eval", "step": 6, **HEADLINE, "target_accuracy": 0.702, "criteria": {"im": 0.2, "snd": 4.5}},
    {"kind": "warning", **RESULT["warnings"][0]},
]


class Page(HTMLParser):
    """The elements of a page; fails where tags are not closed in order."""

    def __init__(self, path: Path):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.elements if name in attributes]

    @property
    def text(self) -> str:
        """What is read, on one line."""
        return " ".join(" ".join(self.texts).split())

    def table(self, label: str) -> list[list[str]]:
        """The cells of the table in the box that is called ``label``."""
        box = self.source.split(f'aria-label="{label}"')[1].split("</table>")[0]
        rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in box.split("<tr")[1:]]
        return [[unescape(cell) for cell in row] for row in rows]


def settings(sets: dict[str, str]) -> dict[str, Any]:
    """Of a run of two epochs with four steps in all, a quarter of the source held out, that selects by ``im``."""
    return {
        **TINY,
        "data.source": sets["source"],
        "data.target": sets["unlabelled"],
        "data.test": sets["test"],
        "data.holdout": 0.25,
        "selection.criterion": "im",
        "epochs": 2,
    }


@pytest.fixture(scope="module")
def trained(sets: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return fit(resolve(overrides=settings(sets)), runs=tmp_path_factory.mktemp("runs"), name="mine").run


@pytest.fixture(scope="module")
def source_only(sets: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    overrides = {**settings(sets), "mode": "source", "selection.criterion": "last"}
    return fit(resolve(overrides=overrides), runs=tmp_path_factory.mktemp("runs"), name="before").run


@pytest.fixture(scope="module")
def page(trained: RunDir, source_only: RunDir, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The report of a real run beside a source-only one."""
    return Page(write_report(trained, out=tmp_path_factory.mktemp("out") / "r.html", source_only=source_only).path)


@pytest.fixture
def written(sets: dict[str, str], tmp_path: Path) -> Callable[..., RunDir]:
    """A function that writes a run by hand, without a checkpoint: its log, its result, and settings of its own."""

    def write(
        result: dict[str, Any] | None = RESULT,
        log: list[dict[str, Any]] = LOG,
        about: dict[str, Any] | None = None,
        name: str = "by-hand",
        **overrides: Any,
    ) -> RunDir:
        run = RunDir(tmp_path / name)
        config = resolve(overrides={**settings(sets), **overrides})
        run.write_config(
            config, {"classes": ["across", "upright"], "data": {"labelled": {"images": 18}}, **(about or {})}
        )
        run.metrics.write_text("".join(json.dumps(line) + "\n" for line in log), encoding="utf-8")
        if result is not None:
            run.result.write_text(json.dumps(result), encoding="utf-8")
        return run

    return write


# ---- the page -------------------------------------------------------------------------------------------------------


def test_the_report_lies_in_the_folder_of_its_run(written: Callable[..., RunDir]):
    run = written()
    report = write_report(run)
    assert report.path == run.root / "report.html" and Page(report.path).text.startswith("by-hand")


def test_nothing_is_fetched_and_nothing_is_run(page: Page):
    loaded = [
        *page.attributes("src"),
        *page.attributes("href"),
        *page.attributes("xlink:href"),
        *page.attributes("action"),
    ]
    assert loaded and all(address.startswith(("data:image/", "#")) for address in loaded)
    assert {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "form"} == set()
    assert set(re.findall(r"url\((.)", page.source)) <= {"#"} and "@import" not in page.source
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]


def test_every_picture_is_described(page: Page):
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    drawings = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(images) > 20 and all(attributes["alt"] for attributes in images)
    assert len(drawings) == 9
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in drawings)


def test_ids_are_unique_and_links_lead_somewhere(page: Page):
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    links = page.attributes("href") + page.attributes("xlink:href") + page.attributes("aria-describedby")
    assert {link.lstrip("#") for link in links if not link.startswith("data:")} <= set(ids)


def test_the_page_has_both_colour_schemes_a_width_and_a_print_form(page: Page):
    assert {"content": "light dark", "name": "color-scheme"} in [attributes for _, attributes in page.elements]
    assert "width=device-width" in page.source
    assert "prefers-color-scheme: dark" in page.source and "@media print" in page.source


def test_the_same_run_gives_the_same_bytes(trained: RunDir, tmp_path: Path):
    one, two = (write_report(trained, out=tmp_path / name).path.read_bytes() for name in ("one.html", "two.html"))
    assert one == two


# ---- what the run wrote ---------------------------------------------------------------------------------------------


def test_last_selected_and_best_stand_side_by_side_with_their_gap(written: Callable[..., RunDir]):
    found = Page(write_report(written()).path)
    assert found.table("Checkpoints") == [
        ["checkpoint", "target", "gap to best, points", "source", "domains told", "epoch"],
        ["last", "0.702", "−10.0", "0.911", "0.555", "2"],
        ["selected (im) · exported", "0.750", "−5.2", "0.911", "0.555", "1"],
        ["best on test labels", "0.802", "0.0", "0.911", "0.555", "2"],
    ]
    assert "Target accuracy 0.750 on 20 test images; mean recall 0.750" in found.text


def test_each_criterion_shows_what_it_would_have_picked(written: Callable[..., RunDir]):
    assert Page(write_report(written()).path).table("Selection") == [
        ["criterion", "target", "gap to best, points", "value", "epoch"],
        ["last", "0.702", "−10.0", "–", "2"],
        ["im · used", "0.750", "−5.2", "0.321", "1"],
        ["snd", "0.702", "−10.0", "4.5", "2"],
    ]


def test_every_loss_is_drawn(written: Callable[..., RunDir]):
    labels = " ".join(Page(write_report(written()).path).attributes("aria-label"))
    assert "Losses in training: label 0.4 at the end, mcc 0.3 at the end" in labels


def test_classes_are_listed_with_what_they_are_taken_for(written: Callable[..., RunDir]):
    assert Page(write_report(written()).path).table("Classes") == [
        ["class", "images", "predicted", "recall", "most often taken for"],
        ["across", "10", "13", "0.900", "upright (1)"],
        ["upright", "10", "7", "0.600", "across (4)"],
    ]


def test_warnings_are_shown_once_and_left_out_images_named(written: Callable[..., RunDir]):
    text = Page(write_report(written()).path).text
    assert text.count("few classes are used; try less") == 1 and "Warning at epoch 2 (collapse)" in text
    assert "1 images were left out broken.png: is not an image" in text


def test_the_settings_on_the_page_are_those_of_the_run(page: Page, trained: RunDir):
    toml = unescape(re.findall(r"<pre[^>]*>(.*?)</pre>", page.source, re.DOTALL)[0])
    assert TrainConfig.from_dict(tomllib.loads(toml)) == trained.read_config()[0]


@pytest.mark.parametrize(
    ("stamp", "arguments"),
    [
        ("ORACLE", {"mode": "target"}),
        ("SIMULATED PHOTOS", {"result": {**RESULT, "simulated_target": True}}),
        ("SIMULATED PHOTOS", {"result": None, "about": {"simulated": True}}),
        ("UNFINISHED", {"result": None}),
    ],
)
def test_a_run_is_stamped_for_what_it_is(stamp: str, arguments: dict[str, Any], written: Callable[..., RunDir]):
    assert stamp in Page(write_report(written(**arguments)).path).text


def test_an_ordinary_run_has_no_stamp(page: Page):
    assert not [stamp for stamp in ("ORACLE", "SIMULATED", "UNFINISHED") if stamp in page.text]


def test_names_cannot_break_the_page(written: Callable[..., RunDir]):
    name = '"><script>alert(1)</script>'
    scores = {**SCORES, "recall": {name: 0.9, "upright": 0.6}}
    found = Page(write_report(written({**RESULT, "target": scores}, about={"classes": [name, "upright"]})).path)
    assert "script" not in {tag for tag, _ in found.elements}
    assert name in found.text and found.table("Classes")[1][0] == name


def test_a_class_whose_folder_is_no_utf_8_is_reported(written: Callable[..., RunDir]):
    scores = {**SCORES, "recall": {"caf\udce9": 0.9, "upright": 0.6}}
    report = write_report(written({**RESULT, "target": scores}))
    assert report.path.read_bytes().count(b"caf\xe9") > 0


# ---- what the network says ------------------------------------------------------------------------------------------


def test_a_real_run_has_every_part(page: Page):
    assert page.text.count("t-SNE of the features of 6 source images and 20 target images") == 1
    for words in (
        "the proxy A-distance is",
        "Expected calibration error 0.",
        "spread of target test images",
        "im · used",
    ):
        assert words in page.text
    assert 'class="absent"' not in page.source


def test_the_thumbnails_are_the_images_of_the_set(page: Page, sets: dict[str, str]):
    with np.load(sets["test"]) as stored:
        images, labels, classes = stored["x"], stored["y"], [str(name) for name in stored["classes"]]
    sampled = page.source.split('id="samples"')[1]
    shown = re.findall(r'base64,([^"]+)" alt="([^"]+)"[^>]*>\s*<span[^>]*>(.) (\w+)</span>', sampled)
    assert len(shown) == 20
    for encoded, name, mark, predicted in shown:
        index = int(name.rpartition("#")[2])
        decoded = cv2.imdecode(np.frombuffer(b64decode(encoded), np.uint8), cv2.IMREAD_COLOR_RGB)
        assert decoded is not None and np.array_equal(decoded, images[index])
        assert (mark == "✓") == (predicted == classes[labels[index]])


def test_the_mistakes_are_wrong_and_as_many_as_the_run_counted(page: Page, trained: RunDir):
    shown = page.source.split('id="mistakes"')[1].split('id="samples"')[0]
    found = re.findall(r"✗ (\w+)</span>\s*<small>([\d.]+), is (\w+)</small>", shown)
    result = json.loads(trained.result.read_text(encoding="utf-8"))["target"]
    assert len(found) == result["images"] - result["correct"]
    assert all(predicted != true for predicted, _, true in found)
    assert [float(entry[1]) for entry in found] == sorted((float(entry[1]) for entry in found), reverse=True)


def test_a_large_picture_becomes_a_small_jpeg(sets: dict[str, str], tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 255, (4, 200, 300, 3)).astype(np.uint8)
    np.savez(tmp_path / "large.npz", x=pixels, y=[0, 1, 0, 1], classes=["across", "upright"])
    overrides = {
        **settings(sets),
        **{f"data.{name}": str(tmp_path / "large.npz") for name in ("source", "target", "test")},
        "data.height": 200,
        "data.width": 300,
        "data.holdout": 0.5,
        "steps": 1,
        "batch_size": 2,
    }
    run = fit(resolve(overrides=overrides), runs=tmp_path).run
    encoded = re.findall(r'data:image/jpeg;base64,([^"]+)', Page(write_report(run).path).source)
    decoded = [cv2.imdecode(np.frombuffer(b64decode(text), np.uint8), cv2.IMREAD_COLOR) for text in encoded]
    assert {image.shape for image in decoded if image is not None} == {(85, 128, 3)}


# ---- what is missing ------------------------------------------------------------------------------------------------


def test_without_a_result_the_checkpoint_speaks(trained: RunDir, tmp_path: Path):
    copied = RunDir(tmp_path / "interrupted")
    for file in (trained.config, trained.metrics, trained.evaluated):
        target = copied.root / file.relative_to(trained.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    copied.metrics.write_bytes(copied.metrics.read_bytes()[:-30])  # torn
    report = write_report(copied)
    found = Page(report.path)
    finished = json.loads(trained.result.read_text(encoding="utf-8"))["target"]
    assert "UNFINISHED" in found.text and "Nothing is selected before the run is finished." in report.left_out
    assert f"Target accuracy {finished['accuracy']:.3f}" in found.text
    assert [row[0] for row in found.table("Checkpoints")] == ["checkpoint", "last evaluation"]


def test_without_target_labels_the_source_is_scored_and_target_images_are_shown(sets: dict[str, str], tmp_path: Path):
    overrides = {key: value for key, value in settings(sets).items() if key != "data.test"}
    found = Page(write_report(fit(resolve(overrides=overrides), runs=tmp_path).run).path)
    assert "Source accuracy" in found.text and "Target accuracy" not in found.text
    assert found.table("Checkpoints")[0] == ["checkpoint", "source", "domains told", "epoch"]
    assert "what the target gained cannot be told" in found.text
    assert "A fixed spread of target images without labels" in found.text and "without label" in found.text
    assert "the proxy A-distance is" in found.text


def test_without_any_target_there_is_a_report_of_the_source(sets: dict[str, str], tmp_path: Path):
    overrides = {key: value for key, value in settings(sets).items() if key not in ("data.test", "data.target")}
    run = fit(resolve(overrides={**overrides, "mode": "source", "selection.criterion": "last"}), runs=tmp_path).run
    report = write_report(run)
    found = Page(report.path)
    assert {"The run has no target images.", "No domain classifier was trained."} <= set(report.left_out)
    assert "Nothing was selected: there is only the last checkpoint to choose from." in found.text
    assert (
        "A fixed spread of source test images" in found.text
        and "t-SNE of the features of 6 source images" in found.text
    )
    assert "λ" not in " ".join(found.attributes("aria-label"))


def test_without_anything_every_part_says_why(written: Callable[..., RunDir]):
    report = write_report(written(result=None, log=[]))
    found = Page(report.path)
    assert all(reason in found.text for reason in report.left_out) and len(report.left_out) >= 8
    assert {"The run was never evaluated.", "No training step was logged."} <= set(report.left_out)
    assert any("The network cannot be loaded" in reason for reason in report.left_out)


def test_scores_are_not_mixed_with_what_is_seen_on_other_images(sets: dict[str, str], tmp_path: Path):
    test = tmp_path / "test.npz"
    test.write_bytes(Path(sets["test"]).read_bytes())
    run = fit(resolve(overrides={**settings(sets), "data.test": str(test)}), runs=tmp_path).run
    with np.load(sets["test"]) as stored:
        np.savez(test, x=stored["x"][:7], y=stored["y"][:7], classes=stored["classes"])
    report = write_report(run)
    assert "The test images are no longer those that the run was scored on." in report.left_out
    assert "on 20 test images" in Page(report.path).text


# ---- beside a source-only run ---------------------------------------------------------------------------------------


def test_the_change_against_source_only_is_per_class(written: Callable[..., RunDir]):
    before = {**RESULT, "target": {**SCORES, "accuracy": 0.65, "recall": {"across": 1.0, "upright": None}}}
    report = write_report(written(), source_only=written(before, name="before", mode="source"))
    found = Page(report.path)
    assert "Over source only +10.0 points; it has 0.650" in found.text
    assert [row[4:6] for row in found.table("Classes")] == [
        ["source only", "change, points"],
        ["1.000", "−10.0"],
        ["–", "–"],
    ]


@pytest.mark.parametrize(
    ("before", "message"),
    [
        ({"mode": "dann"}, "is of mode 'dann'; name one of mode 'source'"),
        ({"mode": "source", "result": None}, "has no target scores to compare with"),
        ({"mode": "source", "result": {**RESULT, "target": {**SCORES, "confusion": [[9, 1], [4, 7]]}}}, "other images"),
        (
            {"mode": "source", "result": {**RESULT, "target": {**SCORES, "recall": {"across": 0.9, "round": 0.6}}}},
            "'round': 10",
        ),
    ],
)
def test_a_run_that_cannot_be_compared_is_refused(before: dict[str, Any], message: str, written: Callable[..., RunDir]):
    run = written()
    with pytest.raises(UsageError, match=message):
        write_report(run, source_only=written(name="before", **before))
    assert not (run.root / "report.html").exists()


# ---- bad places -----------------------------------------------------------------------------------------------------


def test_a_failure_leaves_the_report_before_as_it_was(written: Callable[..., RunDir]):
    run = written()
    (run.root / "report.html").write_text("before", encoding="utf-8")
    run.result.write_text("{", encoding="utf-8")
    with pytest.raises(DannError, match="damaged"):
        write_report(run)
    assert (run.root / "report.html").read_text(encoding="utf-8") == "before"
    assert not list(run.root.glob("*.tmp")) and not list(run.root.glob(".*.tmp"))


def test_a_folder_that_is_not_there_is_refused(written: Callable[..., RunDir], tmp_path: Path):
    with pytest.raises(UsageError, match="is not a folder; create it"):
        write_report(written(), out=tmp_path / "missing" / "report.html")
