from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pytest

from dann.train.rendering.scene import DRAWN_BACKDROP, STUDIO_BACKDROP, Scene, cells, columns, draw_scene
from dann.train.rendering.styles import STUDIO, STYLES, VARIED


def _scenes(style, count=300, photos=()):
    return [draw_scene(np.random.default_rng(seed), style, photos) for seed in range(count)]


def test_the_same_random_numbers_give_the_same_scene():
    first, again, other = (draw_scene(np.random.default_rng(seed), VARIED) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("name", STYLES)
def test_every_number_lies_in_the_range_of_its_style_and_all_over_it(name):
    style, scenes = STYLES[name], _scenes(STYLES[name])
    ranged = [field.name for field in fields(Scene) if isinstance(getattr(style, field.name, None), tuple)]
    assert len(ranged) > 15
    for field in ranged:
        low, high = getattr(style, field)
        drawn = np.array([getattr(scene, field) for scene in scenes])
        if field == "azimuth_deg":
            drawn = np.minimum(drawn, 360 - drawn)
        if field == "occluder":
            drawn = drawn[drawn > 0]
        if len(drawn):
            assert drawn.min() >= low and drawn.max() <= high, field
            assert np.ptp(drawn) >= 0.6 * (high - low), field


def test_both_sides_and_more_fronts_than_backs_where_asked_for():
    azimuths = np.array([scene.azimuth_deg for scene in _scenes(replace(VARIED, front=0.8), 600)])
    assert (azimuths < 180).mean() == pytest.approx(0.5, abs=0.06)
    assert (np.cos(np.radians(azimuths)) > 0).mean() == pytest.approx(0.8, abs=0.05)


def test_views_stay_in_a_range_that_has_no_front():
    azimuths = np.array([scene.azimuth_deg for scene in _scenes(replace(VARIED, azimuth_deg=(100, 120)))])
    assert ((100 <= np.minimum(azimuths, 360 - azimuths)) & (np.minimum(azimuths, 360 - azimuths) <= 120)).all()


def test_the_gain_stays_within_the_cast():
    gains = np.array([scene.gain for scene in _scenes(replace(VARIED, cast=0.2))])
    assert 0.8 <= gains.min() < 0.85 and 1.15 < gains.max() <= 1.2 and gains.shape == (300, 3)


def test_half_of_the_paints_are_hardly_coloured():
    paints = np.array([scene.paint for scene in _scenes(VARIED)])
    spread = np.ptp(paints, axis=1) / paints.max(axis=1)
    assert 0.4 < (spread < 0.15).mean() < 0.7 and (spread > 0.6).mean() > 0.2


def test_the_light_comes_from_the_side_of_the_camera_more_often_than_not():
    apart = np.array([(scene.key_azimuth_deg - scene.azimuth_deg) % 360 for scene in _scenes(VARIED)])
    assert 0.65 < ((apart <= 60) | (apart >= 300)).mean() < 0.85 and ((120 < apart) & (apart < 240)).any()


@pytest.mark.parametrize(
    ("studio", "photo", "photos", "expected"),
    [
        (1, 1, ("a", "b"), {STUDIO_BACKDROP}),
        (0, 1, ("a", "b"), {"a", "b"}),
        (0, 0, ("a", "b"), {DRAWN_BACKDROP}),
        (0, 1, (), {DRAWN_BACKDROP}),
        (0.3, 0.5, ("a", "b"), {STUDIO_BACKDROP, DRAWN_BACKDROP, "a", "b"}),
    ],
)
def test_backdrops_are_as_frequent_as_asked_for(studio, photo, photos, expected):
    count = Counter(scene.backdrop for scene in _scenes(replace(VARIED, studio=studio, photo=photo), 400, photos))
    assert set(count) == expected
    if len(expected) == 4:
        assert count[STUDIO_BACKDROP] / 400 == pytest.approx(0.3, abs=0.07)
        assert count[DRAWN_BACKDROP] / 400 == pytest.approx(0.35, abs=0.07)


def test_photos_do_not_change_the_rest_of_a_scene():
    plain, before_a_photo = (_scenes(VARIED, 40, photos) for photos in ((), ("a", "b")))
    assert [replace(scene, backdrop="") for scene in plain] == [replace(scene, backdrop="") for scene in before_a_photo]


def test_each_purpose_has_random_numbers_of_its_own():
    scene = draw_scene(np.random.default_rng(0), STUDIO)
    draws = [scene.rng(purpose).random() for purpose in (0, 1, 2, 3)]
    assert len(set(draws)) == 4 and draws == [scene.rng(purpose).random() for purpose in (0, 1, 2, 3)]


@pytest.mark.parametrize("name", STYLES)
def test_a_table_holds_every_number_of_a_scene(name):
    scene = draw_scene(np.random.default_rng(3), STYLES[name])
    row = dict(zip(columns(), cells(scene), strict=True))
    assert len(row) == len(columns())
    assert int(row["seed"]) == scene.seed and row["backdrop"] == scene.backdrop
    assert float(row["elevation_deg"]) == pytest.approx(scene.elevation_deg, rel=1e-5)
    assert [float(row[f"paint_{c}"]) for c in ("red", "green", "blue")] == pytest.approx(scene.paint, rel=1e-5)
    assert [float(row[f"gain_{c}"]) for c in ("red", "green", "blue")] == pytest.approx(scene.gain, rel=1e-5)
    margins = [row[f"margins_{side}"] for side in ("left", "top", "right", "bottom")]
    if scene.margins is None:
        assert margins == [""] * 4 and (row["jpeg"] == "") == (scene.jpeg is None)
    else:
        assert [float(margin) for margin in margins] == pytest.approx(scene.margins, rel=1e-5)
