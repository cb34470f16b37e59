"""Each random change does what its setting says, and nothing else."""

from typing import Any

import numpy as np
import pytest
import torch

from dann.train import augment
from dann.train.settings import AugmentConfig

EVERYTHING = AugmentConfig(
    flip=True,
    shift=0.1,
    scale=0.2,
    rotate_deg=20.0,
    brightness=0.3,
    contrast=0.5,
    colour=0.4,
    invert=True,
    noise=0.2,
)


def noise(count: int = 64, height: int = 12, width: int = 12) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def changed(images: torch.Tensor, *, seed: int = 0, **settings: Any) -> torch.Tensor:
    config = AugmentConfig(**settings)
    return augmented(images, config, augment.draw(config, len(images), np.random.default_rng(seed)))


def augmented(images: torch.Tensor, config: AugmentConfig, parameters: dict[str, np.ndarray]) -> torch.Tensor:
    return augment.apply(images, config, augment.tensors(parameters, *images.shape[2:]))


def by_hand(images: torch.Tensor, matrix: list[list[float]]) -> torch.Tensor:
    parameters = {"affine": np.tile(np.array(matrix), (len(images), 1, 1))}
    return augmented(images, AugmentConfig(), parameters)


def test_nothing_is_drawn_or_changed_when_all_is_off():
    assert augment.draw(AugmentConfig(), 8, np.random.default_rng(0)) == {}
    images = noise() * 3 - 1  # outside [0, 1]: not even clamped
    assert changed(images) is images


def test_the_seed_decides():
    config = EVERYTHING
    first, again, other = (
        augmented(noise(), config, augment.draw(config, 64, np.random.default_rng(seed))) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_results_stay_between_0_and_1_and_keep_their_form():
    result = augmented(noise(), EVERYTHING, augment.draw(EVERYTHING, 64, np.random.default_rng(0)))
    assert result.shape == noise().shape and result.dtype == torch.float32
    assert result.min() == 0 and result.max() == 1  # some are clamped, none is beyond


def test_the_input_is_not_changed_in_place():
    images = noise()
    augmented(images, EVERYTHING, augment.draw(EVERYTHING, 64, np.random.default_rng(0)))
    assert torch.equal(images, noise())


def test_flip_mirrors_left_and_right_of_about_half_the_images():
    images, result = noise(200), changed(noise(200), flip=True)
    same = torch.isclose(result, images, atol=1e-5).all(dim=(1, 2, 3))
    mirrored = torch.isclose(result, images.flip(3), atol=1e-5).all(dim=(1, 2, 3))
    assert torch.equal(same, ~mirrored)
    assert 70 <= mirrored.sum() <= 130


def marker(y: int, x: int, height: int, width: int) -> torch.Tensor:
    images = torch.zeros(1, 3, height, width)
    images[:, :, y, x] = 1
    return images


def place(images: torch.Tensor) -> tuple[float, float]:
    """Row and column of the centre of mass of one image."""
    mass = images[0, 0] / images[0, 0].sum()
    rows, columns = torch.arange(mass.shape[0]), torch.arange(mass.shape[1])
    return (mass.sum(1) * rows).sum().item(), (mass.sum(0) * columns).sum().item()


@pytest.mark.parametrize(("height", "width"), [(21, 21), (21, 41)])
def test_shift_moves_by_at_most_its_share_of_the_side(height: int, width: int):
    moves = []
    for seed in range(60):
        row, column = place(changed(marker(10, width // 2, height, width), seed=seed, shift=0.2))
        moves.append((abs(row - 10) / height, abs(column - width // 2) / width))
    assert np.max(moves) <= 0.2 + 1e-5
    assert np.min(np.max(moves, axis=0)) > 0.17


@pytest.mark.parametrize(("height", "width"), [(41, 41), (41, 81), (81, 41)])
def test_rotation_keeps_distances_and_its_limit(height: int, width: int):
    turns = []
    for seed in range(40):
        row, column = place(changed(marker(height // 2, width // 2 + 15, height, width), seed=seed, rotate_deg=30))
        down, right = row - height // 2, column - width // 2
        assert np.hypot(down, right) == pytest.approx(15, abs=0.3)
        turns.append(np.rad2deg(np.arctan2(down, right)))
    assert 25 < np.max(turns) <= 31 and -31 <= np.min(turns) < -25


def test_scale_enlarges_and_shrinks_up_to_its_limit():
    factors = []
    for seed in range(40):
        _, column = place(changed(marker(20, 30, 41, 41), seed=seed, scale=0.3))
        factors.append((column - 20) / 10)
    assert 0.69 <= np.min(factors) < 0.75 and 1.25 < np.max(factors) <= 1.31


def test_a_quarter_turn_is_exact():
    images = noise(2)
    torch.testing.assert_close(by_hand(images, [[0, -1, 0], [1, 0, 0]]), images.rot90(1, (2, 3)), atol=1e-5, rtol=0)


def test_brightness_adds_one_value_to_each_image():
    images = noise() * 0.2 + 0.4
    offsets = (changed(images, brightness=0.3) - images).flatten(1)
    torch.testing.assert_close(offsets, offsets[:, :1].expand_as(offsets), atol=1e-6, rtol=0)
    assert -0.3 <= offsets.min() < -0.2 and 0.2 < offsets.max() <= 0.3


def test_contrast_stretches_around_the_mean_of_the_image():
    images = noise() * 0.2 + 0.4
    result = changed(images, contrast=0.5)
    torch.testing.assert_close(result.mean((1, 2, 3)), images.mean((1, 2, 3)))
    gain = result.std((1, 2, 3)) / images.std((1, 2, 3))
    assert 0.5 <= gain.min() < 0.6 and 1.4 < gain.max() <= 1.5


def test_colour_multiplies_each_channel_by_its_own_gain():
    images = noise() * 0.2 + 0.4
    gains = (changed(images, colour=0.4) / images).flatten(2)
    torch.testing.assert_close(gains, gains[:, :, :1].expand_as(gains))
    assert 0.6 <= gains.min() < 0.65 and 1.35 < gains.max() <= 1.4
    assert gains[:, :, 0].std(dim=1).min() > 0


def test_invert_negates_about_half_the_images():
    images, result = noise(200), changed(noise(200), invert=True)
    negated = (result == 1 - images).all(dim=(1, 2, 3))
    assert torch.equal(result[~negated], images[~negated])
    assert 70 <= negated.sum() <= 130


def test_noise_has_its_standard_deviation():
    images = torch.full((64, 3, 12, 12), 0.5)
    added = changed(images, noise=0.05) - images
    assert added.std().item() == pytest.approx(0.05, rel=0.05)
    assert abs(added.mean().item()) < 1e-3


def test_mixed_precision_does_not_move_pixels():
    config = AugmentConfig(flip=True, shift=0.1, scale=0.2, rotate_deg=20.0)
    images, parameters = noise(4, 64, 64), augment.draw(config, 4, np.random.default_rng(0))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = augmented(images, config, parameters)
    assert torch.equal(mixed, augmented(images, config, parameters))


def test_noise_is_of_its_own_in_every_image():
    images = torch.full((4, 3, 12, 12), 0.5)
    added = changed(images, noise=0.05)
    assert len({tuple(image.flatten().tolist()) for image in added}) == 4


def test_parameters_are_plain_arrays_with_one_entry_an_image():
    parameters = augment.draw(EVERYTHING, 5, np.random.default_rng(0))
    names = ("affine", "contrast", "gain", "offset", "invert", "noise_seed")
    assert {name: len(values) for name, values in parameters.items()} == dict.fromkeys(names, 5)


def test_what_becomes_of_an_image_does_not_depend_on_its_batch():
    """Bit for bit, or a shard of a batch would not be what it is in the whole."""
    images, parameters = noise(6), augment.draw(EVERYTHING, 6, np.random.default_rng(0))
    together = augmented(images, EVERYTHING, parameters)
    for rows in (slice(0, 1), slice(2, 4), slice(3, 6)):
        alone = augmented(images[rows], EVERYTHING, {name: values[rows] for name, values in parameters.items()})
        assert torch.equal(alone, together[rows])
