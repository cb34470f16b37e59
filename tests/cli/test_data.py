"""``dann data``: fetch, build and render, and train on what came of it."""

import gzip
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from command import NETWORK, dann, done, outcome, refused, start

from dann.train import fetch as fetch_module
from dann.train.fetch import DOWNLOADS

CARS = "--source 10 --target 10 --test 5 --size 32 --workers 1".split()


def idx(array: np.ndarray) -> bytes:
    """A uint8 array as MNIST's files hold it."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
    return gzip.compress(header + array.tobytes())


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server on this machine with an MNIST of 40 and 20 digits, whose checksums are the expected."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "served"
    folder.mkdir()
    for stem, count in (("train", 40), ("t10k", 20)):
        (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(idx(rng.integers(0, 256, (count, 28, 28), np.uint8)))
        (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(idx(np.arange(count, dtype=np.uint8) % 10))
    checksums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    monkeypatch.setitem(DOWNLOADS, "mnist", tuple(replace(f, md5=checksums[f.name]) for f in DOWNLOADS["mnist"]))
    monkeypatch.setattr(fetch_module, "_PAUSE_S", 0.0)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the test's output stays clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with two photos and one file that only is named like one."""
    folder = tmp_path / "my photos"
    folder.mkdir()
    for index in range(2):
        image_HWC = np.random.default_rng(index).integers(0, 256, (40, 50, 3), np.uint8)
        assert cv2.imwrite(str(folder / f"{index}.png"), image_HWC)
    (folder / "text.jpg").write_text("hello")
    return folder


def test_digits_are_fetched_blended_and_trained_on(mirror: str, photos: Path, place: Path, own_data_root: Path):
    ran = done("data", "fetch", "mnist", "--mirror", mirror)
    assert ran.stdout == f"{own_data_root / 'MNIST' / 'raw'}\n"
    assert "train-images-idx3-ubyte.gz" in ran.stderr

    ran = done("data", "mnistm", "--photos", photos)
    assert ran.stdout.splitlines() == [
        str(own_data_root / f"MNIST-M/mnistm_{split}.npz") for split in ("train", "test")
    ]
    assert f"left out {photos / 'text.jpg'}: cannot be decoded" in ran.stderr

    ran = done("train", "--preset", "mnist-mnistm", *NETWORK, "--steps", "2")
    assert "/20)" in ran.stdout.splitlines()[2]  # tested on the 20 digits of MNIST-M's test split


def test_a_broken_photo_is_named_by_one_line(mirror: str, photos: Path, place: Path):
    (photos / "text.jpg").unlink()
    (photos / "cut.bmp").write_bytes(b"BM")  # on which OpenCV has something to say too
    done("data", "fetch", "mnist", "--mirror", mirror)
    lines = outcome(start("data", "mnistm", "--photos", photos)).stderr.splitlines()
    assert [line for line in lines if not line.startswith("mnistm: ")] == [
        f"left out {photos / 'cut.bmp'}: cannot be decoded: not an image, or truncated"
    ]


def test_fetching_again_and_building_again_change_nothing(mirror: str, photos: Path, place: Path):
    for out in ("a", "b"):
        done("data", "fetch", "mnist", "--mirror", mirror, "--data-root", "my data")
        done("data", "mnistm", "--mnist", "my data", "--photos", photos, "--out", out, "--seed", "3")
    for name in ("mnistm_train.npz", "mnistm_test.npz"):
        assert Path("a", name).read_bytes() == Path("b", name).read_bytes()


def test_cars_are_rendered_and_trained_on(place: Path):
    assert done("data", "cars", "--out", "my cars", *CARS).stdout == "my cars\n"
    before = sorted(place.rglob("*"))
    assert done("data", "cars", "--out", "my cars", *CARS).stdout == "my cars\n"
    assert sorted(place.rglob("*")) == before
    ran = done("train", "--layout", "split", "--data-root", "my cars", *NETWORK, "--steps", "2")
    assert "simulated photos accuracy" in ran.stdout


@pytest.mark.parametrize(
    ("words", "exit_code", "parts"),
    [
        (["fetch", "minst"], 2, ["'minst'", "did you mean 'mnist'?"]),
        (["fetch", "usps", "--mirror", "http://127.0.0.1:9"], 1, ["could not download http://127.0.0.1:9/usps.bz2"]),
        (["fetch", "mnist", "--mirror", "mirror"], 1, ["could not download mirror/", "unknown url type"]),
        (["fetch", "mnist", "--data-root", "labelled/noon/0.png"], 1, ["cannot write", "--data-root"]),
        (["mnistm", "--photos", "labelled"], 2, ["no MNIST files", "dann data fetch mnist"]),
        (["cars", "--out", "labelled"], 2, ["'labelled' exists and is not a set of cars"]),
        (["cars", "--out", "new", "--source", "2"], 2, ["source is 2 images", "5 classes"]),
        (["cars", "--out", "/proc/new", *CARS], 1, ["'/proc/new'", "choose a writable folder"]),
    ],
    ids=lambda value: (
        " ".join(value[:3]) if isinstance(value, list) and value[0] in ("fetch", "mnistm", "cars") else None
    ),
)
def test_what_cannot_be_made_is_refused_and_nothing_is_left(
    words: list[str], exit_code: int, parts: list[str], place: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fetch_module, "_PAUSE_S", 0.0)
    before = sorted(place.rglob("*"))
    refused(dann("data", *words), exit_code, *parts)
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "parts"), [(["--photos", "empty"], ["no images at 'empty'"]), (["--photos", "no"], ["'no'"])]
)
def test_digits_need_photos(words: list[str], parts: list[str], mirror: str, place: Path):
    (place / "empty").mkdir()
    done("data", "fetch", "mnist", "--mirror", mirror)
    refused(dann("data", "mnistm", *words), 2, *parts)
