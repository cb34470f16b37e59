from dataclasses import replace

import numpy as np
import pytest

from dann.train.rendering.photo_effects import develop, through_lens
from dann.train.rendering.scene import draw_scene
from dann.train.rendering.styles import STUDIO

GREY = np.full((48, 48, 3), 0.5, np.float32)
PLAIN = draw_scene(np.random.default_rng(0), STUDIO)


def _random(low, high):
    return np.random.default_rng(0).uniform(low, high, (32, 40, 3)).astype(np.float32)


def test_studio_leaves_the_picture_alone():
    picture = _random(0, 1)
    assert np.array_equal(through_lens(picture, PLAIN), picture)
    assert np.array_equal(develop(picture, PLAIN), np.round(picture * 255).astype(np.uint8))


def test_exposure_is_in_stops_of_linear_light():
    brighter = develop(GREY, replace(PLAIN, exposure=1.0))
    assert (brighter / 255.0) ** 2.2 == pytest.approx(2 * 0.5**2.2, rel=0.02)


def test_noise_has_the_strength_asked_for_and_is_the_same_in_the_same_scene():
    noisy = replace(PLAIN, noise=0.05)
    image = develop(GREY, noisy)
    assert image.std() / 255 == pytest.approx(0.05, rel=0.1)
    assert np.array_equal(develop(GREY, noisy), image)
    assert not np.array_equal(develop(GREY, replace(noisy, seed=1)), image)


def test_gain_tints_grey_by_so_much_linear_light():
    image = develop(GREY, replace(PLAIN, gain=(1.2, 1.0, 0.8)))
    linear = (image[0, 0] / 255.0) ** 2.2
    assert linear / linear[1] == pytest.approx([1.2, 1.0, 0.8], rel=0.03)


def test_contrast_darkens_what_is_dark_most():
    picture = np.stack([np.full((16, 16, 3), level, np.float32) for level in (0.2, 0.8)])
    dark, light = (develop(level, replace(PLAIN, contrast=1.5))[0, 0, 0] / 255 for level in picture)
    assert dark / 0.2 < 0.5 and light / 0.8 > 0.85


def test_vignette_darkens_the_corners_only():
    image = develop(GREY, replace(PLAIN, vignette=0.5)).astype(int)
    assert image[24, 24, 0] == pytest.approx(128, abs=2) and image[0, 0, 0] == pytest.approx(64, abs=2)


@pytest.mark.parametrize("effect", [{"defocus": 40.0}, {"motion": 120.0}])
def test_blur_spreads_an_edge_and_keeps_the_light(effect):
    edge = np.zeros((48, 48, 3), np.float32)
    edge[16:32, 16:32] = 1
    blurred = through_lens(edge, replace(PLAIN, **effect))
    assert ((blurred > 0.1) & (blurred < 0.9)).sum() > 50
    assert blurred.sum() == pytest.approx(edge.sum(), rel=0.01)


def test_motion_blur_runs_along_its_angle():
    dot = np.zeros((49, 49, 3), np.float32)
    dot[24, 24] = 1
    across, down = (
        through_lens(dot, replace(PLAIN, motion=200.0, motion_angle_deg=angle))[..., 0].nonzero()
        for angle in (0.0, 90.0)
    )
    assert (np.ptp(across[0]), np.ptp(down[1])) == (0, 0) and np.ptp(across[1]) == np.ptp(down[0]) > 6


def test_blur_grows_with_the_image():
    """The same scene at twice the size is the same picture, twice as large."""
    edge = np.zeros((48, 48, 3), np.float32)
    edge[:, 24:] = 1
    small = through_lens(edge, replace(PLAIN, defocus=40.0))
    large = through_lens(np.repeat(np.repeat(edge, 2, axis=0), 2, axis=1), replace(PLAIN, defocus=40.0))
    assert large[::2, ::2] == pytest.approx(small, abs=0.12)


def test_jpeg_changes_pixels_a_little():
    picture = _random(0.3, 0.7)
    clean = develop(picture, PLAIN).astype(int)
    squeezed = develop(picture, replace(PLAIN, jpeg=30)).astype(int)
    assert 1 < np.abs(clean - squeezed).mean() < 40
