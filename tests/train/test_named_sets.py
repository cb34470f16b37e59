"""Named sets, read from tiny files of the real formats; and from the real ones where they are at hand."""

import bz2
import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from dann.infer.errors import DannError, UsageError
from dann.infer.preprocess import PreprocessSpec
from dann.train.data import open_labelled, open_unlabelled
from dann.train.named_sets import DIGITS as DIGIT_CLASSES
from dann.train.named_sets import cars_folder, fetch_line, find_mnist, read_digits, read_idx

LABELS = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 0, 8, 7])


def digits(height: int, width: int, channels: tuple[int, ...] = ()) -> np.ndarray:
    """Noise, uint8 (13, H, W[, C]), as many as :data:`LABELS`."""
    return np.random.default_rng(0).integers(0, 256, (len(LABELS), height, width, *channels), np.uint8)


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_mnist(raw: Path, packed: bool = True) -> None:
    raw.mkdir(parents=True)
    for stem in ("train", "t10k"):
        for name, array in (("images-idx3", digits(28, 28)), ("labels-idx1", LABELS)):
            data = idx(array)
            path = raw / f"{stem}-{name}-ubyte"
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(data)) if packed else path.write_bytes(data)


@pytest.mark.parametrize("packed", [True, False])
def test_mnist_is_read_packed_or_plain(tmp_path: Path, packed: bool):
    write_mnist(tmp_path / "MNIST" / "raw", packed)
    read = read_digits("mnist", "test", tmp_path)
    np.testing.assert_array_equal(read.images, digits(28, 28))
    np.testing.assert_array_equal(read.labels, LABELS)
    assert read.labels.dtype == np.int64 and read.classes == DIGIT_CLASSES


def test_mnist_is_found_from_the_data_root_or_below(tmp_path: Path):
    raw = tmp_path / "MNIST" / "raw"
    write_mnist(raw)
    assert find_mnist(tmp_path) == find_mnist(tmp_path / "MNIST") == find_mnist(raw) == raw


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: b"\x00\x00\x09" + data[3:],
        lambda data: data[:3],
        lambda data: b"",
    ],
)
def test_an_idx_file_that_is_not_whole_is_refused(tmp_path: Path, damage):
    (tmp_path / "file").write_bytes(damage(idx(LABELS)))
    with pytest.raises(DannError, match="not a whole idx file"):
        read_idx(tmp_path, "file")


def test_a_truncated_gz_is_refused(tmp_path: Path):
    (tmp_path / "file.gz").write_bytes(gzip.compress(idx(digits(28, 28)))[:-20])
    with pytest.raises(DannError, match="cannot be read .*delete it and run: dann data fetch mnist"):
        read_idx(tmp_path, "file")


def test_mnistm_is_read(tmp_path: Path):
    (tmp_path / "MNIST-M").mkdir()
    np.savez(tmp_path / "MNIST-M" / "mnistm_train.npz", x=digits(28, 28, (3,)), y=LABELS.astype(np.uint8))
    read = read_digits("mnistm", "train", tmp_path)
    np.testing.assert_array_equal(read.images, digits(28, 28, (3,)))
    np.testing.assert_array_equal(read.labels, LABELS)


def write_usps(path: Path, images: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    rows = images.reshape(len(images), -1) / 255 * 2 - 1
    lines = (
        f"{label + 1} " + " ".join(f"{i}:{value:.6f}" for i, value in enumerate(row, 1))
        for label, row in zip(LABELS, rows, strict=True)
    )
    path.write_bytes(bz2.compress("\n".join(lines).encode()))


def test_usps_is_read(tmp_path: Path):
    write_usps(tmp_path / "USPS" / "usps.t.bz2", digits(16, 16))
    read = read_digits("usps", "test", tmp_path)
    assert read.images.shape == (13, 16, 16)
    assert np.abs(read.images.astype(int) - digits(16, 16)).max() <= 1  # torchvision rounds down
    np.testing.assert_array_equal(read.labels, LABELS)


def write_svhn(path: Path) -> None:
    from scipy.io import savemat

    path.parent.mkdir()
    labels = np.where(LABELS == 0, 10, LABELS)[:, None]  # in SVHN the digit 0 has the label 10
    savemat(path, {"X": digits(32, 32, (3,)).transpose(1, 2, 3, 0), "y": labels.astype(np.uint8)})


def test_svhn_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from torchvision.datasets import SVHN

    path = tmp_path / "SVHN" / "test_32x32.mat"
    write_svhn(path)
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setitem(SVHN.split_list, "test", ["", path.name, md5])  # torchvision accepts the official file only
    read = read_digits("svhn", "test", tmp_path)
    np.testing.assert_array_equal(read.images, digits(32, 32, (3,)))
    np.testing.assert_array_equal(read.labels, LABELS)


def test_an_svhn_file_that_is_not_the_official_one_is_refused(tmp_path: Path):
    write_svhn(tmp_path / "SVHN" / "train_32x32.mat")
    with pytest.raises(DannError, match="train_32x32.mat' is damaged .*dann data fetch svhn"):
        read_digits("svhn", "train", tmp_path)


def test_a_damaged_usps_file_is_refused(tmp_path: Path):
    write_usps(tmp_path / "USPS" / "usps.bz2", digits(16, 15))
    with pytest.raises(DannError, match="usps.bz2' is damaged .*dann data fetch usps"):
        read_digits("usps", "train", tmp_path)


def test_labels_that_are_no_digits_are_refused(tmp_path: Path):
    (tmp_path / "MNIST-M").mkdir()
    np.savez(tmp_path / "MNIST-M" / "mnistm_train.npz", x=digits(28, 28, (3,)), y=LABELS + 1)
    with pytest.raises(DannError, match="labels outside 0…9"):
        read_digits("mnistm", "train", tmp_path)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("mnist", "dann data fetch mnist --data-root {root}"),
        ("svhn", "dann data fetch svhn --data-root {root}"),
        ("usps", "dann data fetch usps --data-root {root}"),
        ("mnistm", "dann data mnistm --mnist {root} --photos {root}/BSDS500 --out {root}/MNIST-M"),
        ("cars", "dann data cars --out {root}/cars"),
    ],
)
def test_a_set_that_is_not_there_is_refused_with_the_line_that_gets_it(tmp_path: Path, name: str, line: str):
    with pytest.raises(UsageError) as caught:
        open_labelled(name, PreprocessSpec(height=8, width=8), data_root=tmp_path)
    assert line.format(root=tmp_path) in str(caught.value)


def test_the_line_is_short_for_the_usual_place_and_quoted_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DANN_DATA", str(tmp_path))
    assert fetch_line("usps", tmp_path) == "dann data fetch usps"
    assert fetch_line("usps", Path("my sets")) == "dann data fetch usps --data-root 'my sets'"


def test_cars_has_two_training_sides_and_test_photos(tmp_path: Path):
    for name in ("train/source", "train/target", "test"):
        (tmp_path / "cars" / name).mkdir(parents=True)
    assert cars_folder("train", "source", tmp_path) == tmp_path / "cars/train/source"
    assert cars_folder("train", "target", tmp_path) == tmp_path / "cars/train/target"
    assert cars_folder("test", "target", tmp_path) == tmp_path / "cars/test"
    with pytest.raises(UsageError, match="no test renders"):
        cars_folder("test", "source", tmp_path)


def test_a_named_set_opens_at_the_asked_size_with_numbered_names(tmp_path: Path):
    write_mnist(tmp_path / "MNIST" / "raw")
    size = PreprocessSpec(height=32, width=32)
    opened = open_labelled("mnist", size, data_root=tmp_path)
    assert opened.images.read(np.arange(13)).shape == (13, 32, 32, 3)
    assert opened.images.names[7] == "mnist/train#7"
    assert open_unlabelled("mnist", size, split="test", data_root=tmp_path).names[7] == "mnist/test#7"


@pytest.mark.parametrize(
    ("name", "split", "count", "side"),
    [
        ("mnist", "train", 60_000, 28),
        ("mnist", "test", 10_000, 28),
        ("usps", "train", 7_291, 16),
        ("usps", "test", 2_007, 16),
    ],
)
def test_the_real_sets_have_their_published_sizes(name: str, split, count: int, side: int):
    root = Path(__file__).parents[2] / ".." / "shared" / "data" / "digits"
    if not root.is_dir():
        pytest.skip(f"the real digit sets are not at {root}")
    read = read_digits(name, split, root)
    assert read.images.shape[:3] == (count, side, side)
    assert set(read.labels.tolist()) == set(range(10))
