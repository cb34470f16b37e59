import json
import logging
import re
from dataclasses import replace

import numpy as np
import pytest
import trimesh
from PIL import Image
from trimesh.exchange.ply import export_ply
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial
from vehicles import FORMATS, UPS, box, car, coloured, facing, join, quartered, save, textured, turned, write_obj

from dann.train.rendering.cad_models import LENGTH_M, ModelError, load_model
from dann.train.rendering.mesh import face_normals
from dann.train.rendering.raster import Fragments, corner_weights
from dann.train.rendering.scene import draw_scene
from dann.train.rendering.styles import STUDIO

SCENE = replace(draw_scene(np.random.default_rng(0), STUDIO), paint=(0.0, 1.0, 0.0), glass=0.04)
AS_IT_IS = ("z", "-x")  # the axes of a model that stands in its file as in the scene
RED, BLUE, GREEN = [1.0, 0, 0], [0, 0, 1.0], [0, 1.0, 0]


def _places(model):
    """The middles of all triangles: (T, 3)."""
    return model.mesh.vertices_V3[model.mesh.triangles_T3].mean(axis=1)


def _sides(model):
    """Which triangles face the left or the right."""
    return np.abs(model.mesh.normals_V3[model.mesh.triangles_T3[:, 0], 1]) > 0.9


def _look(model, metres_per_pixel=0.001):
    """How the middles of all triangles look."""
    count = len(model.mesh.triangles_T3)
    thirds = corner_weights(np.full((count, 3), 1 / 3), model.mesh.triangles_T3, len(model.mesh.vertices_V3))
    seen = Fragments(np.arange(count), np.arange(count), thirds)
    return model.look(seen, _places(model), SCENE, metres_per_pixel)


def _heights(model):
    return np.sort(model.mesh.vertices_V3[:, 2])


# ---- shape ----


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_shape(suffix, tmp_path):
    mesh = car()
    model = load_model(save(mesh, tmp_path / f"car.{suffix}"))
    assert model.size == pytest.approx((4.4, 1.8, 1.4), abs=1e-5) and model.up == "z"
    triangles = model.mesh.vertices_V3[model.mesh.triangles_T3] * 4.4 / LENGTH_M
    expected = np.sort(mesh.triangles.reshape(-1, 9), axis=0)  # an OBJ file may list them in another order
    assert np.sort(triangles.reshape(-1, 9), axis=0) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("suffix", ["GLB", "Obj"])
def test_the_case_of_a_file_name_does_not_matter(suffix, tmp_path):
    path = save(car(), tmp_path / f"car.{suffix.lower()}")
    assert load_model(path.rename(tmp_path / f"CAR.{suffix}")).size == pytest.approx((4.4, 1.8, 1.4), abs=1e-5)


@pytest.mark.parametrize("unit", [1e-9, 1e-3, 39.37, 1e6])
def test_every_unit_gives_a_model_of_the_same_size_on_the_ground(unit, tmp_path):
    mesh = car()
    mesh.apply_scale(unit)
    mesh.apply_translation(np.array([100.0, -20, 7]) * unit)
    model = load_model(save(mesh, tmp_path / "car.glb"))
    low, high = model.mesh.vertices_V3.min(axis=0), model.mesh.vertices_V3.max(axis=0)
    assert np.array([low, high]) == pytest.approx(
        np.array([[-2.2, -0.9, 0], [2.2, 0.9, 1.4]]) * LENGTH_M / 4.4, abs=1e-3
    )
    assert model.size[0] == pytest.approx(4.4 * unit, rel=1e-4)


@pytest.mark.parametrize("up", UPS)
def test_a_model_that_lies_on_its_side_is_stood_up(up, tmp_path):
    upright, model = (load_model(save(turned(car(), way), tmp_path / f"{way}.stl")) for way in ("z", up))
    assert model.up == up
    assert _heights(model) == pytest.approx(_heights(upright), abs=1e-5)
    assert any("stands along" in note for note in model.notes) == (up != "z")


@pytest.mark.parametrize("up", UPS)
def test_the_axis_asked_for_is_up(up, tmp_path):
    path = save(car(), tmp_path / "car.stl")
    model = load_model(path, up)
    height = {"x": 4.4, "y": 1.8, "z": 1.4}[up[-1]]
    assert model.up == up and not any("--up" in note for note in model.notes)
    assert model.size[2] == pytest.approx(height, abs=1e-5)
    upside_down = _heights(load_model(path, up[1:] if up[0] == "-" else f"-{up}"))
    assert _heights(model) == pytest.approx((upside_down.max() - upside_down)[::-1], abs=1e-5)


@pytest.mark.parametrize(("suffix", "up"), [("glb", "y"), ("gltf", "y"), ("obj", "y"), ("stl", "z"), ("ply", "z")])
def test_a_shape_that_does_not_tell_stands_as_its_format_says(suffix, up, tmp_path):
    model = load_model(save(box((0, 0, 0), (4, 2, 1.5)), tmp_path / f"box.{suffix}"))
    assert model.up == up and model.size[2] == {"y": 2, "z": 1.5}[up]
    assert [note for note in model.notes if "cannot be told" in note and "--up" in note]


@pytest.mark.parametrize("front", ["x", "-x", "y", "-y", "z", "-z"])
@pytest.mark.parametrize("suffix", FORMATS)
def test_the_nose_is_told_from_the_shape_in_every_format(suffix, front, tmp_path):
    up = "y" if front[-1] == "z" else "z"
    model = load_model(save(facing(car(), up, front), tmp_path / f"car.{suffix}"))
    assert (model.up, model.front) == (up, front)
    assert model.mesh.vertices_V3[model.mesh.vertices_V3[:, 2] > 1][:, 0].mean() > 0.4  # the cabin is behind the middle


@pytest.mark.parametrize(
    ("suffix", "size", "front"),
    [
        ("glb", (2, 1.5, 4), "z"),
        ("gltf", (2, 1.5, 4), "z"),
        ("obj", (2, 1.5, 4), "z"),
        ("glb", (4, 1.5, 2), "x"),
        ("stl", (4, 2, 1.5), "x"),
        ("ply", (4, 2, 1.5), "x"),
        ("stl", (2, 4, 1.5), "-y"),
    ],
)
def test_a_shape_that_does_not_tell_faces_as_is_usual(suffix, size, front, tmp_path):
    model = load_model(save(box((0, 0, 0), size), tmp_path / f"box.{suffix}"))
    assert model.front == front
    assert f"its front cannot be told from its shape: {front} by convention; --front sets it" in model.notes


@pytest.mark.parametrize("front", ["x", "-x", "y", "-y"])
def test_the_front_asked_for_is_the_front(front, tmp_path):
    model = load_model(save(car(), tmp_path / "car.stl"), "z", front)
    long, wide, _ = model.size
    assert (model.front, model.notes, long > wide) == (front, (), front[-1] == "x")
    places = model.mesh.vertices_V3 * 4.4 / LENGTH_M
    roof = places[places[:, 2] > 1.39]
    ends = {"x": (-1.9, 0.5), "-x": (-0.5, 1.9), "y": (-0.75, 0.75), "-y": (-0.75, 0.75)}[front]
    assert (roof[:, 0].min(), roof[:, 0].max()) == pytest.approx(ends, abs=1e-3)
    across = {"y": (-0.5, 1.9), "-y": (-1.9, 0.5)}.get(front, (-0.75, 0.75))
    assert (roof[:, 1].min(), roof[:, 1].max()) == pytest.approx(across, abs=1e-3)


def test_a_front_that_is_up_by_the_shape_is_refused(tmp_path):
    path = save(car(), tmp_path / "car.stl")
    with pytest.raises(ModelError, match=r"stands along z by its shape, where its front cannot be \(--front -z\)"):
        load_model(path, front="-z")
    assert load_model(path, "y", "-z").front == "-z"


@pytest.mark.parametrize(("length", "usual"), [(0.45, False), (4.4, True), (440, True), (4400, True), (1e5, False)])
def test_a_size_that_no_vehicle_has_is_noted(length, usual, tmp_path):
    mesh = car()
    mesh.apply_scale(length / 4.4)
    notes = load_model(save(mesh, tmp_path / "car.glb")).notes
    assert any("no vehicle has this size" in note for note in notes) != usual


def test_triangles_far_away_are_left_out_however_many(tmp_path):
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.05)
    ball.apply_translation([9000, 0, 0])
    model = load_model(save(join(car(), ball), tmp_path / "car.stl"))
    assert model.size == pytest.approx((4.4, 1.8, 1.4), abs=1e-3)
    assert len(model.mesh.triangles_T3) == len(model.mesh.part_T) == len(car().faces) < len(ball.faces)
    (note,) = (note for note in model.notes if "left out" in note)
    assert "99 % of its surface lies within 4.4" in note and "left out 1280 triangles far away" in note


def test_nothing_is_left_out_of_a_long_model(tmp_path):
    model = load_model(save(box((0, 0, 0), (60, 2, 2)), tmp_path / "train.stl"))
    assert len(model.mesh.triangles_T3) == 12 and "left out" not in " ".join(model.notes)


def test_edges_stay_sharp_and_round_parts_smooth(tmp_path):
    cylinder = trimesh.creation.cylinder(1, 1, sections=32)
    normals = {}
    for name, mesh in (("box", box((0, 0, 0), (4, 2, 1.5))), ("cylinder", cylinder)):
        made = load_model(save(mesh, tmp_path / f"{name}.stl"), "z").mesh
        flat = np.repeat(face_normals(made.vertices_V3, made.triangles_T3), 3, axis=0)
        normals[name] = (flat / np.linalg.norm(flat, axis=1, keepdims=True) * made.normals_V3).sum(axis=1)
        assert np.linalg.norm(made.normals_V3, axis=1) == pytest.approx(1)
    assert normals["box"] == pytest.approx(1)
    assert 0.99 < normals["cylinder"].min() < 0.999  # of the caps they are flat, of the side between two faces


# ---- colours ----


@pytest.mark.parametrize("suffix", ["obj", "glb"])
def test_a_texture_is_seen_where_it_lies(suffix, tmp_path):
    model = replace(load_model(save(quartered(), tmp_path / f"box.{suffix}"), *AS_IT_IS), paint=None)
    assert model.notes == ()
    place = _places(model)
    inside = (np.abs(place[:, 0]) > 0.1) & (np.abs(place[:, 2] - place[:, 2].mean()) > 0.1)
    colour = np.where(place[:, :1] < 0, RED, BLUE) * np.where(place[:, 2:] < place[:, 2].mean(), (128 / 255) ** 2.2, 1)
    assert inside.sum() > 20 and _look(model).albedo_P3[inside] == pytest.approx(colour[inside])


def test_a_texture_far_away_is_averaged(tmp_path):
    checks = np.indices((64, 64)).sum(axis=0) % 2 * 255
    mesh = box((0, 0, 0), (4, 2, 1.5))
    textured(mesh, Image.fromarray(checks.astype(np.uint8)).convert("RGB"))
    model = replace(load_model(save(mesh, tmp_path / "box.glb"), *AS_IT_IS), paint=None)
    near, far = (_look(model, metres_per_pixel=step).albedo_P3[_sides(model)] for step in (0.01, 0.3))
    assert set(near.ravel()) <= {0.0, 1.0} and far == pytest.approx((127.5 / 255) ** 2.2, abs=0.01)


def test_the_colour_of_most_of_the_model_becomes_the_paint(tmp_path):
    body, trim = box((-2, -1, 0.6), (2, 1, 1.6)), box((-2, -1, 0), (2, 1, 0.4))
    coloured(body, faces=[200, 0, 0, 255])
    coloured(trim, faces=[20, 20, 20, 255])
    model = load_model(save(join(body, trim), tmp_path / "car.ply"), *AS_IT_IS)
    painted = _places(model)[:, 2] > 0.5
    albedo = _look(model).albedo_P3
    assert albedo[painted] == pytest.approx(np.broadcast_to(GREEN, (painted.sum(), 3)), abs=1e-3)
    assert albedo[~painted].max() < 0.02


def test_windows_larger_than_each_shade_of_the_paint_are_not_painted(tmp_path):
    """Paint in three shades, each a smaller area than the grey above it, as in a texture with light drawn into it."""
    panels = [box((x, -1, 0.6), (x + 1.3, 1, 1.2)) for x in (-2, -0.7, 0.6)]
    for panel, shade in zip(panels, (125, 160, 200), strict=True):
        coloured(panel, faces=[shade, shade // 5, shade // 5, 255])
    windows = box((-1.2, -0.9, 1.2), (1.2, 0.9, 1.7))
    coloured(windows, faces=[170, 170, 170, 255])
    model = load_model(save(join(*panels, windows), tmp_path / "car.ply"), *AS_IT_IS)
    red, green, blue = _look(model).albedo_P3.T
    painted = _places(model)[:, 2] < 0.6
    assert (green[painted] > 4 * red[painted]).all()
    grey = _places(model)[:, 2] > 0.72
    assert red[grey] == pytest.approx(green[grey], rel=0.1) and red[grey] == pytest.approx(blue[grey], rel=0.1)


@pytest.mark.parametrize("suffix", ["ply", "glb", "obj"])
def test_colours_of_vertices_are_seen(suffix, tmp_path):
    mesh = box((0, 0, 0), (4, 2, 1.5))
    coloured(mesh, vertices=np.where(mesh.vertices[:, :1] > 1, [255, 0, 0, 255], [0, 0, 255, 255]))
    model = replace(load_model(save(mesh, tmp_path / f"box.{suffix}"), *AS_IT_IS), paint=None)
    ends = np.abs(_places(model)[:, 0]) > 2
    right = _places(model)[ends, 0] > 0
    assert (_look(model).albedo_P3[ends] == np.where(right[:, None], RED, BLUE)).all() and right.any()


def test_the_base_colour_of_gltf_is_linear_and_that_of_obj_is_not(tmp_path):
    mesh = box((0, 0, 0), (4, 2, 1.5))
    material = PBRMaterial(baseColorFactor=[0.4, 0.2, 0.2, 1.0])
    mesh.visual = TextureVisuals(uv=np.zeros((8, 2)), material=material)
    linear = load_model(save(mesh, tmp_path / "box.glb"))
    display = load_model(write_obj(tmp_path / "box.obj", mesh, materials="Kd 0.4 0.2 0.2"))
    assert linear.colour_C3[0] == pytest.approx([0.4, 0.2, 0.2], abs=0.003)
    assert display.colour_C3[0] == pytest.approx(np.array([0.4, 0.2, 0.2]) ** 2.2, abs=0.003)


def test_colours_of_vertices_are_seen_beside_a_material(tmp_path):
    mesh = box((0, 0, 0), (4, 2, 1.5))
    coloured(mesh, vertices=np.tile([0, 255, 0, 255], (8, 1)))
    path = save(mesh, tmp_path / "box.gltf")
    header = json.loads(path.read_text())
    header["materials"] = [{"pbrMetallicRoughness": {"baseColorFactor": [0.5, 0.5, 0.5, 1.0]}}]
    header["meshes"][0]["primitives"][0]["material"] = 0
    path.write_text(json.dumps(header))
    assert load_model(path).colour_C3 == pytest.approx(np.tile([0, 0.5, 0], (36, 1)), abs=0.01)


@pytest.mark.parametrize(("mode", "glass"), [("OPAQUE", False), ("BLEND", True)])
def test_alpha_counts_as_its_mode_says(mode, glass, tmp_path):
    mesh = box((0, 0, 0), (4, 2, 1.5))
    material = PBRMaterial(baseColorFactor=[1.0, 0.0, 0.0, 0.1], alphaMode=mode)
    mesh.visual = TextureVisuals(uv=np.zeros((8, 2)), material=material)
    model = load_model(save(mesh, tmp_path / "box.glb"))
    assert [material.glass for material in model.materials] == [glass]


@pytest.mark.parametrize("materials", ["d 0.3\nKd 1 1 1", "d -halo 0.3\nKd 1 1 1"])
def test_what_is_transparent_is_dark_and_mirrors(materials, tmp_path):
    model = load_model(write_obj(tmp_path / "box.obj", box((0, 0, 0), (4, 2, 1.5)), materials=materials))
    look = _look(model)
    assert (look.albedo_P3 == 0.04).all() and (look.mirror_P > 0.05).all() and model.paint is None


def test_transparent_colours_and_parts_called_glass_are_glass(tmp_path):
    mesh = box((0, 0, 0), (4, 2, 1.5))
    coloured(mesh, faces=[255, 255, 255, 90])
    assert (_look(load_model(save(mesh, tmp_path / "box.ply"))).albedo_P3 == 0.04).all()
    path = write_obj(tmp_path / "car.obj", box((0, 0, 0), (4, 2, 1.5)), materials="Kd 1 1 1")
    for named in (path, path.with_suffix(".mtl")):
        named.write_text(named.read_text().replace("skin", "Windscreen_01"))
    assert (_look(load_model(path)).albedo_P3 == 0.04).all()


@pytest.mark.parametrize("opacity", ["d 1.0", "d 0.9", "d", "d much"])
def test_what_is_not_transparent_is_no_glass(opacity, tmp_path):
    model = load_model(write_obj(tmp_path / "box.obj", box((0, 0, 0), (4, 2, 1.5)), materials=f"{opacity}\nKd 1 1 1"))
    assert _look(model).albedo_P3 == pytest.approx(np.array(GREEN * 12).reshape(12, 3), abs=1e-6)


# ---- files that belong to a model ----


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("skin.png", "skin.png"),
        ("my skin.png", "my skin.png"),
        ("textures/skin.png", "textures\\skin.png"),
        ("../textures/skin.png", "../textures/skin.png"),
        ("skin.png", "C:\\Users\\Jo\\car\\skin.png"),
        ("skin.png", "/srv/jo/car/Skin.PNG"),
        ("my skin.png", "my%20skin.png"),
    ],
)
def test_a_texture_is_found_as_it_is_named_or_beside_the_model(given, named, tmp_path):
    texture = tmp_path / "model" / given
    texture.parent.mkdir(parents=True, exist_ok=True)
    path = write_obj(tmp_path / "model" / "box.obj", box((-2, -1, 0), (2, 1, 1)), materials=f"map_Kd {named}")
    Image.new("RGB", (4, 4), "red").save(texture)
    model = load_model(path, *AS_IT_IS)
    assert model.notes == () and model.paint == pytest.approx(RED)


@pytest.mark.parametrize("options", ["-s 1 1 1", "-clamp on -o 0.5", "-bm 2.0"])
def test_a_texture_is_found_behind_options(options, tmp_path):
    path = write_obj(tmp_path / "box.obj", box((-2, -1, 0), (2, 1, 1)), materials=f"map_Kd {options} my skin.png")
    Image.new("RGB", (4, 4), "red").save(tmp_path / "my skin.png")
    model = load_model(path, *AS_IT_IS)
    assert model.notes == () and model.paint == pytest.approx(RED)


@pytest.mark.parametrize("size", [(4096, 1), (1, 4096), (1, 1)])
def test_a_texture_may_have_any_shape(size, tmp_path):
    path = write_obj(tmp_path / "box.obj", box((-2, -1, 0), (2, 1, 1)), materials="map_Kd skin.png")
    Image.new("RGB", size, "red").save(tmp_path / "skin.png")
    assert load_model(path, *AS_IT_IS).paint == pytest.approx(RED)


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_texture_coordinates_that_are_no_numbers_are_noted(number, tmp_path):
    path = write_obj(tmp_path / "box.obj", box((-2, -1, 0), (2, 1, 1)), materials="map_Kd skin.png")
    Image.new("RGB", (4, 4), "red").save(tmp_path / "skin.png")
    path.write_text(re.sub("^vt .*$", f"vt {number} 0.5", path.read_text(), flags=re.MULTILINE))
    model = load_model(path, *AS_IT_IS)
    assert "texture coordinates" in model.notes[0] and _look(model).albedo_P3 == pytest.approx(
        np.tile(GREEN, (12, 1)), abs=1e-6
    )


def test_the_hash_takes_in_what_the_model_names(tmp_path):
    path = write_obj(tmp_path / "car.obj", car(), materials="map_Kd skin.png")
    digests = set()
    for colour in ("red", "blue", "red"):
        Image.new("RGB", (4, 4), colour).save(tmp_path / "skin.png")
        digests.add(load_model(path).sha256)
    assert len(digests) == 2


def test_a_missing_texture_is_noted_and_the_model_drawn_in_its_colour(tmp_path):
    path = write_obj(tmp_path / "box.obj", box((0, 0, 0), (4, 2, 1.5)), materials="map_Kd gone.png\nKd 0 0 1")
    model = load_model(path, *AS_IT_IS)
    assert model.notes == ("'gone.png', which it names, is missing: drawn without it",)
    assert (replace(model, paint=None).colour_C3 == BLUE).all()


def test_a_missing_texture_of_gltf_is_noted(tmp_path):
    path = save(quartered(), tmp_path / "box.gltf")
    content = json.loads(path.read_text())
    content["images"] = [{"uri": "my%20skin.png"}]
    path.write_text(json.dumps(content))
    assert load_model(path, *AS_IT_IS).notes == ("'my%20skin.png', which it names, is missing: drawn without it",)
    Image.new("RGB", (4, 4), "red").save(tmp_path / "my skin.png")
    assert load_model(path, *AS_IT_IS).paint == pytest.approx(RED)


@pytest.mark.parametrize("content", [b"", b"no image", "half"])
def test_a_broken_texture_is_noted_and_the_model_drawn_without(content, tmp_path):
    path = write_obj(tmp_path / "box.obj", box((0, 0, 0), (4, 2, 1.5)), materials="map_Kd skin.jpg\nKd 0 0 1")
    if content == "half":
        Image.effect_noise((64, 64), 50).save(tmp_path / "skin.jpg")
        content = (tmp_path / "skin.jpg").read_bytes()[:900]
    (tmp_path / "skin.jpg").write_bytes(content)
    model = load_model(path, *AS_IT_IS)
    assert model.notes == ("'skin.jpg', which it names, cannot be read as an image: drawn without it",)
    assert (model.colour_C3 == BLUE).all()


def test_missing_materials_are_noted(tmp_path):
    path = write_obj(tmp_path / "box.obj", box((0, 0, 0), (4, 2, 1.5)), materials="Kd 0 0 1")
    path.with_suffix(".mtl").unlink()
    assert load_model(path, *AS_IT_IS).notes == ("'box.mtl', which it names, is missing: drawn without it",)


@pytest.mark.parametrize("change", [lambda text: b"\xef\xbb\xbf" + text, lambda text: text.replace(b"\n", b"\r")])
def test_a_byte_order_mark_and_other_line_ends_are_read(change, tmp_path):
    path = write_obj(tmp_path / "box.obj", box((0, 0, 0), (4, 2, 1.5)), materials="Kd 0 0 1")
    for named in (path, path.with_suffix(".mtl")):
        named.write_bytes(change(named.read_bytes()))
    model = load_model(path, *AS_IT_IS)
    assert model.notes == () and (model.colour_C3 == BLUE).all() and len(model.mesh.triangles_T3) == 12


def test_text_in_another_encoding_is_read(tmp_path):
    path = write_obj(tmp_path / "box.obj", box((0, 0, 0), (4, 2, 1.5)), materials="Kd 0 0 1")
    for named in (path, path.with_suffix(".mtl")):
        named.write_bytes(named.read_bytes().replace(b"skin", b"T\xfcr"))
    model = load_model(path, *AS_IT_IS)
    assert model.notes == () and (model.colour_C3 == BLUE).all()


# ---- what is refused ----


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("content", [b"", b"hello\nworld\n" * 9, np.random.default_rng(0).bytes(4000)])
def test_what_is_no_model_is_refused(content, suffix, tmp_path, capfd):
    path = tmp_path / f"car.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=rf"has no triangles|cannot be read as \.{suffix}: .+ \(.+\)") as caught:
        load_model(path)
    assert "module" not in str(caught.value) and capfd.readouterr() == ("", "")


def test_half_a_text_is_refused(tmp_path):
    path = tmp_path / "car.ply"
    path.write_bytes(export_ply(car(), encoding="ascii"))
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-5]) + "\n")
    with pytest.raises(ModelError, match=r"is cut off: .* faces announced, .* found"):
        load_model(path)


@pytest.mark.parametrize("suffix", ["glb", "ply", "stl"])
def test_half_a_model_is_refused(suffix, tmp_path):
    path = save(car(), tmp_path / f"car.{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ModelError, match=rf"cannot be read as \.{suffix}"):
        load_model(path)


@pytest.mark.parametrize("number", ["nan", "inf", "1e300"])
def test_vertices_that_are_no_numbers_are_refused(number, tmp_path):
    path = write_obj(tmp_path / "car.obj", box((0, 0, 0), (4, 2, 1.5)))
    path.write_text(path.read_text().replace("v 4.0", f"v {number}", 1))
    with pytest.raises(ModelError, match="not finite numbers"):
        load_model(path)


def test_points_without_faces_are_refused(tmp_path):
    trimesh.PointCloud(np.random.default_rng(0).random((50, 3))).export(tmp_path / "cloud.ply")
    with pytest.raises(ModelError, match="has no triangles; export it as a mesh"):
        load_model(tmp_path / "cloud.ply")


def test_faces_of_vertices_that_are_not_there_are_refused(tmp_path):
    path = write_obj(tmp_path / "car.obj", box((0, 0, 0), (4, 2, 1.5)), head="f 1/1 2/2 99/99")
    with pytest.raises(ModelError, match="cannot be read as .obj"):
        load_model(path)


@pytest.mark.parametrize("axis", range(3))
def test_a_flat_sheet_is_refused(axis, tmp_path):
    size = np.array([4.0, 3, 2])
    size[axis] = 0.01
    path = save(box((0, 0, 0), tuple(size)), tmp_path / "sheet.stl")
    with pytest.raises(ModelError, match="is flat: .*ground plane"):
        load_model(path)


@pytest.mark.parametrize(("corner", "message"), [("v 8 0 0", "no triangle with an area"), ("v 3 1 0", "is flat")])
def test_a_single_triangle_is_refused(corner, message, tmp_path):
    (tmp_path / "one.obj").write_text(f"v 0 0 0\nv 4 0 0\n{corner}\nf 1 2 3\n")
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path / "one.obj")


def test_buffers_that_are_missing_are_named(tmp_path):
    path = save(car(), tmp_path / "car.gltf")
    (buffer, *_) = sorted(tmp_path.glob("*.bin"))
    buffer.unlink()
    with pytest.raises(ModelError, match=f"'{buffer.name}', which it names, is missing"):
        load_model(path)


@pytest.mark.parametrize("extension", ["KHR_draco_mesh_compression", "EXT_meshopt_compression"])
@pytest.mark.parametrize("suffix", ["glb", "gltf"])
def test_compressed_models_are_refused(suffix, extension, tmp_path):
    path = save(car(), tmp_path / "car.gltf")
    content = json.loads(path.read_text())
    text = json.dumps({**content, "extensionsUsed": [extension], "extensionsRequired": [extension]}).encode()
    if suffix == "glb":
        chunk = len(text).to_bytes(4, "little") + b"JSON" + text
        text = b"glTF" + (2).to_bytes(4, "little") + (12 + len(chunk)).to_bytes(4, "little") + chunk
    (tmp_path / f"packed.{suffix}").write_bytes(text)
    with pytest.raises(ModelError, match=rf"is compressed \({extension}\), which is not read; export it without"):
        load_model(tmp_path / f"packed.{suffix}")


def test_trimesh_says_nothing_itself(tmp_path, capfd):
    path = save(car(), tmp_path / "car.gltf")
    content = json.loads(path.read_text())
    content["meshes"][0]["primitives"][0]["extensions"] = {"KHR_draco_mesh_compression": {}}
    path.write_text(json.dumps(content))
    before = logging.getLogger("trimesh").level
    load_model(path)
    assert capfd.readouterr() == ("", "") and logging.getLogger("trimesh").level == before
