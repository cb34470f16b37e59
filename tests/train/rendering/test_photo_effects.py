from dataclasses import replace

import numpy as np
import pytest

from dann.train.rendering.photo_effects import SIMULATED_PHOTO, STUDIO, develop, expose

GREY = np.full((48, 48, 3), 0.5, np.float32)


def _rng():
    return np.random.default_rng(0)


def test_studio_leaves_the_picture_alone():
    picture = _rng().uniform(0, 1, (32, 32, 3)).astype(np.float32)
    assert np.array_equal(expose(_rng(), picture, STUDIO), picture)
    assert np.array_equal(develop(_rng(), picture, STUDIO), np.round(picture * 255).astype(np.uint8))


def test_exposure_is_in_stops_of_linear_light():
    brighter = develop(_rng(), GREY, replace(STUDIO, exposure=(1, 1)))
    assert (brighter / 255.0) ** 2.2 == pytest.approx(2 * 0.5**2.2, rel=0.02)


def test_noise_has_the_strength_asked_for():
    image = develop(_rng(), GREY, replace(STUDIO, noise=(0.05, 0.05)))
    assert image.std() / 255 == pytest.approx(0.05, rel=0.1)


def test_cast_makes_grey_coloured():
    image = develop(_rng(), GREY, replace(STUDIO, cast=0.3))
    assert 5 < np.ptp(image[0, 0].astype(int)) < 60


def test_vignette_darkens_the_corners_only():
    image = develop(_rng(), GREY, replace(STUDIO, vignette=(0.5, 0.5))).astype(int)
    assert image[24, 24, 0] == pytest.approx(128, abs=2) and image[0, 0, 0] == pytest.approx(64, abs=2)


@pytest.mark.parametrize("effect", [{"defocus": (40, 40)}, {"motion": (120, 120)}])
def test_blur_spreads_an_edge_and_keeps_the_light(effect):
    edge = np.zeros((48, 48, 3), np.float32)
    edge[16:32, 16:32] = 1
    blurred = expose(_rng(), edge, replace(STUDIO, **effect))
    assert ((blurred > 0.1) & (blurred < 0.9)).sum() > 50
    assert blurred.sum() == pytest.approx(edge.sum(), rel=0.01)


def test_jpeg_changes_pixels_a_little():
    picture = _rng().uniform(0.3, 0.7, (32, 32, 3)).astype(np.float32)
    clean = develop(_rng(), picture, STUDIO).astype(int)
    squeezed = develop(_rng(), picture, replace(STUDIO, jpeg=(30, 30))).astype(int)
    assert 1 < np.abs(clean - squeezed).mean() < 40


def test_every_effect_of_the_simulated_photo_is_on():
    for name in ("clutter", "occluder_chance", "cast"):
        assert getattr(SIMULATED_PHOTO, name) > 0
    for name in ("defocus", "motion", "vignette", "noise", "skyline", "occluder"):
        low, high = getattr(SIMULATED_PHOTO, name)
        assert 0 <= low < high
