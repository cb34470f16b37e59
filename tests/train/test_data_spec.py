"""What each form of data spec names, and what is refused."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from dann.infer.errors import DannError, UsageError
from dann.train.data_spec import Found, Pixels, find

PNG = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()


def write(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PNG)
    return root


def look(spec: Path | str, by_class: bool = True) -> Found:
    return find(str(spec), "train", "source", Path("no data root"), by_class=by_class)


def names(found: Found, root: Path) -> list[str]:
    assert isinstance(found.content, list)
    return [path.relative_to(root).as_posix() for path in found.content]


def test_hidden_files_and_clutter_are_not_looked_at(tmp_path: Path):
    write(tmp_path, "a/1.png", "a/._1.png", "b/2.JPEG", "b/.cache/3.png", ".git/4.png", "__MACOSX/a/5.png")
    write(tmp_path, "b/@eaDir/thumb.jpg", "a/Thumbs.db", "b/.DS_Store", ".DS_Store", "notes.txt")
    assert names(look(tmp_path), tmp_path) == ["a/1.png", "b/2.JPEG"]
    assert names(look(tmp_path, by_class=False), tmp_path) == ["a/1.png", "b/2.JPEG"]
    assert look(tmp_path).skipped == []


def test_a_class_folder_may_be_a_link(tmp_path: Path):
    write(tmp_path, "elsewhere/1.png", "set/a/2.png")
    (tmp_path / "set" / "b").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    found = look(tmp_path / "set")
    assert found.classes == ("a", "b")
    assert names(found, tmp_path) == ["set/a/2.png", "set/b/1.png"]
    assert names(look(tmp_path / "set", by_class=False), tmp_path) == ["set/a/2.png", "set/b/1.png"]


def test_a_link_back_to_the_top_does_not_loop(tmp_path: Path):
    write(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "a" / "top").symlink_to(tmp_path, target_is_directory=True)
    assert names(look(tmp_path), tmp_path) == ["a/1.png", "b/2.png"]


def test_an_empty_class_folder_is_named(tmp_path: Path):
    write(tmp_path, "a/1.png", "b/readme.txt")
    with pytest.raises(UsageError, match=r"class folders without images: \['b'\]"):
        look(tmp_path)
    assert names(look(tmp_path, by_class=False), tmp_path) == ["a/1.png"]


@pytest.mark.parametrize("by_class", [True, False])
def test_a_folder_without_images_is_refused(tmp_path: Path, by_class: bool):
    write(tmp_path, "readme.txt")
    with pytest.raises(UsageError, match="no images in"):
        look(tmp_path, by_class)


@pytest.mark.parametrize("bad", ["=cmd()", "+1", "-1", "@home", " ", "tab\there", "bell\a"])
def test_class_names_that_would_break_outputs_are_refused(tmp_path: Path, bad: str):
    write(tmp_path, "a/1.png", f"{bad}/2.png")
    with pytest.raises(UsageError) as caught:
        look(tmp_path)
    assert repr(bad) in str(caught.value) and "rename it" in str(caught.value)


def test_class_names_of_any_script_are_fine(tmp_path: Path):
    write(tmp_path, "Löwe/1.png", "轿车/2.png", "mini van/3.png")
    assert look(tmp_path).classes == ("Löwe", "mini van", "轿车")


def test_class_names_that_differ_only_in_case_are_refused(tmp_path: Path):
    (tmp_path / "list.csv").write_text("path,label\na.png,Sedan\nb.png,sedan\n")
    with pytest.raises(UsageError, match="'Sedan' and 'sedan'.*upper and lower case"):
        look(tmp_path / "list.csv")


def test_a_csv_names_files_relative_to_itself(tmp_path: Path):
    csv = tmp_path / "lists" / "train.CSV"
    csv.parent.mkdir()
    csv.write_text(f"\ufeffpath,label,comment\n../b.png,van,\n{tmp_path / 'a.png'},sedan,x\n../b.png,van,again\n")
    found = look(csv)
    assert found.classes == ("sedan", "van")
    assert found.labels is not None and found.labels.tolist() == [1, 0, 1]
    assert isinstance(found.content, list)
    assert found.content == [csv.parent / "../b.png", tmp_path / "a.png", csv.parent / "../b.png"]


def test_a_csv_without_labels_has_none(tmp_path: Path):
    (tmp_path / "list.csv").write_text("path\na.png\n")
    assert look(tmp_path / "list.csv").labels is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a.png,van\nb.png,suv\n", "first line must be 'path,label'"),
        (b"path,label\n", "has no rows"),
        (b"", "first line must be 'path,label'"),
        (b"path,label\na.png,van\nb.png\n", "line 3 .* is incomplete"),
        (b"path,label\n,van\n", "line 2 .* is incomplete"),
        (b"path,label\nb\xff.png,van\n", "cannot be read as a UTF-8 CSV"),
    ],
)
def test_a_csv_that_is_not_as_expected_is_refused(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        look(tmp_path / "list.csv")


def write_npz(path: Path, **arrays: object) -> Path:
    np.savez(path, **{key: np.asarray(value) for key, value in arrays.items()})  # type: ignore[arg-type]
    return path


IMAGES = np.arange(3 * 4 * 4, dtype=np.uint8).reshape(3, 4, 4)


def test_an_npz_without_names_calls_its_classes_by_their_numbers(tmp_path: Path):
    found = look(write_npz(tmp_path / "set.npz", x=IMAGES, y=[10, 9, 10]))
    assert found.classes == ("9", "10")
    assert found.labels is not None and found.labels.tolist() == [1, 0, 1]
    assert isinstance(found.content, Pixels)
    assert found.content.names == [f"{tmp_path / 'set.npz'}#{i}" for i in range(3)]
    np.testing.assert_array_equal(found.content.images, IMAGES)


def test_an_npz_may_name_its_classes(tmp_path: Path):
    found = look(write_npz(tmp_path / "set.npz", x=IMAGES, y=[1, 0, 1], classes=["van", "sedan"]))
    assert found.classes == ("van", "sedan")
    assert found.labels is not None and found.labels.tolist() == [1, 0, 1]


def test_an_npz_without_y_has_no_labels(tmp_path: Path):
    assert look(write_npz(tmp_path / "set.npz", x=IMAGES)).labels is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES}, r"arrays \['images'\]; expected 'x'"),
        ({"x": IMAGES.astype(np.float32)}, "x float32"),
        ({"x": IMAGES[0]}, r"x uint8\(4, 4\)"),
        ({"x": IMAGES[:, :, :, None]}, r"x uint8\(3, 4, 4, 1\)"),
        ({"x": IMAGES[:0]}, r"x uint8\(0, 4, 4\)"),
        ({"x": IMAGES, "y": [0, 1]}, "expected 3 integers"),
        ({"x": IMAGES, "y": [0.0, 1.0, 1.0]}, "expected 3 integers"),
        ({"x": IMAGES, "y": [0, 2, 1], "classes": ["a", "b"]}, "y from 0 to 2, but 2 'classes'"),
        ({"x": IMAGES, "y": [-1, 1, 1]}, "class '-1'"),
    ],
)
def test_an_npz_that_is_not_as_expected_is_refused(tmp_path: Path, arrays: dict[str, object], message: str):
    with pytest.raises(UsageError, match=message):
        look(write_npz(tmp_path / "set.npz", **arrays))


def test_an_npz_with_objects_or_damage_is_refused(tmp_path: Path):
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, x=np.array([{}], object))
    damaged = write_npz(tmp_path / "damaged.npz", x=IMAGES)
    damaged.write_bytes(damaged.read_bytes()[:100])
    single = tmp_path / "single.npz"
    with single.open("wb") as file:
        np.save(file, IMAGES)
    for path in (pickled, damaged, single):
        with pytest.raises(DannError, match="cannot be read as an .npz of plain arrays"):
            look(path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mnsit", "unknown data set or folder 'mnsit'; did you mean 'mnist'"),
        ("photos/real", "'photos/real' does not exist; expected a folder"),
        ("list.csv", "'list.csv' does not exist; expected a folder"),
        ("", "unknown data set or folder ''"),
    ],
)
def test_a_spec_that_names_nothing_is_refused(spec: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        look(spec)


def test_a_file_that_is_no_data_set_is_refused(tmp_path: Path):
    write(tmp_path, "car.png")
    with pytest.raises(UsageError, match=r"car.png' is a file that is no data set"):
        look(tmp_path / "car.png")


def test_a_folder_can_have_the_name_of_a_named_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "mnist/a/1.png", "mnist/b/2.png")
    assert look("./mnist").classes == ("a", "b")


def test_data_is_read_without_torch():
    code = "import sys, dann.train.data, dann.train.fetch, dann.train.mnistm; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
