"""Building MNIST-M from a few digits and photos."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from dann.infer import images
from dann.infer.errors import DannError, UsageError
from dann.train.mnistm import SIDE, build_mnistm

TRAIN, TEST = 60, 20


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + b"".join(s.to_bytes(4, "big") for s in array.shape) + array.tobytes()


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    raw = tmp_path / "mnist"
    raw.mkdir()
    random = np.random.default_rng(0)
    for stem, count in (("train", TRAIN), ("t10k", TEST)):
        digits = random.integers(0, 2, (count, SIDE, SIDE), np.uint8) * 255
        (raw / f"{stem}-images-idx3-ubyte").write_bytes(idx(digits))
        (raw / f"{stem}-labels-idx1-ubyte").write_bytes(idx(np.arange(count, dtype=np.uint8) % 10))
    return raw


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(1)
    for i, (height, width) in enumerate([(40, 60), (28, 28), (90, 31)]):
        write_photo(folder / f"{i}.png", random.integers(0, 256, (height, width, 3), np.uint8))
    return folder


def write_photo(path: Path, pixels_HWC: np.ndarray) -> None:
    path.write_bytes(cv2.imencode(".png", pixels_HWC[:, :, ::-1])[1].tobytes())


def load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as stored:
        return stored["x"], stored["y"]


def test_every_image_is_a_patch_of_a_photo_with_its_digit_subtracted(mnist: Path, tmp_path: Path):
    photo = np.random.default_rng(2).integers(0, 256, (30, 33, 3), np.uint8)
    (tmp_path / "one").mkdir()
    write_photo(tmp_path / "one" / "photo.png", photo)
    report = build_mnistm(mnist, tmp_path / "one", tmp_path / "out")
    x, y = load(report.train)
    assert x.shape == (TRAIN, 28, 28, 3) and x.dtype == np.uint8
    assert y.dtype == np.uint8 and y.tolist() == [i % 10 for i in range(TRAIN)]
    digits = np.frombuffer((mnist / "train-images-idx3-ubyte").read_bytes(), np.uint8, offset=16).reshape(-1, 28, 28)
    patches = {photo[top : top + 28, left : left + 28].tobytes(): (top, left) for top in range(3) for left in range(6)}
    # digits are 0 or 255 here, where |patch − digit| is undone by the same digit
    places = {patches.get(np.where(digit[:, :, None] > 0, 255 - image, image).tobytes())
              for image, digit in zip(x, digits, strict=True)}  # fmt: skip
    assert None not in places  # every image is one of the patches
    rows, columns = zip(*(place for place in places if place), strict=True)
    assert len(places) > 10  # of 18: the patch is random, and its last row and column are reached
    assert set(rows) == set(range(3)) and set(columns) == set(range(6))


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(mnist: Path, photos: Path, tmp_path: Path):
    first = build_mnistm(mnist, photos, tmp_path / "first", seed=5)
    again = build_mnistm(mnist, photos, tmp_path / "again", seed=5)
    other = build_mnistm(mnist, photos, tmp_path / "other", seed=6)
    assert first.train.read_bytes() == again.train.read_bytes()
    assert first.test.read_bytes() == again.test.read_bytes()
    assert first.train.read_bytes() != other.train.read_bytes()


def test_the_order_in_which_a_folder_lists_its_photos_does_not_matter(
    mnist: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before = build_mnistm(mnist, photos, tmp_path / "before").train.read_bytes()
    entries = images._entries
    for reorder in (sorted_by_name, lambda found: sorted_by_name(found)[::-1]):
        monkeypatch.setattr(images, "_entries", lambda folder, reorder=reorder: reorder(entries(folder)))
        assert build_mnistm(mnist, photos, tmp_path / "after").train.read_bytes() == before


def sorted_by_name(entries: list[os.DirEntry[str]]) -> list[os.DirEntry[str]]:
    return sorted(entries, key=lambda entry: entry.name)


def test_photos_that_cannot_be_read_are_skipped_and_reported(mnist: Path, photos: Path, tmp_path: Path):
    (photos / "broken.jpg").write_bytes(b"no photo")
    report = build_mnistm(mnist, photos, tmp_path / "out")
    assert report.photo_count == 3
    [(name, reason)] = report.skipped
    assert name == str(photos / "broken.jpg") and "is not an image" in reason


def test_a_photo_smaller_than_a_patch_is_refused_by_name(mnist: Path, photos: Path, tmp_path: Path):
    write_photo(photos / "icon.png", np.zeros((28, 27, 3), np.uint8))
    with pytest.raises(UsageError, match=r"icon.png' is 27×28 pixels; a patch needs 28×28"):
        build_mnistm(mnist, photos, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_photos_is_refused(mnist: Path, tmp_path: Path):
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="no images at"):
        build_mnistm(mnist, tmp_path / "none", tmp_path / "out")


def test_a_folder_without_a_readable_photo_fails(mnist: Path, tmp_path: Path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "1.jpg").write_bytes(b"")
    with pytest.raises(DannError, match="none of 1 photos .* can be read"):
        build_mnistm(mnist, tmp_path / "bad", tmp_path / "out")


def test_a_folder_without_mnist_is_refused(photos: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="no MNIST files .*dann data fetch mnist"):
        build_mnistm(photos, photos, tmp_path / "out")


def test_a_place_that_cannot_be_written_fails_and_leaves_nothing(mnist: Path, photos: Path, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DannError, match="cannot write .*choose another folder with --out"):
        build_mnistm(mnist, photos, tmp_path / "file" / "out")
    build_mnistm(mnist, photos, tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["mnistm_test.npz", "mnistm_train.npz"]


def test_progress_reaches_every_digit_of_both_files(mnist: Path, photos: Path, tmp_path: Path):
    calls: list[tuple[str, int, int]] = []
    build_mnistm(mnist, photos, tmp_path / "out", on_progress=lambda *call: calls.append(call))
    assert ("mnistm_train.npz", TRAIN, TRAIN) in calls and calls[-1] == ("mnistm_test.npz", TEST, TEST)
