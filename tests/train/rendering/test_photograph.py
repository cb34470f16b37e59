from dataclasses import replace

import cv2
import numpy as np
import pytest
from vehicles import car, quartered, save

from dann.train.rendering.cad_models import load_model
from dann.train.rendering.mesh import Mesh, face_normals, unit
from dann.train.rendering.photograph import photograph
from dann.train.rendering.procedural_car import sample_car
from dann.train.rendering.scene import draw_scene
from dann.train.rendering.shading import Look
from dann.train.rendering.styles import STUDIO, style_of

MAGENTA = np.full((50, 80, 3), (255, 0, 255), np.uint8)
PLAIN = replace(
    draw_scene(np.random.default_rng(0), STUDIO), azimuth_deg=60.0, elevation_deg=10.0, shift_x=0.0, shift_y=0.0,
    shadow=0.0, key_azimuth_deg=60.0, paint=(0.1, 0.1, 0.1),
)  # fmt: skip
BEFORE_PHOTO = replace(PLAIN, backdrop="photo", bokeh=0.0)


class Block:
    """A dull grey block of 4 × 2 × 1.5 metres times ``factors``."""

    def __init__(self, factors=(1.0, 1.0, 1.0)):
        corners = np.array([[x, y, z] for x in (-2.0, 2) for y in (-1.0, 1) for z in (0, 1.5)]) * factors
        sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
        vertices = corners[np.array(sides).reshape(-1)]
        triangles = np.concatenate([4 * np.arange(6)[:, None] + pick for pick in ([0, 1, 2], [0, 2, 3])])
        normals = np.zeros_like(vertices)
        normals[triangles] = unit(face_normals(vertices, triangles))[:, None]
        self.mesh = Mesh(vertices, normals, triangles, np.zeros(len(triangles), int))

    def look(self, seen, place_P3, scene, metres_per_pixel):
        dull = np.zeros(len(place_P3))
        return Look(np.full((len(place_P3), 3), 0.3), dull, dull, dull + 1)


def _before_magenta(model, scene, size_px=120):
    """A shot before a magenta photo, and which pixels show the model."""
    shot = photograph(model, scene, size_px=size_px, photo=lambda name: MAGENTA)
    return shot, np.abs(shot.image_HW3.astype(int) - MAGENTA[0, 0]).max(axis=2) > 0


def _bounds(mask_HW):
    rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


@pytest.mark.parametrize("size_px", [16, 101, 128])
@pytest.mark.parametrize("azimuth_deg", [0.0, 90.0, 200.0])
def test_a_crop_without_margins_is_filled_from_edge_to_edge(size_px, azimuth_deg):
    scene = replace(BEFORE_PHOTO, margins=(0.0,) * 4, azimuth_deg=azimuth_deg)
    shot, mask = _before_magenta(Block(), scene, size_px)
    assert max(shot.image_HW3.shape) == size_px and shot.image_HW3.dtype == np.uint8
    assert shot.box == pytest.approx((0, 0, 1, 1), abs=1 / size_px)
    assert _bounds(mask) == (0, 0, mask.shape[1], mask.shape[0])


def test_a_crop_leaves_its_margins_as_shares_of_the_longer_side():
    shot, mask = _before_magenta(Block(), replace(BEFORE_PHOTO, margins=(0.1, 0.2, 0.3, 0.4)), 200)
    left, top, right, bottom = _bounds(mask)
    side = max(right - left, bottom - top)
    height, width = mask.shape
    margins = np.array([left, top, width - right, height - bottom]) / side
    assert margins == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=0.015)


@pytest.mark.parametrize("margins", [None, (0.05, 0.1, 0.0, 0.2)])
def test_box_and_coverage_tell_where_the_model_is(margins):
    shot, mask = _before_magenta(Block(), replace(BEFORE_PHOTO, margins=margins, shift_x=0.5, shift_y=-1.0), 160)
    height, width = mask.shape
    assert np.array(shot.box) * [width, height, width, height] == pytest.approx(_bounds(mask), abs=1)
    assert shot.coverage == pytest.approx(mask.mean(), abs=0.02)
    assert (height == width) == (margins is None)


def test_a_photo_stands_behind_the_model_and_shadows_fall_on_it():
    scene = replace(BEFORE_PHOTO, margins=(0.3,) * 4, shadow=0.8, key_azimuth_deg=240.0, key_elevation_deg=40.0)
    shot, mask = _before_magenta(Block(), scene)
    assert shot.image_HW3[0, 0].tolist() == shot.image_HW3[0, -1].tolist() == [255, 0, 255]
    darkened = shot.image_HW3[mask & (shot.image_HW3[..., 1] == 0) & (shot.image_HW3[..., 0] > 0)]
    assert len(darkened) > 50 and (darkened[:, 0] == darkened[:, 2]).all()


@pytest.mark.parametrize(("key_azimuth_deg", "side"), [(20.0, "left"), (160.0, "right")])
def test_a_shadow_falls_away_from_the_light(key_azimuth_deg, side):
    """Seen from the right, what is before the model is to the right."""
    scene = replace(
        PLAIN, azimuth_deg=90.0, key_azimuth_deg=key_azimuth_deg, key_elevation_deg=30.0, margins=(0.5,) * 4
    )
    lit, shaded = (
        photograph(Block(), replace(scene, shadow=shadow), size_px=120).image_HW3.astype(int) for shadow in (0.0, 0.8)
    )
    dark = (lit - shaded).mean(axis=2)
    left, right = dark[:, :55].sum(), dark[:, 65:].sum()
    assert dark.min() > -3 and (left > 1.5 * right if side == "left" else right > 1.5 * left)


def test_what_faces_the_light_is_brighter():
    nose, side = (
        photograph(
            Block(), replace(PLAIN, azimuth_deg=45.0, key_azimuth_deg=key, key_elevation_deg=10.0), size_px=96
        ).image_HW3.astype(int)
        for key in (10.0, 80.0)
    )
    left, right = (slice(40, 56), slice(24, 36)), (slice(40, 56), slice(66, 80))
    assert side[left].mean() > nose[left].mean() + 10 and nose[right].mean() > side[right].mean() + 10


def test_something_before_the_model_hides_it_and_leaves_its_box():
    clear, hidden = (photograph(Block(), replace(PLAIN, occluder=width), size_px=96) for width in (0.0, 0.1))
    assert (clear.image_HW3 != hidden.image_HW3).any()
    assert (clear.box, clear.coverage) == (hidden.box, hidden.coverage)


def test_stretching_the_scene_is_stretching_the_model():
    factors = (1.2, 0.9, 0.8)
    scene = replace(PLAIN, stretch=factors)
    stretched, made_so = photograph(Block(), scene, size_px=120), photograph(Block(factors), PLAIN, size_px=120)
    np.testing.assert_allclose(stretched.image_HW3.astype(int), made_so.image_HW3, atol=1)
    assert stretched.box == made_so.box


def test_what_is_painted_on_a_car_stretches_with_it():
    car = sample_car(np.random.default_rng(3), "sedan")
    scene = replace(PLAIN, azimuth_deg=90.0, elevation_deg=0.0, focal_mm=2000.0)  # a side view, hardly any perspective

    def side_view(stretch):
        shot = photograph(car, replace(scene, stretch=stretch), size_px=200)
        left, top, right, bottom = (round(200 * share) for share in shot.box)
        return cv2.resize(shot.image_HW3[top:bottom, left:right], (120, 40), interpolation=cv2.INTER_AREA).astype(int)

    plain, longer = side_view((1.0, 1.0, 1.0)), side_view((1.4, 1.0, 1.0))
    assert np.abs(plain - longer).mean() < 0.25 * np.abs(plain - longer[:, ::-1]).mean()


def test_seen_from_its_right_the_front_is_at_the_right_and_the_upper_half_of_the_texture_on_top(tmp_path):
    model = replace(load_model(save(quartered(), tmp_path / "box.glb"), "z", "-x"), paint=None)
    scene = replace(PLAIN, azimuth_deg=90.0, elevation_deg=0.0, margins=(0.0,) * 4, gloss=0.0)
    image = photograph(model, scene, size_px=80).image_HW3.astype(int)
    height, width, _ = image.shape
    rear, front = image[:, : width // 2 - 4], image[:, width // 2 + 4 :]
    assert (rear[..., 2] > rear[..., 0] + 30).mean() > 0.95 and (front[..., 0] > front[..., 2] + 30).mean() > 0.95
    assert front[: height // 3, :, 0].mean() > front[-height // 3 :, :, 0].mean() + 30


def test_triangles_wound_the_other_way_look_the_same(tmp_path):
    inside_out = car()
    inside_out.invert()
    mixed = car()
    mixed.faces[::2] = mixed.faces[::2, ::-1]
    models = [load_model(save(m, tmp_path / f"{i}.stl")) for i, m in enumerate((car(), inside_out, mixed))]
    right, wrong, half = (photograph(model, PLAIN, size_px=96).image_HW3.astype(int) for model in models)
    assert np.abs(right - wrong).max() <= 2
    assert (np.abs(right - half).max(axis=2) > 12).mean() < 0.02  # shading differs where faces share an edge


def test_textures_of_a_photo_model_come_out_the_same_every_time(tmp_path):
    model = load_model(save(quartered(), tmp_path / "box.glb"))
    first, again = (photograph(model, PLAIN, size_px=64).image_HW3 for _ in range(2))
    assert np.array_equal(first, again)


def test_no_scene_is_too_extreme():
    style = style_of(
        "varied",
        {
            "azimuth_deg": [0, 180], "elevation_deg": [0, 89], "roll_deg": [-180, 180], "focal_mm": [30, 2000],
            "margin": [0, 5], "saturation": [0, 1], "value": [0, 1], "gloss": [0, 1], "key_elevation_deg": [5, 90],
            "key": [0, 10], "ambient": [0.01, 10], "warmth": [-1, 1], "shadow": [0, 1], "skyline": [0, 1],
            "clutter": [0, 2], "bokeh": [0, 200], "occluder_chance": 0.5, "occluder": [0, 1], "defocus": [0, 200],
            "motion": [0, 200], "exposure": [-5, 5], "cast": 0.9, "contrast": [0.1, 5], "vignette": [0, 1],
            "noise": [0, 1], "jpeg": [1, 100],
        },
    )  # fmt: skip
    model = sample_car(np.random.default_rng(0), "suv")
    for seed in range(60):
        scene = draw_scene(np.random.default_rng(seed), style, ["photo"])
        scene = scene if seed % 2 else replace(scene, margins=None)
        shot = photograph(model, scene, size_px=24, photo=lambda name: MAGENTA)
        assert max(shot.image_HW3.shape[:2]) == 24 and shot.image_HW3.dtype == np.uint8
        left, top, right, bottom = shot.box
        assert 0 <= left <= right <= 1 and 0 <= top <= bottom <= 1


@pytest.mark.parametrize("roll", [90.0, -90.0, 89.999999, 180.0])
def test_a_camera_on_its_side_takes_pictures_too(roll):
    style = style_of("varied", {"roll_deg": [roll, roll], "studio": 0.0})
    model = sample_car(np.random.default_rng(0), "suv")
    for seed in range(4):
        shot = photograph(model, draw_scene(np.random.default_rng(seed), style, []), size_px=24, photo=None)
        assert shot.image_HW3.std() > 5


def test_a_longer_lens_stands_further_away():
    near, far = (
        photograph(Block(), replace(BEFORE_PHOTO, focal_mm=mm), size_px=24, photo=lambda name: MAGENTA)
        for mm in (40, 120)
    )
    assert far.distance == pytest.approx(3 * near.distance)
    corners = Block().mesh.vertices_V3
    assert near.distance == pytest.approx(np.linalg.norm(np.ptp(corners, axis=0)) * 40 / 36, rel=0.01)
