"""Opening data specs: labels, splits, what is refused."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from dann.infer.errors import DannError, UsageError
from dann.infer.preprocess import PreprocessSpec, load_image
from dann.train.data import (
    ImageSet,
    LabelledSet,
    default_data_root,
    has_test_split,
    holdout,
    open_labelled,
    open_unlabelled,
    split_layout,
)
from dann.train.image_set import images_from_arrays

SIZE = PreprocessSpec(height=6, width=8)


def write_image(path: Path, value: int) -> Path:
    """An 8×8 PNG in which every image of its own ``value`` differs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((8, 8, 3), value, np.uint8)
    pixels[: value % 8, 1] = 255
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    return path


@pytest.fixture
def class_folder(tmp_path: Path) -> Path:
    """Two classes: three vans, one of them in a deeper folder, and two sedans."""
    root = tmp_path / "cars"
    for i, name in enumerate(["van/a.png", "van/b.PNG", "van/night/c.png", "sedan/a.png", "sedan/b.png"]):
        write_image(root / name, 10 + i)
    return root


def test_a_class_folder_gives_sorted_classes_and_their_labels(class_folder: Path):
    opened = open_labelled(str(class_folder), SIZE)
    assert opened.classes == ("sedan", "van")
    assert opened.labels.dtype == np.int64
    assert opened.labels.tolist() == [0, 0, 1, 1, 1]
    assert [Path(name).relative_to(class_folder).as_posix() for name in opened.images.names] == [
        "sedan/a.png", "sedan/b.png", "van/a.png", "van/b.PNG", "van/night/c.png",
    ]  # fmt: skip


def test_images_are_what_preprocessing_makes_of_the_files(class_folder: Path):
    images = open_labelled(str(class_folder), SIZE).images
    pixels = images.read(np.array([3, 0]))
    assert pixels.shape == (2, 6, 8, 3) and pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels[0], load_image(Path(images.names[3]), SIZE))
    np.testing.assert_array_equal(pixels[1], load_image(Path(images.names[0]), SIZE))


def test_an_unlabelled_set_has_no_labels_and_every_image(class_folder: Path):
    write_image(class_folder / "loose.png", 99)
    images = open_unlabelled(str(class_folder), SIZE)
    assert len(images) == 6
    assert isinstance(images, ImageSet)
    public = {name for name in dir(images) if not name.startswith("_")}
    assert public == {"fingerprint", "in_memory", "names", "read", "shape_HWC", "skipped", "subset"}


def test_images_beside_the_class_folders_are_named_not_used(class_folder: Path):
    loose = write_image(class_folder / "loose.png", 99)
    opened = open_labelled(str(class_folder), SIZE)
    assert len(opened) == 5
    assert opened.images.skipped == [(str(loose), "lies beside the class folders, so it has no class")]


def test_unreadable_images_are_left_out_with_their_labels(class_folder: Path):
    (class_folder / "sedan" / "a.png").write_text("not an image")
    opened = open_labelled(str(class_folder), SIZE)
    assert opened.labels.tolist() == [0, 1, 1, 1]
    [(name, reason)] = opened.images.skipped
    assert name.endswith("a.png") and "is not an image" in reason
    np.testing.assert_array_equal(opened.images.read(np.array([0]))[0], load_image(class_folder / "sedan/b.png", SIZE))


def test_a_class_whose_images_are_all_unreadable_is_refused(class_folder: Path):
    for path in (class_folder / "sedan").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UsageError, match=r"no readable image of \['sedan'\]"):
        open_labelled(str(class_folder), SIZE)


def test_a_set_without_one_readable_image_fails(class_folder: Path):
    for path in class_folder.rglob("*.[pP]*"):
        path.write_bytes(b"GIF")
    with pytest.raises(DannError, match="none of 5 images can be read"):
        open_labelled(str(class_folder), SIZE)


def test_one_class_is_refused_for_training_but_not_for_testing(class_folder: Path):
    for path in (class_folder / "sedan").iterdir():
        path.unlink()
    (class_folder / "sedan").rmdir()
    with pytest.raises(UsageError, match=r"one class only, \['van'\]"):
        open_labelled(str(class_folder), SIZE)
    tested = open_labelled(str(class_folder), SIZE, classes=("pickup", "sedan", "van"))
    assert tested.labels.tolist() == [2, 2, 2]
    assert tested.classes == ("pickup", "sedan", "van")


def test_labels_of_a_test_set_follow_the_order_of_the_trained_classes(class_folder: Path):
    assert open_labelled(str(class_folder), SIZE, classes=("van", "sedan")).labels.tolist() == [1, 1, 0, 0, 0]


def test_a_class_that_was_not_trained_is_refused_with_both_lists(class_folder: Path):
    with pytest.raises(UsageError, match=r"\['van'\].*\['sedan', 'van'\].*\['sedan', 'suv'\]"):
        open_labelled(str(class_folder), SIZE, classes=("sedan", "suv"))


def test_labels_from_a_flat_folder_are_refused_with_what_would_do(tmp_path: Path):
    write_image(tmp_path / "a.png", 1)
    with pytest.raises(UsageError, match="has no labels.*one sub-folder per class"):
        open_labelled(str(tmp_path), SIZE)
    assert len(open_unlabelled(str(tmp_path), SIZE)) == 1


def test_subsets_keep_pixels_labels_and_names_together(class_folder: Path):
    opened = open_labelled(str(class_folder), SIZE)
    part = opened.subset(np.array([4, 1])).subset(np.array([0]))
    assert len(part) == 1 and part.labels.tolist() == [1] and part.classes == opened.classes
    assert part.images.names == [opened.images.names[4]]
    np.testing.assert_array_equal(part.images.read(np.array([0])), opened.images.read(np.array([4])))


def make_labelled(counts: list[int]) -> LabelledSet:
    labels = np.repeat(np.arange(len(counts)), counts)
    pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    images = images_from_arrays(pixels, [f"#{i}" for i in range(len(labels))], PreprocessSpec(height=2, width=2))
    return LabelledSet(images, labels, tuple(f"class {i}" for i in range(len(counts))))


def test_holdout_takes_its_share_of_every_class_once():
    labelled = make_labelled([40, 10, 2, 1])
    rest, held = holdout(labelled, 0.2, seed=3)
    assert np.bincount(held.labels, minlength=4).tolist() == [8, 2, 1, 0]
    assert sorted([*rest.images.names, *held.images.names]) == sorted(labelled.images.names)


def test_holdout_depends_on_the_seed_alone():
    labelled = make_labelled([40, 40])
    first, again, other = (holdout(labelled, 0.25, seed)[1].images.names for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_holdout_refuses_a_fraction_that_leaves_a_side_empty(fraction: float):
    with pytest.raises(UsageError, match="between 0 and 1"):
        holdout(make_labelled([4, 4]), fraction, seed=0)


def test_holdout_refuses_a_set_that_has_nothing_to_spare():
    with pytest.raises(UsageError, match="no class has two"):
        holdout(make_labelled([1, 1]), 0.5, seed=0)


def test_split_layout_gives_its_three_folders(tmp_path: Path):
    for name in ("train/source", "train/target", "test"):
        (tmp_path / name).mkdir(parents=True)
    assert split_layout(tmp_path) == tuple(str(tmp_path / name) for name in ("train/source", "train/target", "test"))


def test_split_layout_lists_all_that_is_missing(tmp_path: Path):
    (tmp_path / "train" / "source").mkdir(parents=True)
    with pytest.raises(UsageError) as caught:
        split_layout(tmp_path)
    assert str(tmp_path / "train" / "target") in str(caught.value)
    assert str(tmp_path / "test") in str(caught.value)
    assert f"'{tmp_path / 'train' / 'source'}'" not in str(caught.value)


def test_only_named_sets_have_a_test_split():
    assert has_test_split("mnist") and has_test_split("cars")
    assert not has_test_split("./mnist") and not has_test_split("list.csv")


def test_the_data_root_is_the_variable_else_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DANN_DATA", raising=False)
    assert default_data_root() == tmp_path / "cache" / "dann"
    monkeypatch.setenv("DANN_DATA", str(tmp_path / "sets"))
    assert default_data_root() == tmp_path / "sets"
    monkeypatch.delenv("DANN_DATA")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert default_data_root() == tmp_path / ".cache" / "dann"
