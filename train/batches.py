"""Endless batches, each a pure function of (seed, stream, step).

Every pass over a set is a new permutation, and the passes are laid end to end: no image is dropped or repeated within
a pass, whatever the batch size, and two sets of unequal length simply wrap at different steps. Because a batch depends
on its step alone, resuming needs no sampler state, and prefetching cannot change what is trained on.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from dann.train import augment
from dann.train.config import AugmentConfig
from dann.train.data import ImageSet

_ORDER, _AUGMENT = 0, 1  # sub-streams of the random numbers of a stream


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One batch as it leaves the host."""

    indices: np.ndarray
    """(N,) int64 positions in the set."""
    pixels_NHWC: np.ndarray
    """(N, H, W, 3) uint8 RGB, not augmented."""
    labels: np.ndarray | None
    """(N,) int64, or ``None`` for an unlabelled set."""
    augmentation: dict[str, np.ndarray]
    """Parameters for :func:`dann.train.augment.apply`."""


class BatchStream:
    """The endless batches of one set. ``stream`` is a number that tells this set's random draws from another's."""

    def __init__(
        self,
        images: ImageSet,
        labels: np.ndarray | None = None,
        *,
        batch_size: int,
        augment: AugmentConfig,
        seed: int,
        stream: int,
    ):
        self.images = images
        self.labels = labels
        self.batch_size = batch_size
        self.augment = augment
        self._seed = (seed, stream)
        self._orders: dict[int, np.ndarray] = {}  # of the passes in the batch that was asked for last

    def indices(self, step: int) -> np.ndarray:
        """(batch_size,) positions of the images of ``step``."""
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        passes, offsets = np.divmod(positions, len(self.images))
        orders = {number: self._order(number) for number in range(int(passes[0]), int(passes[-1]) + 1)}
        self._orders = orders
        return np.array([orders[int(number)][offset] for number, offset in zip(passes, offsets, strict=True)])

    def batch(self, step: int) -> Batch:
        """The batch of ``step``."""
        indices = self.indices(step)
        rng = np.random.default_rng([*self._seed, _AUGMENT, step])
        return Batch(
            indices=indices,
            pixels_NHWC=self.images.read(indices),
            labels=None if self.labels is None else self.labels[indices],
            augmentation=augment.draw(self.augment, len(indices), rng),
        )

    def _order(self, number: int) -> np.ndarray:
        """The permutation of the images in pass ``number``."""
        if (known := self._orders.get(number)) is not None:
            return known
        return np.random.default_rng([*self._seed, _ORDER, number]).permutation(len(self.images))


def prefetched(streams: list[BatchStream], steps: range, *, ahead: int = 3) -> Iterator[tuple[Batch, ...]]:
    """The batches of all ``streams`` for each of ``steps`` in order, read ``ahead`` of time on another thread."""
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        pending = [pool.submit(_together, streams, step) for step in steps[:ahead]]
        try:
            for step in steps:
                ready = pending.pop(0)
                if step + ahead < steps.stop:
                    pending.append(pool.submit(_together, streams, step + ahead))
                yield ready.result()
        finally:
            for future in pending:
                future.cancel()


def _together(streams: list[BatchStream], step: int) -> tuple[Batch, ...]:
    return tuple(stream.batch(step) for stream in streams)
