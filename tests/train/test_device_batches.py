"""Resident or streaming, on whatever device: a step sees the same images."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
import torch
from gpu import nothing_waits
from torch import Tensor

from dann.infer.preprocess import PreprocessSpec
from dann.train import augment, device_batches
from dann.train.batches import BatchStream
from dann.train.device_batches import DeviceBatches
from dann.train.evaluate import to_float
from dann.train.image_set import ImageSet, images_from_arrays
from dann.train.settings import AugmentConfig

CPU = torch.device("cpu")
WEAK = AugmentConfig(flip=True, brightness=0.1, noise=0.1)
STRONG = AugmentConfig(shift=0.2, rotate_deg=30.0, contrast=0.5, colour=0.3, invert=True, noise=0.3)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def images(count: int, seed: int) -> ImageSet:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 6, 9, 3), np.uint8)
    return images_from_arrays(pixels, [str(i) for i in range(count)], PreprocessSpec(height=6, width=9))


def streams() -> list[BatchStream]:
    return [
        BatchStream(images(10, 1), np.arange(10), batch_size=4, views=(WEAK,), seed=5, stream=0),
        BatchStream(images(7, 2), batch_size=4, views=(WEAK, STRONG), seed=5, stream=1),
    ]


def by_hand(step: int, shard: int, shards: int) -> Iterator[tuple[np.ndarray, np.ndarray | None, list[Tensor]]]:
    for stream in streams():
        batch = stream.batch(step, shard, shards)
        assert batch.pixels_NHWC is not None
        plain_NCHW = to_float(torch.from_numpy(batch.pixels_NHWC))
        views = [
            augment.apply(plain_NCHW, config, augment.tensors(drawn, 6, 9))
            for config, drawn in zip(stream.views, batch.views, strict=True)
        ]
        yield batch.indices, batch.labels, views


def expect(found: DeviceBatches, device: torch.device, *, exactly: bool) -> None:
    for number, shards in enumerate(found.steps(range(3, 9), shards=range(2), of=2)):
        for shard, batches in enumerate(shards):
            for stream, (batch, (indices, labels, views)) in enumerate(
                zip(batches, by_hand(3 + number, shard, 2), strict=True)
            ):
                assert np.array_equal(batch.indices, indices)
                assert (batch.labels_N is None) == (labels is None)
                if batch.labels_N is not None and labels is not None:
                    assert batch.labels_N.device == device and batch.labels_N.tolist() == labels.tolist()
                for view, expected in zip(found.views(batch, stream), views, strict=True):
                    assert view.device == device
                    torch.testing.assert_close(
                        view.cpu(), expected, rtol=0 if exactly else 1e-5, atol=0 if exactly else 1e-5
                    )


def test_the_images_of_each_step_and_shard_are_those_of_the_streams():
    expect(DeviceBatches(streams(), CPU), CPU, exactly=True)


def test_resident_sets_give_the_same_images(monkeypatch: pytest.MonkeyPatch):
    def resident(streams: list[BatchStream], device: torch.device) -> list[Tensor | None]:
        return [torch.from_numpy(streams[0].images.read(np.arange(10))), None]

    monkeypatch.setattr(device_batches, "_resident_sets", resident)
    own = streams()
    batches = DeviceBatches(own, CPU)
    assert [stream.reads_pixels for stream in own] == [False, True]
    expect(batches, CPU, exactly=True)


def test_the_cpu_keeps_nothing_twice():
    own = streams()
    DeviceBatches(own, CPU)
    assert all(stream.reads_pixels for stream in own)


@pytest.mark.parametrize("share", [0.25, 0.0], ids=["resident", "streaming"])
@pytest.mark.gpu
@needs_gpu
def test_a_gpu_sees_what_the_cpu_sees(share: float, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(device_batches, "_RESIDENT_SHARE", share)
    gpu, own = torch.device("cuda", 0), streams()
    batches = DeviceBatches(own, gpu)
    assert all(stream.reads_pixels == (share == 0.0) for stream in own)
    expect(batches, gpu, exactly=False)


@pytest.mark.parametrize("share", [0.25, 0.0], ids=["resident", "streaming"])
@pytest.mark.gpu
@needs_gpu
def test_nothing_waits_for_the_gpu(share: float, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(device_batches, "_RESIDENT_SHARE", share)
    batches = DeviceBatches(streams(), torch.device("cuda", 0))
    steps = batches.steps(range(50), shards=range(1), of=1)
    next(steps)
    with nothing_waits():
        for shards in islice(steps, 20):
            for stream, batch in enumerate(shards[0]):
                batches.views(batch, stream)
