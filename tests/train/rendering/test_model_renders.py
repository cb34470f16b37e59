import csv
import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import trimesh
from vehicles import box, car, facing, join, quartered, save, turned, two_ended, write_obj

from dann.infer.errors import DannError, UsageError
from dann.infer.preprocess import decode
from dann.train.data_spec import find
from dann.train.rendering import model_renders, scene
from dann.train.rendering.cad_models import load_model
from dann.train.rendering.car_proportions import CLASSES, proportions
from dann.train.rendering.model_renders import render_models
from dann.train.rendering.photograph import photograph
from dann.train.rendering.procedural_car import sample_car
from dann.train.rendering.styles import STUDIO, VARIED, style_of

SMALL: dict[str, Any] = dict(per_class=5, size_px=24, workers=1)
UNFINISHED = ".renders.csv.unfinished"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Two classes of two models each, in four formats. Tests must not write to it."""
    root = tmp_path_factory.mktemp("models")
    save(car(), root / "car" / "a.glb")
    save(turned(car(), "-x"), root / "car" / "deeper" / "b.stl")
    save(quartered(), root / "block" / "c.obj")
    save(join(box((-2, -1, 0), (2, 1, 1)), box((0, -1, 1), (2, 1, 2))), root / "block" / "d.ply")
    return root


@pytest.fixture
def own_models(models, tmp_path) -> Path:
    return shutil.copytree(models, tmp_path / "models")


@pytest.fixture(scope="module")
def renders(models, tmp_path_factory) -> Path:
    """What becomes of ``models`` with ``SMALL``. Tests must not write to it."""
    return render_models(models, tmp_path_factory.mktemp("renders") / "set", **SMALL).out


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder with a magenta and a cyan photo."""
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    for name, colour in (("magenta.png", (255, 0, 255)), ("deeper/cyan.jpg", (255, 255, 0))):  # BGR
        assert cv2.imwrite(str(folder / name), np.full((40, 60, 3), colour, np.uint8))
    return folder


def _contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def _rows(root: Path) -> list[dict[str, str]]:
    with open(root / "renders.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _image(path: Path) -> np.ndarray:
    return decode(path.read_bytes())


def _seed(row: dict[str, str], purpose: int) -> np.random.Generator:
    return np.random.default_rng([*(int(part) for part in row["set_seed"].split("-")), purpose])


def _drawn_again(models: Path, row: dict[str, str], up: str = "auto") -> bytes:
    shot = photograph(load_model(models / row["model"], up), scene.draw_scene(_seed(row, 0), VARIED), size_px=24)
    return cv2.imencode(".jpg", shot.image_HW3[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def _stop_after(images: int):
    def on_progress(done, total):
        if done >= images:
            raise KeyboardInterrupt

    return on_progress


@pytest.fixture
def batches_of_two(monkeypatch):
    monkeypatch.setattr(model_renders, "_BATCH", 2)


# ---- images and table ----


def test_every_class_gets_its_images_spread_over_its_models(models, renders):
    rows = _rows(renders)
    assert [row["path"] for row in rows] == [
        f"{name}/{index:05d}.jpg" for name in ("block", "car") for index in range(5)
    ]
    on_disk = {name for name in _contents(renders) if name.endswith(".jpg")}
    assert on_disk == {row["path"] for row in rows}
    assert {name for name in _contents(renders) if not name.endswith(".jpg")} == {"renders.csv", "render.json"}
    used = [row["model"] for row in rows if row["label"] == "car"]
    assert used == ["car/a.glb", "car/deeper/b.stl", "car/a.glb", "car/deeper/b.stl", "car/a.glb"]
    for row in rows:
        assert row["path"].startswith(f"{row['label']}/") and max(_image(renders / row["path"]).shape) == 24


def test_the_table_has_all_numbers_of_every_scene(renders):
    for row in _rows(renders):
        assert set(scene.columns()) < set(row) and None not in row and None not in row.values()
        assert 3 < float(row["distance_m"]) < 5.5 * VARIED.focal_mm[1] / 36
        assert 0 <= float(row["elevation_deg"]) <= VARIED.elevation_deg[1]
        left, top, right, bottom = (float(row[side]) for side in ("left", "top", "right", "bottom"))
        assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1 and 0.1 < float(row["coverage"]) < 1
    assert len({row["seed"] for row in _rows(renders)}) == 10


def test_an_image_is_cropped_to_its_model(models, tmp_path):
    style = replace(STUDIO, margin=(0.0, 0.0))
    out = render_models(models, tmp_path / "out", **{**SMALL, "size_px": 48}, style=style).out
    for row in _rows(out):
        height, width, _ = _image(out / row["path"]).shape
        assert max(height, width) == 48
        box_of = [float(row[side]) for side in ("left", "top", "right", "bottom")]
        assert box_of == pytest.approx([0, 0, 1, 1], abs=0.04)


def test_an_image_can_be_made_again_from_its_row(models, renders):
    row = _rows(renders)[7]
    assert str(scene.draw_scene(_seed(row, 0), VARIED).seed) == row["seed"]
    assert _drawn_again(models, row) == (renders / row["path"]).read_bytes()


def test_procedural_cars_are_a_set_of_five_classes(tmp_path):
    done = render_models("cars", tmp_path / "out", **{**SMALL, "per_class": 2})
    assert (done.images, done.failed) == (10, [])
    rows = _rows(done.out)
    assert [row["label"] for row in rows[::2]] == list(CLASSES) and all(row["kind"] for row in rows)
    car = sample_car(_seed(rows[0], 1), rows[0]["label"])
    assert [rows[0][name] for name in proportions()] == [f"{getattr(car.body, name):.4f}" for name in proportions()]
    shot = photograph(car, scene.draw_scene(_seed(rows[0], 0), VARIED), size_px=24)
    assert np.abs(shot.image_HW3.astype(int) - _image(done.out / rows[0]["path"])).mean() < 8
    assert f"{shot.coverage:.4f}" == rows[0]["coverage"]


def test_classes_can_be_chosen(models, tmp_path):
    done = render_models("cars", tmp_path / "cars", **{**SMALL, "per_class": 1}, classes=["wagon", "coupe"])
    assert [row["label"] for row in _rows(done.out)] == ["coupe", "wagon"]
    every = sorted(path.name for path in models.iterdir() if path.is_dir())
    done = render_models(models, tmp_path / "models", **{**SMALL, "per_class": 1}, classes=every[:1])
    assert [row["label"] for row in _rows(done.out)] == every[:1]


@pytest.mark.parametrize(("name", "told"), [("cuope", "did you mean 'coupe'"), ("", "unknown class ''")])
def test_a_class_that_there_is_not_is_refused(name, told, models, tmp_path):
    for of in ("cars", models):
        with pytest.raises(UsageError, match=told if of == "cars" else "unknown class"):
            render_models(of, tmp_path / "out", **SMALL, classes=[name])
    assert not (tmp_path / "out").exists()


def test_the_bytes_do_not_depend_on_the_number_of_processes(models, renders, tmp_path, batches_of_two):
    many = render_models(models, tmp_path / "many", **{**SMALL, "workers": 2}).out
    assert _contents(many) == _contents(renders)


def test_another_seed_gives_other_images(models, renders, tmp_path):
    other = _contents(render_models(models, tmp_path / "other", **SMALL, seed=1).out)
    assert other.keys() == _contents(renders).keys()
    assert [name for name, content in _contents(renders).items() if other[name] == content] == []


def test_another_class_and_more_images_do_not_change_the_others(own_models, renders, tmp_path):
    save(box((0, 0, 0), (3, 2, 2)), own_models / "another" / "e.glb")
    more = _contents(render_models(own_models, tmp_path / "more", **{**SMALL, "per_class": 6}).out)
    images = {name: content for name, content in _contents(renders).items() if name.endswith(".jpg")}
    assert {name: more[name] for name in images} == images and len(more) == 18 + 2


@pytest.mark.parametrize("up", ["x", "-y"])
def test_the_up_axis_asked_for_is_used_for_all(up, models, tmp_path):
    out = render_models(models, tmp_path / "out", **{**SMALL, "per_class": 2}, up=up).out
    assert {entry[1] for entry in json.loads((out / "render.json").read_text())["models"].values()} == {up}
    for row in _rows(out):
        assert _drawn_again(models, row, up) == (out / row["path"]).read_bytes() != _drawn_again(models, row)


@pytest.mark.parametrize(("suffix", "up", "front"), [("glb", "y", "z"), ("obj", "y", "z"), ("ply", "z", "x")])
def test_models_are_seen_from_before(suffix, up, front, tmp_path):
    """As their formats have it, and from behind where the other way is asked for."""
    save(facing(two_ended(), up, front), tmp_path / "models" / "car" / f"a.{suffix}")
    save(facing(two_ended(), up, front), tmp_path / "models" / "other" / f"a.{suffix}")
    style = style_of("studio", {"azimuth_deg": [20, 40], "front": 1, "saturation": 0})
    for asked, channel in (("auto", 0), (f"-{front}", 2)):
        options = {"per_class": 3, "size_px": 64, "style": style, "up": up, "front": asked}
        out = render_models(tmp_path / "models", tmp_path / asked, **{**SMALL, **options}).out
        for row in _rows(out):
            red, _, blue = np.moveaxis(_image(out / row["path"]).astype(int), 2, 0)
            seen = [(red > blue + 60).sum(), 0, (blue > red + 60).sum()]
            assert seen[channel] > 100 and sum(seen) == seen[channel], (asked, row["path"], seen)
        entries = json.loads((out / "render.json").read_text())["models"].values()
        assert {tuple(entry[1:]) for entry in entries} == {(up, front if asked == "auto" else asked)}
    with pytest.raises(UsageError, match="another recipe"):
        render_models(tmp_path / "models", tmp_path / "auto", **{**SMALL, **options})


def test_ranges_are_honoured(models, tmp_path):
    style = style_of("varied", {"elevation_deg": [30, 31], "studio": 0, "jpeg": [33, 33]})
    out = render_models(models, tmp_path / "out", **SMALL, style=style).out
    for row in _rows(out):
        assert 30 <= float(row["elevation_deg"]) <= 31 and (row["backdrop"], row["jpeg"]) == ("drawn", "33")


def test_progress_counts_up_to_the_total(models, tmp_path, batches_of_two):
    seen = []
    render_models(models, tmp_path / "out", **SMALL, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 10), (4, 10), (6, 10), (8, 10), (10, 10)]


# ---- going on ----


def test_a_set_that_is_there_is_kept(models, renders, tmp_path, monkeypatch):
    out = shutil.copytree(renders, tmp_path / "out")
    monkeypatch.setattr(model_renders, "photograph", lambda *_, **__: pytest.fail("rendered again"))
    done = render_models(models, out, **SMALL)
    assert (done.images, done.kept) == (10, 10) and _contents(out) == _contents(renders)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_rendering_goes_on_and_ends_the_same(workers, models, renders, tmp_path, batches_of_two):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        render_models(models, out, **{**SMALL, "workers": workers}, on_progress=_stop_after(4))
    assert not (out / "renders.csv").exists() and len(list(out.glob("*/*.jpg"))) >= 4
    done = render_models(models, out, **SMALL)
    assert done.kept == 4 and done.images == 10
    assert _contents(out) == _contents(renders)


@pytest.mark.parametrize("cut", [1, 3, 60, 400])
def test_a_table_that_was_cut_off_costs_only_the_rows_that_it_lost(cut, models, renders, tmp_path, batches_of_two):
    """Cut within the last number, the line still has all its columns."""
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        render_models(models, out, **SMALL, on_progress=_stop_after(6))
    content = (out / UNFINISHED).read_bytes()
    (out / UNFINISHED).write_bytes(content[:-cut])
    with pytest.raises(KeyboardInterrupt):
        render_models(models, out, **SMALL, on_progress=_stop_after(7))
    done = render_models(models, out, **SMALL)
    assert done.kept >= 7 and _contents(out) == _contents(renders)


def test_a_table_of_something_else_costs_nothing_but_time(models, renders, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        render_models(models, out, **SMALL, on_progress=_stop_after(1))
    (out / UNFINISHED).write_bytes(b'"\x00\xff,never closed\n' * 50 + b"\n\n,,,\n")
    assert render_models(models, out, **SMALL).kept == 0
    assert _contents(out) == _contents(renders)


def test_images_that_were_lost_are_rendered_again(models, renders, tmp_path):
    out = shutil.copytree(renders, tmp_path / "out")
    (out / "car" / "00001.jpg").unlink()
    shutil.rmtree(out / "block")
    (out / "car" / ".00003.jpg.77.partial").write_bytes(b"of a process that was killed")
    assert render_models(models, out, **SMALL).kept == 4
    assert _contents(out) == _contents(renders)


def test_a_full_disk_is_one_clear_error_and_what_is_done_is_kept(
    models, renders, tmp_path, monkeypatch, batches_of_two
):
    out, save_image, saved = tmp_path / "out", model_renders.save_image, []

    def save_until_full(path, *args):
        if len(saved) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        saved.append(save_image(path, *args))

    with monkeypatch.context() as patch:
        patch.setattr(model_renders, "save_image", save_until_full)
        with pytest.raises(DannError, match="cannot be written: No space left on device; what was rendered is kept"):
            render_models(models, out, **SMALL)
    assert render_models(models, out, **SMALL).kept == 4
    assert _contents(out) == _contents(renders)


@pytest.mark.parametrize("name", ["render.json", "renders.csv"])
def test_a_disk_that_is_full_at_the_beginning_or_end_leaves_no_half_file(name, models, renders, tmp_path, monkeypatch):
    out, write_whole = tmp_path / "out", model_renders.write_whole

    def fail(path, content):
        if path.name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write_whole(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(model_renders, "write_whole", fail)
        with pytest.raises(DannError, match="cannot be written: No space left on device"):
            render_models(models, out, **SMALL)
    assert not (out / name).exists()
    assert render_models(models, out, **SMALL).images == 10
    assert _contents(out) == _contents(renders)


@pytest.mark.parametrize("change", [{"seed": 3}, {"per_class": 6}, {"size_px": 32}, {"style": STUDIO}, {"up": "y"}])
def test_another_recipe_is_refused_and_nothing_touched(change, models, renders):
    before = _contents(renders)
    with pytest.raises(UsageError, match="another recipe or of other models .*render.json"):
        render_models(models, renders, **{**SMALL, **change})
    assert _contents(renders) == before


def test_a_model_that_changed_is_another_recipe(own_models, renders):
    save(box((0, 0, 0), (5, 2, 2)), own_models / "block" / "d.ply")
    with pytest.raises(UsageError, match="another recipe or of other models"):
        render_models(own_models, renders, **SMALL)


def test_a_folder_or_file_of_something_else_is_refused_and_left_alone(models, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("x")
    before = _contents(tmp_path)
    for name in ("mine", "file"):
        with pytest.raises(UsageError, match="holds no renders of dann; choose another folder"):
            render_models(models, tmp_path / name, **SMALL)
    assert _contents(tmp_path) == before


def test_an_empty_folder_is_filled_and_parents_are_made(models, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "a/b"):
        assert render_models(models, tmp_path / name, **{**SMALL, "per_class": 1}).images == 2


def test_a_path_that_cannot_be_written_is_one_clear_error(models, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DannError, match="cannot be written: .*; choose a writable folder"):
        render_models(models, tmp_path / "file" / "set", **SMALL)


# ---- models that are no use ----


def _bad_models(root: Path) -> dict[str, str]:
    """Add six files that cannot be rendered; gives their names and what is said of each."""
    (root / "car" / "empty.glb").write_bytes(b"")
    (root / "car" / "garbage.stl").write_bytes(np.random.default_rng(0).bytes(3000))
    trimesh.PointCloud(np.random.default_rng(0).random((9, 3))).export(root / "car" / "points.ply")
    nan = write_obj(root / "car" / "nan.obj", car())
    nan.write_text(nan.read_text().replace("v -2.2", "v nan", 1))
    save(box((0, 0, 0), (3, 2, 0.001)), root / "car" / "sheet.stl")
    (root / "car" / "deeper" / "scan.FBX").write_bytes(b"x")
    return {
        "car/empty.glb": "cannot be read as .glb",
        "car/garbage.stl": "cannot be read as .stl",
        "car/points.ply": "has no triangles",
        "car/nan.obj": "not finite numbers",
        "car/sheet.stl": "is flat",
        "car/deeper/scan.FBX": "is a .fbx file, which is not read; export it as .glb",
    }


def test_what_cannot_be_rendered_is_left_out_and_named(own_models, renders, tmp_path):
    expected = _bad_models(own_models)
    done = render_models(own_models, tmp_path / "out", **SMALL)
    reasons = dict(done.failed)
    assert reasons.keys() == expected.keys()
    assert [name for name, part in expected.items() if part not in reasons[name]] == []
    assert _contents(done.out) == _contents(renders)


@pytest.mark.parametrize("name", ["e.glb", "e.dae"])
def test_a_class_without_a_model_that_can_be_used_is_left_out_and_named(name, own_models, renders, tmp_path):
    (own_models / "none").mkdir()
    (own_models / "none" / name).write_bytes(b"x")
    done = render_models(own_models, tmp_path / "out", **SMALL)
    assert [failed for failed, _ in done.failed] == [f"none/{name}", "none"]
    assert done.failed[1][1] == "has no model that can be used: the class is left out"
    assert _contents(done.out) == _contents(renders)


def test_no_model_at_all_is_an_error_that_names_the_first(tmp_path):
    (tmp_path / "models" / "car").mkdir(parents=True)
    (tmp_path / "models" / "car" / "a.glb").write_bytes(b"x")
    with pytest.raises(DannError, match="no model in .* can be used: car/a.glb cannot be read as .glb") as caught:
        render_models(tmp_path / "models", tmp_path / "out", **SMALL)
    assert caught.value.exit_code == 1 and not (tmp_path / "out").exists()


def test_clutter_beside_models_is_passed_over(own_models, renders, tmp_path):
    for name in ("car/._a.glb", "car/.git/b.obj", "__MACOSX/car/._a.glb", "readme/readme.txt"):
        (own_models / name).parent.mkdir(exist_ok=True, parents=True)
        (own_models / name).write_bytes(b"x")
    done = render_models(own_models, tmp_path / "out", **SMALL)
    assert done.failed == [] and _contents(done.out) == _contents(renders)


def test_links_to_models_and_classes_are_followed(models, renders, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "car").symlink_to(models / "car")
    (tmp_path / "models" / "block").mkdir()
    for path in (models / "block").iterdir():
        (tmp_path / "models" / "block" / path.name).symlink_to(path)
    assert _contents(render_models(tmp_path / "models", tmp_path / "out", **SMALL).out) == _contents(renders)


def test_names_that_are_not_utf8_are_rendered(tmp_path):
    try:
        path = save(car(), tmp_path / "models" / 'naïve, "new"' / "a.stl")
        path.rename(path.with_name("\udcff.stl"))
    except (OSError, UnicodeError):
        pytest.skip("this file system takes no such names")
    done = render_models(tmp_path / "models", tmp_path / "out", **{**SMALL, "per_class": 2})
    assert (done.images, done.failed) == (2, [])
    assert render_models(tmp_path / "models", tmp_path / "out", **{**SMALL, "per_class": 2}).kept == 2


def test_what_was_found_in_the_models_is_told(own_models, tmp_path):
    save(car(), own_models / "single" / "e.glb")
    notes: list[str] = []
    render_models(own_models, tmp_path / "out", **{**SMALL, "per_class": 2}, on_note=notes.append)
    assert f"car/deeper/b.stl: {len(car().faces)} triangles, 4.4 × 1.8 × 1.4 units, up is -x, front is -z" in notes[3]
    assert "stands along -x by its shape; --up sets it" in notes[3]
    assert [note.split(":")[0] for note in notes] == [
        "block/c.obj", "block/d.ply", "car/a.glb", "car/deeper/b.stl", "single/e.glb", "single",
    ]  # fmt: skip
    assert notes[-1] == "single: one model only; a classifier may learn that model rather than its class"


def test_what_is_not_used_is_told(own_models, tmp_path):
    (own_models / "textures").mkdir()
    notes: list[str] = []
    render_models(own_models, tmp_path / "out", **{**SMALL, "per_class": 1}, on_note=notes.append)
    assert "textures: no models in it, so it is no class" in notes
    assert "car: 1 of its 2 models are used, one for each image" in notes


@pytest.mark.parametrize("name", ["=SUM", "two\nlines", "CAR"])
def test_a_class_that_could_not_be_trained_on_is_refused(name, own_models, tmp_path):
    save(car(), own_models / name / "f.glb")
    with pytest.raises(UsageError, match="rename"):
        render_models(own_models, tmp_path / "out", **SMALL)
    assert not (tmp_path / "out").exists()


def test_models_that_are_left_out_are_named(own_models, models, tmp_path):
    save(car(), own_models / "loose.glb")
    (own_models / "car" / "gone.stl").symlink_to(tmp_path / "nowhere.stl")
    (own_models / "car" / "linked").symlink_to(models / "block")
    done = render_models(own_models, tmp_path / "out", **SMALL)
    reasons = dict(done.failed)
    assert list(reasons) == ["car/gone.stl", "car/linked", "loose.glb"] and done.images == 10
    assert "move it into one" in reasons["loose.glb"] and "copy the folder" in reasons["car/linked"]
    assert "cannot be read" in reasons["car/gone.stl"]


def test_what_is_no_model_is_no_failure(own_models, models, tmp_path):
    (tmp_path / "pictures").mkdir()
    (own_models / "car" / "Textures").symlink_to(tmp_path / "pictures")
    os.mkfifo(own_models / "car" / "pipe.stl")
    done = render_models(own_models, tmp_path / "out", **SMALL)
    assert done.failed == [] and done.images == 10


def test_a_class_without_models_that_is_asked_for_is_named(own_models, tmp_path):
    (own_models / "nothing").mkdir()
    with pytest.raises(DannError, match="no model in .* can be used: none in nothing"):
        render_models(own_models, tmp_path / "out", **SMALL, classes=["nothing"])


def test_a_model_that_breaks_while_it_is_rendered_stops_no_other(own_models, tmp_path, monkeypatch):
    load = model_renders.cached_model

    def load_but_one(path, up, front):
        if path.name == "b.stl":
            raise ZeroDivisionError("division by zero")
        return load(path, up, front)

    monkeypatch.setattr(model_renders, "cached_model", load_but_one)
    done = render_models(own_models, tmp_path / "out", **SMALL)
    assert done.failed == [
        ("car/deeper/b.stl", "could be read, but not rendered (ZeroDivisionError: division by zero)")
    ]
    assert done.images == len(_rows(done.out)) == 8
    monkeypatch.undo()
    again = render_models(own_models, tmp_path / "out", **SMALL)
    assert (again.images, again.kept, again.failed) == (10, 8, [])


def test_renders_are_a_set_by_their_table(renders):
    found = find(str(renders / "renders.csv"), "train", "source", renders, by_class=True)
    assert found.classes == ("block", "car") and found.labels is not None and len(found.labels) == 10


def test_an_empty_image_and_a_damaged_table_are_made_again(models, tmp_path):
    out = render_models(models, tmp_path / "out", **SMALL).out
    before = _contents(out)
    (out / "car" / "00001.jpg").write_bytes(b"")
    again = render_models(models, out, **SMALL)
    assert again.kept == again.images - 1 and _contents(out) == before
    table = (out / "renders.csv").read_text().splitlines()
    (out / "renders.csv").write_text("\n".join([*table[:4], '"' + "x" * 200_000, *table[4:]]) + "\n")
    again = render_models(models, out, **SMALL)
    assert 3 <= again.kept < again.images and _contents(out) == before


# ---- backgrounds ----


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (1, 1)])
def test_a_background_may_have_any_shape(size, models, tmp_path):
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos" / "line.png"), np.full((*size, 3), 90, np.uint8))
    style = replace(VARIED, photo=1.0, studio=0.0)
    done = render_models(models, tmp_path / "out", **SMALL, style=style, backgrounds=tmp_path / "photos")
    assert (done.images, done.failed) == (10, [])


def test_photos_stand_behind_the_models(models, photos, tmp_path):
    style = style_of(
        "studio", {"studio": 0, "photo": 1, "margin": [0.2, 0.2], "shadow": [0, 0], "elevation_deg": [0, 5]}
    )
    out = render_models(models, tmp_path / "out", **{**SMALL, "per_class": 8}, style=style, backgrounds=photos).out
    colours = {"magenta.png": (255, 0, 255), "deeper/cyan.jpg": (0, 255, 255)}
    rows = _rows(out)
    assert {row["backdrop"] for row in rows} == set(colours)
    for row in rows:
        corner = _image(out / row["path"])[0, 0].astype(int)
        assert np.abs(corner - colours[row["backdrop"]]).max() < 12, row["path"]


def test_a_broken_photo_is_left_out_and_named(models, photos, tmp_path):
    (photos / "broken.jpg").write_bytes(b"no photo")
    style = replace(STUDIO, studio=0.0, photo=1.0)
    done = render_models(models, tmp_path / "out", **SMALL, style=style, backgrounds=photos)
    assert done.failed == [("broken.jpg", "is not an image, or its header is damaged or truncated")]
    assert {row["backdrop"] for row in _rows(done.out)} == {"magenta.png", "deeper/cyan.jpg"}


def test_photos_belong_to_the_recipe(models, photos, tmp_path):
    out = render_models(models, tmp_path / "out", **SMALL, backgrounds=photos).out
    (photos / "magenta.png").unlink()
    with pytest.raises(UsageError, match="another recipe"):
        render_models(models, out, **SMALL, backgrounds=photos)


def test_photos_that_cannot_be_read_at_all_are_an_error(models, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    with pytest.raises(DannError, match="none of the 1 photos in .* can be read: is not an image"):
        render_models(models, tmp_path / "out", **SMALL, backgrounds=tmp_path / "photos")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["nowhere", "photos/magenta.png", "photos/*.png"])
def test_what_is_no_folder_of_photos_is_refused(name, models, photos, tmp_path):
    with pytest.raises(UsageError, match="no such folder: .*; expected a folder of photos"):
        render_models(models, tmp_path / "out", **SMALL, backgrounds=tmp_path / name)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"per_class": 0}, "images per class is 0; expected 1 or more"),
        ({"size_px": 8}, "image size is 8 px; expected 16 to 1024"),
        ({"size_px": 10_000}, "image size is 10000 px"),
        ({"seed": -1}, "seed is -1; expected 0 or more"),
        ({"models": "cars", "up": "y"}, "up axis 'y' is for models of your own"),
        ({"up": "w"}, "up axis is 'w'; expected auto, z, y, x"),
        ({"front": "w"}, "front is 'w'; expected auto, z, y, x"),
        ({"models": "cars", "front": "x"}, "front 'x' is for models of your own"),
        ({"up": "-y", "front": "y"}, "front is 'y' where up is '-y'; expected one at right angles"),
    ],
)
def test_impossible_values_are_refused(wrong, message, models, tmp_path):
    with pytest.raises(UsageError, match=message):
        render_models(**{"models": models, "out": tmp_path / "out", **SMALL, **wrong})
    assert not (tmp_path / "out").exists()


def test_a_folder_without_models_is_refused(models, tmp_path):
    (tmp_path / "empty").mkdir()
    shutil.copy(models / "car" / "a.glb", tmp_path / "empty")
    (tmp_path / "unread" / "car").mkdir(parents=True)
    (tmp_path / "unread" / "car" / "a.dae").write_bytes(b"x")
    for name, message in (
        ("nowhere", "no such folder: .*; expected a folder with one sub-folder of models per class"),
        ("empty", "no models in the sub-folders of .*; expected one sub-folder per class"),
        ("empty", "^a.glb lies beside the class folders, so it has no class; move it into one: no models in "),
        ("unread", "^car/a.dae is a .dae file, which is not read; export it as .*: no models in the sub-folders of "),
    ):
        with pytest.raises(UsageError, match=message):
            render_models(tmp_path / name, tmp_path / "out", **SMALL)
