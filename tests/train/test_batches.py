"""Batches as pure functions of seed, stream and step, whole or in shards, in one view or two."""

import threading
import time

import numpy as np
import pytest
import torch

from dann.infer.preprocess import PreprocessSpec
from dann.train import augment
from dann.train.batches import Batch, BatchStream, prefetched
from dann.train.evaluate import to_float
from dann.train.image_set import ImageSet, images_from_arrays
from dann.train.settings import AugmentConfig

WEAK = AugmentConfig(flip=True, brightness=0.1, noise=0.1)
STRONG = AugmentConfig(shift=0.2, rotate_deg=30.0, contrast=0.5, colour=0.3, invert=True, noise=0.3)


def images(count: int) -> ImageSet:
    """``count`` images whose every pixel is the image's number."""
    pixels = np.repeat(np.arange(count, dtype=np.uint8), 4 * 4 * 3).reshape(count, 4, 4, 3)
    return images_from_arrays(pixels, [str(i) for i in range(count)], PreprocessSpec(height=4, width=4))


def stream(
    count: int = 10,
    *,
    batch_size: int = 4,
    seed: int = 0,
    number: int = 0,
    labels: bool = True,
    views: tuple[AugmentConfig, ...] = (WEAK,),
) -> BatchStream:
    return BatchStream(
        images(count),
        np.arange(count) * 10 if labels else None,
        batch_size=batch_size,
        views=views,
        seed=seed,
        stream=number,
    )


def same(a: Batch, b: Batch) -> bool:
    return (
        np.array_equal(a.indices, b.indices)
        and np.array_equal(pixels(a), pixels(b))
        and np.array_equal(a.labels, b.labels)  # type: ignore[arg-type]
        and len(a.views) == len(b.views)
        and all(same_parameters(one, other) for one, other in zip(a.views, b.views, strict=True))
    )


def same_parameters(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def pixels(batch: Batch) -> np.ndarray:
    assert batch.pixels_NHWC is not None
    return batch.pixels_NHWC


def itself(batch: Batch) -> Batch:
    return batch


def augmented(batch: Batch, *configs: AugmentConfig) -> list[torch.Tensor]:
    """The images of each view, as training makes them."""
    images_NCHW = to_float(torch.from_numpy(pixels(batch)))
    return [
        augment.apply(images_NCHW, config, augment.tensors(drawn, 4, 4))
        for config, drawn in zip(configs, batch.views, strict=True)
    ]


@pytest.mark.parametrize(("count", "batch_size"), [(10, 4), (8, 4), (7, 7), (3, 8), (1, 2), (5, 23)])
def test_no_image_is_dropped_or_repeated_within_a_pass(count: int, batch_size: int):
    found = stream(count, batch_size=batch_size)
    steps = 4 * count
    drawn = np.concatenate([found.indices(step) for step in range(steps)])
    assert len(drawn) == steps * batch_size
    for start in range(0, len(drawn) - count + 1, count):
        assert sorted(drawn[start : start + count]) == list(range(count))


def test_every_pass_has_its_own_order():
    found = stream(50, batch_size=50)
    orders = {tuple(found.indices(step)) for step in range(5)}
    assert len(orders) == 5 and tuple(range(50)) not in orders


def test_pixels_and_labels_belong_to_the_indices():
    batch = stream().batch(3)
    assert pixels(batch).shape == (4, 4, 4, 3) and pixels(batch).dtype == np.uint8
    assert np.array_equal(pixels(batch)[:, 0, 0, 0], batch.indices)
    assert np.array_equal(batch.labels, batch.indices * 10)  # type: ignore[arg-type]


def test_an_unlabelled_set_has_no_labels():
    assert stream(labels=False).batch(0).labels is None


@pytest.mark.parametrize("count", [3, 10])
def test_a_batch_does_not_depend_on_what_was_asked_before(count: int):
    steps = [7, 2, 40, 2, 0, 41]
    wandering = stream(count)
    for step in steps:
        assert same(wandering.batch(step), stream(count).batch(step))


@pytest.mark.parametrize("ahead", [1, 3, 50])
def test_prefetching_gives_the_same_batches(ahead: int):
    streams = [stream(10), stream(7, number=1, labels=False)]
    found = list(prefetched(streams, range(2, 9), prepare=itself, ahead=ahead))
    assert len(found) == 7
    for step, shards in enumerate(found, start=2):
        (together,) = shards
        assert same(together[0], stream(10).batch(step))
        assert np.array_equal(together[1].indices, stream(7, number=1).indices(step))


@pytest.mark.parametrize("own", [range(0, 2), range(2, 4), range(0, 4)])
def test_prefetching_gives_the_shards_of_this_process(own: range):
    streams = [stream(10, batch_size=8), stream(7, batch_size=8, number=1, labels=False)]
    (shards,) = prefetched(streams, range(3, 4), prepare=itself, shards=own, of=4)
    assert len(shards) == len(own)
    for number, together in zip(own, shards, strict=True):
        assert all(same(batch, each.batch(3, number, 4)) for batch, each in zip(together, streams, strict=True))


@pytest.mark.parametrize("shards", [1, 2, 3, 6])
def test_the_shards_of_a_batch_together_are_the_batch(shards: int):
    """Bit for bit, with every change of the images, and across the end of a pass."""
    views = (WEAK, STRONG)
    found = stream(10, batch_size=6, views=views)
    for step in (0, 1, 9):
        whole = found.batch(step)
        parts = [found.batch(step, number, shards) for number in range(shards)]
        assert {len(part.indices) for part in parts} == {6 // shards}
        for name in ("indices", "pixels_NHWC", "labels"):
            assert np.array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name))
        for number, expected in enumerate(augmented(whole, *views)):
            assert torch.equal(torch.cat([augmented(part, *views)[number] for part in parts]), expected)


def test_the_images_of_two_views_are_the_same_and_their_changes_are_not():
    batch = stream(views=(STRONG, STRONG)).batch(2)
    first, second = batch.views
    assert first.keys() == second.keys() == {"affine", "contrast", "gain", "invert", "noise_seed"}
    assert not any(np.array_equal(first[name], second[name]) for name in ("affine", "contrast", "gain", "noise_seed"))
    one, other = augmented(batch, STRONG, STRONG)
    assert not torch.equal(one, other)


def test_a_second_view_changes_nothing_in_the_first():
    alone, beside = stream(views=(WEAK,)).batch(2), stream(views=(WEAK, STRONG)).batch(2)
    assert same_parameters(alone.views[0], beside.views[0])
    assert np.array_equal(pixels(alone), pixels(beside))


def test_there_may_be_nothing_left_to_do():
    assert list(prefetched([stream()], range(5, 5), prepare=itself)) == []


def test_leaving_early_ends_the_reading_thread(monkeypatch: pytest.MonkeyPatch):
    before, slow, read = threading.active_count(), stream(), []

    def read_slowly(indices: np.ndarray) -> np.ndarray:
        read.append(indices)
        time.sleep(0.005)
        return np.zeros((len(indices), 4, 4, 3), np.uint8)

    monkeypatch.setattr(slow.images, "read", read_slowly)
    batches = prefetched([slow], range(100), prepare=itself, ahead=50)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    assert len(read) < 50  # what was still waiting is not read


def test_a_read_that_fails_is_raised_at_its_step(monkeypatch: pytest.MonkeyPatch):
    broken = stream()
    read = broken.images.read

    def fails_at_step_2(indices: np.ndarray) -> np.ndarray:
        if np.array_equal(indices, broken.indices(2)):
            raise OSError("the disk is gone")
        return read(indices)

    monkeypatch.setattr(broken.images, "read", fails_at_step_2)
    batches = prefetched([broken], range(10), prepare=itself)
    assert len([next(batches) for _ in range(2)]) == 2
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)


def test_seeds_and_streams_differ_in_order_and_augmentation():
    base = stream(50).batch(1)
    for other in (stream(50, seed=1).batch(1), stream(50, number=1).batch(1), stream(50).batch(2)):
        assert not np.array_equal(base.indices, other.indices)
        assert not np.array_equal(base.views[0]["offset"], other.views[0]["offset"])
        assert not np.isin(base.views[0]["noise_seed"], other.views[0]["noise_seed"]).any()


def test_small_sets_do_not_pile_up_orders():
    found = stream(3, batch_size=64)
    for step in range(50):
        found.indices(step)
    assert len(found._orders) <= 23  # the passes of one batch
