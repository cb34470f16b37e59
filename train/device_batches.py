"""Batches on the device that trains: from where the pixels are to augmented float images.

A set whose pixels are in memory lies on a GPU as a whole if it fits (*resident*): a step then moves indices and
augmentation parameters alone, noise among them, which is as large as the images. The pixels of any other set travel
batch by batch (*streaming*), from pinned memory, on a stream of their own, while the step before computes. Both are
drawn on the host from the same random numbers, and so give the same images.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dann.train import augment
from dann.train.batches import Batch, BatchStream, prefetched
from dann.train.evaluate import to_float

_RESIDENT_SHARE = 0.25  # of the free memory of a GPU, for all sets together


@dataclass(frozen=True, kw_only=True)
class DeviceBatch:
    """One batch of one set, on the device once it was uploaded."""

    indices: np.ndarray
    """(N,) int64 positions in the set, on the host."""
    pixels_NHWC: Tensor
    """uint8; (N,) int64 positions instead while the set is resident and the batch not yet uploaded."""
    labels_N: Tensor | None
    changes: tuple[dict[str, Tensor], ...]
    """For each view of the images the arguments of :func:`dann.train.augment.apply`."""

    def __len__(self) -> int:
        return len(self.indices)

    def pieces(self, count: int) -> "list[DeviceBatch]":
        """The batch in ``count`` parts, in order, whose lengths differ by one at most."""
        bounds = np.linspace(0, len(self), count + 1).astype(int)
        return [self._rows(slice(*ends)) for ends in zip(bounds[:-1], bounds[1:], strict=True)]

    def _rows(self, rows: slice) -> "DeviceBatch":
        return DeviceBatch(
            indices=self.indices[rows],
            pixels_NHWC=self.pixels_NHWC[rows],
            labels_N=None if self.labels_N is None else self.labels_N[rows],
            changes=tuple({name: values[rows] for name, values in view.items()} for view in self.changes),
        )

    def tensors(self) -> Iterator[Tensor]:
        yield self.pixels_NHWC
        if self.labels_N is not None:
            yield self.labels_N
        for view in self.changes:
            yield from view.values()


class DeviceBatches:
    """What the steps of a run read: for each its shards, and of each shard one batch of every stream."""

    def __init__(self, streams: list[BatchStream], device: torch.device):
        self._streams = streams
        self._device = device
        self._resident = _resident_sets(streams, device)
        for stream, resident in zip(streams, self._resident, strict=True):
            stream.reads_pixels = resident is None

    def steps(self, steps: range, *, shards: range, of: int) -> Iterator[list[tuple[DeviceBatch, ...]]]:
        """The batches of ``steps``, in order; see :func:`dann.train.batches.prefetched`."""
        host = prefetched(self._streams, steps, shards=shards, of=of, prepare=self._on_host)
        return self._uploaded_ahead(host) if self._device.type == "cuda" else map(self._uploaded, host)

    def views(self, batch: DeviceBatch, stream: int) -> tuple[Tensor, ...]:
        """The augmented images of a batch of that stream, once for each view: float32 (N, 3, H, W) in [0, 1]."""
        images_NCHW = to_float(batch.pixels_NHWC)
        configs = self._streams[stream].views
        return tuple(
            augment.apply(images_NCHW, config, changes) for config, changes in zip(configs, batch.changes, strict=True)
        )

    def _on_host(self, batch: Batch) -> DeviceBatch:
        """In the reading thread: all that is to be uploaded, pinned where that is faster."""

        def pinned(tensor: Tensor) -> Tensor:
            if self._device.type != "cuda":
                return tensor
            with torch.cuda.device(self._device):  # which each thread has of its own
                return tensor.pin_memory()

        pixels = batch.indices if batch.pixels_NHWC is None else batch.pixels_NHWC
        shape = self._streams[0].images.shape_HWC
        return DeviceBatch(
            indices=batch.indices,
            pixels_NHWC=pinned(torch.from_numpy(pixels)),
            labels_N=None if batch.labels is None else pinned(torch.from_numpy(batch.labels)),
            changes=tuple(
                {name: pinned(tensor) for name, tensor in augment.tensors(view, *shape[:2]).items()}
                for view in batch.views
            ),
        )

    def _uploaded(self, shards: list[tuple[DeviceBatch, ...]]) -> list[tuple[DeviceBatch, ...]]:
        def upload(batch: DeviceBatch, resident_NHWC: Tensor | None) -> DeviceBatch:
            pixels = self._moved(batch.pixels_NHWC)
            return DeviceBatch(
                indices=batch.indices,
                pixels_NHWC=pixels if resident_NHWC is None else resident_NHWC[pixels],
                labels_N=None if batch.labels_N is None else self._moved(batch.labels_N),
                changes=tuple({name: self._moved(tensor) for name, tensor in view.items()} for view in batch.changes),
            )

        return [tuple(map(upload, shard, self._resident)) for shard in shards]

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, non_blocking=True)

    def _uploaded_ahead(self, host: Iterator[list[tuple[DeviceBatch, ...]]]) -> Iterator[list[tuple[DeviceBatch, ...]]]:
        """One step ahead, on a stream of its own."""
        uploads = torch.cuda.Stream(self._device)
        uploads.wait_stream(torch.cuda.current_stream(self._device))  # where the resident sets came from

        def upload(shards: list[tuple[DeviceBatch, ...]]) -> tuple[list[tuple[DeviceBatch, ...]], torch.cuda.Event]:
            done = torch.cuda.Event()
            with torch.cuda.stream(uploads):
                uploaded = self._uploaded(shards)
                done.record(uploads)
            return uploaded, done

        ahead = None
        for shards in host:
            following = upload(shards)
            if ahead is not None:
                yield self._ready(*ahead)
            ahead = following
        if ahead is not None:
            yield self._ready(*ahead)

    def _ready(self, shards: list[tuple[DeviceBatch, ...]], event: torch.cuda.Event) -> list[tuple[DeviceBatch, ...]]:
        """For the current stream, which waits for the upload and then owns what came."""
        current = torch.cuda.current_stream(self._device)
        current.wait_event(event)
        for shard in shards:
            for batch in shard:
                for tensor in batch.tensors():
                    tensor.record_stream(current)
        return shards


def _resident_sets(streams: list[BatchStream], device: torch.device) -> list[Tensor | None]:
    """For each stream all pixels (N, H, W, 3) on the GPU, as far as they fit; ``None`` where the host reads them."""
    if device.type != "cuda":
        return [None] * len(streams)
    room = _RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]
    found: list[Tensor | None] = []
    for stream in streams:
        images = stream.images
        needed = len(images) * int(np.prod(images.shape_HWC))
        fits = images.in_memory and needed <= room
        found.append(torch.from_numpy(images.read(np.arange(len(images)))).to(device) if fits else None)
        room -= needed if fits else 0
    return found
