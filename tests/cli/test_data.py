"""``dann data``: fetch, build and render, and train on what came of it."""

import csv
import gzip
import hashlib
import json
import shutil
import struct
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
from vehicles import box, car, save, turned

from dann.train import fetch as fetch_module
from dann.train.fetch import DOWNLOADS

CARS = "--source 10 --target 10 --test 5 --size 32 --workers 1".split()
RENDER = "--models cad --out made --per-class 3 --size 24 --workers 1".split()


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


@pytest.fixture
def cad(place: Path) -> Path:
    """``cad`` in the working folder: two cars, one of them on its side, and a block."""
    save(car(), place / "cad" / "car" / "a.glb")
    save(turned(car(), "x"), place / "cad" / "car" / "b.stl")
    save(box((0, 0, 0), (4, 2, 2)), place / "cad" / "block" / "c.obj")
    return place / "cad"


def test_digits_are_fetched_blended_and_trained_on(mirror: str, photos: Path, place: Path, own_data_root: Path):
    ran = done("data", "fetch", "mnist", "--mirror", mirror)
    assert ran.stdout == f"{own_data_root / 'MNIST' / 'raw'}\n"
    assert "train-images-idx3-ubyte.gz" in ran.stderr

    ran = done("data", "mnistm", "--photos", photos)
    assert ran.stdout.splitlines() == [
        str(own_data_root / f"MNIST-M/mnistm_{split}.npz") for split in ("train", "test")
    ]
    assert f"left out {photos / 'text.jpg'}: is not an image" in ran.stderr

    ran = done("train", "--preset", "mnist-mnistm", *NETWORK, "--steps", "2")
    assert "/20)" in ran.stdout.splitlines()[2]  # tested on the 20 digits of MNIST-M's test split


def test_a_broken_photo_is_named_by_one_line(mirror: str, photos: Path, place: Path):
    (photos / "text.jpg").unlink()
    (photos / "cut.bmp").write_bytes(
        b"BM" + bytes(12) + struct.pack("<Iii", 40, 9, 9)
    )  # on which OpenCV has something to say too
    done("data", "fetch", "mnist", "--mirror", mirror)
    lines = outcome(start("data", "mnistm", "--photos", photos)).stderr.splitlines()
    assert [line for line in lines if not line.startswith("mnistm: ")] == [
        f"left out {photos / 'cut.bmp'}: cannot be decoded: damaged or truncated"
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


def test_models_are_rendered_and_trained_on(cad: Path):
    ran = done("data", "render", *RENDER)
    assert ran.stdout == "made\n"
    said = [line for line in ran.stderr.splitlines() if not line.startswith("render: ")]
    assert [line.split(";")[0] for line in said] == [
        "block/c.obj: 12 triangles, 4 × 2 × 2 units, up is y, front is x",
        f"car/a.glb: {len(car().faces)} triangles, 4.4 × 1.8 × 1.4 units, up is z, front is -x",
        f"car/b.stl: {len(car().faces)} triangles, 4.4 × 1.8 × 1.4 units, up is x, front is z",
        "block: one model only",
        "6 images",
    ]
    assert "stands along x by its shape; --up sets it" in said[2]
    assert "render: 6/6" in ran.stderr
    done("train", "--source", "made", "--target", "photos", *NETWORK, "--steps", "2")


def test_the_same_command_goes_on_and_another_is_refused(cad: Path):
    done("data", "render", *RENDER)
    before = {path: path.read_bytes() for path in Path("made").rglob("*") if path.is_file()}
    assert done("data", "render", *RENDER).stderr.endswith("6 images, 6 of them from before\n")
    ran = dann("data", "render", *RENDER, "--seed", "1")
    assert (ran.exit_code, ran.stdout) == (2, "") and "holds renders of another recipe" in ran.stderr.splitlines()[-1]
    assert {path: path.read_bytes() for path in Path("made").rglob("*") if path.is_file()} == before


def test_a_look_its_settings_and_backgrounds_are_honoured(cad: Path):
    settings = ["--set", "elevation_deg=[40,41]", "--set", "studio=0", "--set", "photo=1.0"]
    axes = ["--up", "+y", "--front", "-x"]
    done("data", "render", *RENDER, "--look", "studio", *settings, "--backgrounds", "photos", *axes)
    with open("made/renders.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert json.loads(Path("made/render.json").read_text())["models"]["car/a.glb"][1:] == ["y", "-x"]
    for row in rows:
        assert 40 <= float(row["elevation_deg"]) <= 41 and row["jpeg"] == ""
        assert (Path("photos") / row["backdrop"]).is_file()


def test_a_sheet_shows_what_was_rendered(cad: Path):
    done("data", "render", *RENDER)
    assert done("data", "sheet", "--images", "made", "--out-path", "sheet.png", "--columns", "2").stdout == (
        "sheet.png\n"
    )
    picture = cv2.imread("sheet.png")
    assert picture is not None and picture.shape[0] == 3 + 2 * 99
    (Path("made") / "car" / "00000.jpg").write_bytes(b"")
    ran = dann("data", "sheet", "--images", "made", "--out-path", "sheet.png", "--columns", "20")
    assert ran.exit_code == 3 and "00000.jpg" in ran.stderr
    refused(dann("data", "sheet", "--images", "made", "--out-path", "sheet.gif"), 2, "'sheet.gif'", ".jpg or .png")
    refused(dann("data", "sheet", "--images", "nowhere"), 2, "'nowhere'")


def test_procedural_cars_are_rendered_by_class(place: Path):
    ran = done("data", "render", "--models", "cars", *RENDER[2:])
    assert ran.stderr.splitlines()[-1] == "15 images"
    assert sorted(path.name for path in Path("made").iterdir() if path.is_dir()) == [
        "hatchback", "pickup", "sedan", "suv", "van",
    ]  # fmt: skip


def test_models_and_photos_that_cannot_be_used_are_named(cad: Path, spoil):
    (cad / "car" / "broken.glb").write_bytes(b"x")
    (cad / "lorry").mkdir()
    (cad / "lorry" / "scan.fbx").write_bytes(b"x")
    broken = spoil(Path("photos"))
    ran = dann("data", "render", *RENDER, "--backgrounds", "photos")
    assert (ran.exit_code, ran.stdout) == (3, "made\n") and "6 images" in ran.stderr
    left_out = [line.split(": ")[0] for line in ran.stderr.splitlines() if line.startswith("left out ")]
    assert sorted(left_out) == sorted(
        f"left out {name}" for name in ["car/broken.glb", "lorry/scan.fbx", "lorry", *broken]
    )


def test_no_model_that_can_be_used_is_an_error(cad: Path):
    shutil.rmtree(cad / "block")
    for path in (cad / "car").iterdir():
        path.write_bytes(b"x")
    refused(dann("data", "render", *RENDER), 1, "no model in 'cad' can be used", "car/a.glb cannot be read as .glb")
    assert not Path("made").exists()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--models", "nowhere"], ["no such folder: 'nowhere'", "one sub-folder of models per class"]),
        (["--models", "photos"], ["no models in the sub-folders of 'photos'"]),
        (["--out", "labelled"], ["'labelled' exists and holds no renders of dann"]),
        (["--backgrounds", "nowhere"], ["no such folder: 'nowhere'; expected a folder of photos"]),
        (["--backgrounds", "cad"], ["no images at 'cad'"]),
        (["--look", "stdio"], ["unknown look 'stdio'; did you mean 'studio'?"]),
        (["--set", "fill=[0.3,0.3]", "--set", "shift=1"], ["fill and shift would do nothing", "set margin=none"]),
        (["--set", "photo=1"], ["photo would do nothing", "--backgrounds DIR"]),
        (["--set", "elevaton_deg=[0,1]"], ["unknown setting 'elevaton_deg'; did you mean 'elevation_deg'?"]),
        (["--set", "elevation_deg=[9,1]"], ["elevation_deg is [9.0, 1.0]; expected two numbers, the lower one first"]),
        (["--set", "elevation_deg=[0,100]"], ["expected values from 0 to 89"]),
        (["--set", "elevation_deg"], ["elevation_deg"]),
        (["--up", "w"], ["the up axis is 'w'", "auto, z, y, x"]),
        (["--up", "-z", "--front", "z"], ["the front is 'z' where up is '-z'"]),
        (["--size", "3"], ["the image size is 3 px"]),
        (["--per-class", "0"], ["images per class is 0"]),
        (["--seed", "-1"], ["the seed is -1"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else None,
)
def test_what_cannot_be_rendered_is_refused(words: list[str], parts: list[str], cad: Path):
    before = sorted(cad.parent.rglob("*"))
    ran = dann("data", "render", *RENDER, *words)
    assert (ran.exit_code, ran.stdout, ran.stderr.count("error: ")) == (2, "", 1), ran
    assert [part for part in parts if part not in ran.stderr.splitlines()[-1]] == []
    assert sorted(cad.parent.rglob("*")) == before


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
        (["cars", "--out", "new", "--workers", "0"], 2, ["number of processes is 0; expected 1 or more"]),
        (["cars", "--out", "new", "--size", "20000"], 2, ["image size is 20000 px; expected 16 to 1024"]),
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
