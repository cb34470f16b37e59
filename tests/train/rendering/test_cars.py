import csv
import hashlib
import os
import stat
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from dann.infer.errors import DannError, UsageError
from dann.infer.preprocess import decode
from dann.train.rendering import cars
from dann.train.rendering.car_proportions import CLASSES
from dann.train.rendering.cars import shoot, write_cars
from dann.train.rendering.scene import draw_scene
from dann.train.rendering.styles import SIMULATED_PHOTO, STUDIO, Style

SMALL: dict[str, Any] = dict(source=10, target=10, test=5, size_px=32, workers=1)
STYLES = pytest.mark.parametrize("style", [STUDIO, SIMULATED_PHOTO], ids=["studio", "simulated photo"])


@pytest.fixture(scope="module")
def small_set(tmp_path_factory) -> Path:
    return write_cars(tmp_path_factory.mktemp("cars") / "set", **SMALL)


def _image(seed: int, body_class: str, style: Style, size_px: int) -> np.ndarray:
    return shoot([seed], body_class, style, size_px).shot.image_HW3


def _hashes(root: Path) -> dict[str, str]:
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


# ---- one image ----


@STYLES
@pytest.mark.parametrize("body_class", CLASSES)
def test_car_is_inside_the_frame_and_fills_a_sensible_part_of_it(body_class, style):
    for seed in range(6):
        shot = shoot([seed], body_class, style, 48).shot
        left, top, right, bottom = shot.box
        assert shot.image_HW3.shape == (48, 48, 3) and shot.image_HW3.dtype == np.uint8
        assert left >= 0 and top >= 0 and right <= 1 and bottom <= 1
        assert max(right - left, bottom - top) == pytest.approx(np.mean(style.fill), abs=0.12)
        assert 0.08 < shot.coverage < 0.8


@STYLES
def test_same_seed_same_pixels_and_other_seed_other_pixels(style):
    first, again, other = (_image(seed, "suv", style, 32) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_size_of_the_image_does_not_change_the_scene():
    small, large = (shoot([3], "van", STUDIO, size) for size in (32, 96))
    assert small.body == large.body and small.scene == large.scene
    shrunk = cv2.resize(large.shot.image_HW3, (32, 32), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(shrunk - small.shot.image_HW3).mean() < 6


def test_cameras_go_all_round_but_never_straight_ahead():
    azimuths = np.array([draw_scene(np.random.default_rng(seed), STUDIO).azimuth_deg for seed in range(200)])
    from_axis = np.minimum(azimuths % 180, 180 - azimuths % 180)
    assert from_axis.min() >= STUDIO.azimuth_deg[0] > 10
    assert set((azimuths // 90).astype(int)) == {0, 1, 2, 3}


def test_windows_lights_and_paint_are_seen():
    """A red tail lamp, dark glass and the car's own hue are all in a rear three-quarter view of some seed."""
    red = 0
    for seed in range(20):
        image = _image(seed, "sedan", STUDIO, 64).astype(int)
        red += bool(((image[..., 0] > 110) & (image[..., 1] < 70) & (image[..., 2] < 80)).sum() > 3)
    assert red >= 4


def test_simulated_photos_differ_from_renders_as_a_domain():
    studio, photo = (
        np.stack([_image(seed, CLASSES[seed % 5], style, 32) for seed in range(30)]).astype(float)
        for style in (STUDIO, SIMULATED_PHOTO)
    )
    assert studio.mean() > photo.mean() + 20  # a studio is lighter
    border = (slice(None), slice(0, 3))
    roughness = [np.abs(np.diff(x[border], axis=2)).mean() for x in (studio, photo)]
    assert roughness[1] > 4 * roughness[0]  # and its backdrop plain


# ---- the whole set ----


def test_layout_labels_and_table_agree(small_set):
    with open(small_set / "cars.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    on_disk = {p.relative_to(small_set).as_posix() for p in small_set.rglob("*") if p.suffix in (".png", ".jpg")}
    assert {row["path"] for row in rows} == on_disk and len(rows) == 25
    for row in rows:
        folder = {"source": "train/source", "target": "train/target", "test": "test"}[row["domain"]]
        assert row["path"].startswith(f"{folder}/{row['label']}/")
        assert decode((small_set / row["path"]).read_bytes()).shape == (32, 32, 3)
    for folder in ("train/source", "train/target", "test"):
        assert sorted(p.name for p in (small_set / folder).iterdir()) == sorted(CLASSES)
    assert len({row["set_seed"] for row in rows}) == len({row["length"] for row in rows}) == 25


def test_an_image_can_be_made_again_from_its_row(small_set):
    with open(small_set / "cars.csv", newline="", encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    again = shoot([int(part) for part in row["set_seed"].split("-")], row["label"], STUDIO, 32)
    assert np.array_equal(again.shot.image_HW3, decode((small_set / row["path"]).read_bytes()))
    assert row["kind"] == again.body.kind and float(row["length"]) == pytest.approx(again.body.length, abs=1e-4)
    assert float(row["azimuth_deg"]) == pytest.approx(again.scene.azimuth_deg, rel=1e-5)


def test_the_set_says_that_its_photos_are_simulated(small_set):
    assert "SIMULATED photos" in (small_set / "README.txt").read_text()


def test_bytes_do_not_depend_on_the_number_of_processes(small_set, tmp_path, monkeypatch):
    monkeypatch.setattr(cars, "_BATCH", 4)
    many = write_cars(tmp_path / "many", **{**SMALL, "workers": 2})
    assert _hashes(many) == _hashes(small_set)


def test_another_seed_gives_other_images(small_set, tmp_path):
    other = _hashes(write_cars(tmp_path / "other", **SMALL, seed=1))
    same = [name for name, digest in _hashes(small_set).items() if other[name] == digest]
    assert same == ["README.txt"]


def test_progress_counts_up_to_the_total(tmp_path):
    seen = []
    write_cars(tmp_path / "a", **SMALL, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (25, 25) and seen == sorted(seen)


def test_missing_parents_are_made_and_an_empty_folder_is_filled(tmp_path):
    assert write_cars(tmp_path / "a" / "b", **SMALL).is_dir()
    (tmp_path / "empty").mkdir()
    assert (write_cars(tmp_path / "empty", **SMALL) / "cars.csv").is_file()


def test_a_complete_set_of_the_same_recipe_is_kept(small_set, monkeypatch):
    monkeypatch.setattr(cars, "_render_all", lambda *_: pytest.fail("rendered again"))
    assert write_cars(small_set, **SMALL) == small_set


def test_a_set_of_another_recipe_is_refused(small_set):
    with pytest.raises(UsageError, match="another recipe"):
        write_cars(small_set, **SMALL, seed=7)


def test_a_set_that_lost_images_is_refused(tmp_path):
    out = write_cars(tmp_path / "a", **SMALL)
    (out / "test/van/0000.jpg").unlink()
    with pytest.raises(UsageError, match="lost 1 images, test/van/0000.jpg"):
        write_cars(out, **SMALL)


def test_a_folder_or_file_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("x")
    for name in ("mine", "file"):
        with pytest.raises(UsageError, match="not a set of cars"):
            write_cars(tmp_path / name, **SMALL)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_a_failure_half_way_leaves_nothing_behind(tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_cars(tmp_path / "a", **SMALL, on_progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DannError, match="cannot be written"):
        write_cars(tmp_path / "file" / "set", **SMALL)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_parent_is_one_clear_error(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(DannError, match="cannot be written"):
            write_cars(tmp_path / "set", **SMALL)
    finally:
        tmp_path.chmod(stat.S_IRWXU)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"seed": -1}, "seed is -1"), ({"test": 4}, "test is 4 images"), ({"size_px": 8}, "image size is 8 px")],
)
def test_impossible_values_are_refused(tmp_path, wrong, message):
    with pytest.raises(UsageError, match=message):
        write_cars(tmp_path / "set", **{**SMALL, **wrong})
    assert list(tmp_path.iterdir()) == []
