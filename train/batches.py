"""Endless batches, each a pure function of (seed, stream, step).

Every pass over a set is a new permutation, and the passes are laid end to end: no image is dropped or repeated within
a pass, whatever the batch size, and two sets of unequal length simply wrap at different steps. Because a batch depends
on its step alone, resuming needs no sampler state, and prefetching cannot change what is trained on.

Where several processes, or several passes of one, make a step together, its batch is drawn as a whole and cut into
equal shards, so that how many there are does not change what the step sees.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from dann.train import augment
from dann.train.data import ImageSet
from dann.train.settings import AugmentConfig

_ORDER, _AUGMENT = 0, 1  # sub-streams of the random numbers of a stream
_Prepared = TypeVar("_Prepared")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One batch as it leaves the host."""

    indices: np.ndarray
    """(N,) int64 positions in the set."""
    pixels_NHWC: np.ndarray | None
    """(N, H, W, 3) uint8 RGB, not augmented; ``None`` where the stream does not read them."""
    labels: np.ndarray | None
    """(N,) int64, or ``None`` for an unlabelled set."""
    views: tuple[dict[str, np.ndarray], ...]
    """For each view of the images what :func:`dann.train.augment.draw` gave."""


class BatchStream:
    """The endless batches of one set. ``stream`` is a number that tells this set's random draws from another's.

    ``batch_size`` counts all shards; ``views`` says how the images are changed for each view of them.
    """

    def __init__(
        self,
        images: ImageSet,
        labels: np.ndarray | None = None,
        *,
        batch_size: int,
        views: tuple[AugmentConfig, ...],
        seed: int,
        stream: int,
    ):
        self.images = images
        self.labels = labels
        self.batch_size = batch_size
        self.views = views
        self.reads_pixels = True
        self._seed = (seed, stream)
        self._orders: dict[int, np.ndarray] = {}  # of the passes in the batch that was asked for last

    def indices(self, step: int) -> np.ndarray:
        """(batch_size,) positions of the images of ``step``."""
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        passes, offsets = np.divmod(positions, len(self.images))
        orders = {number: self._order(number) for number in range(int(passes[0]), int(passes[-1]) + 1)}
        self._orders = orders
        return np.array([orders[int(number)][offset] for number, offset in zip(passes, offsets, strict=True)])

    def batch(self, step: int, shard: int = 0, shards: int = 1) -> Batch:
        """The batch of ``step``, or one of the equal ``shards`` that it is cut into."""
        size = self.batch_size // shards
        rows = slice(shard * size, (shard + 1) * size)
        indices = self.indices(step)[rows]
        rng = np.random.default_rng([*self._seed, _AUGMENT, step])
        drawn = [augment.draw(view, self.batch_size, rng) for view in self.views]
        return Batch(
            indices=indices,
            pixels_NHWC=self.images.read(indices) if self.reads_pixels else None,
            labels=None if self.labels is None else self.labels[indices],
            views=tuple({name: values[rows] for name, values in view.items()} for view in drawn),
        )

    def _order(self, number: int) -> np.ndarray:
        """The permutation of the images in pass ``number``."""
        if (known := self._orders.get(number)) is not None:
            return known
        return np.random.default_rng([*self._seed, _ORDER, number]).permutation(len(self.images))


def prefetched(
    streams: list[BatchStream],
    steps: range,
    *,
    prepare: Callable[[Batch], _Prepared],
    shards: range = range(1),
    of: int = 1,
    ahead: int = 3,
) -> Iterator[list[tuple[_Prepared, ...]]]:
    """For each of ``steps`` in order the shards ``shards`` of ``of``: each a batch of every stream.

    They are read and prepared ``ahead`` of time, on another thread.
    """

    def read(step: int) -> list[tuple[_Prepared, ...]]:
        return [tuple(prepare(stream.batch(step, shard, of)) for stream in streams) for shard in shards]

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        pending = [pool.submit(read, step) for step in steps[:ahead]]
        try:
            for step in steps:
                ready = pending.pop(0)
                if step + ahead < steps.stop:
                    pending.append(pool.submit(read, step + ahead))
                yield ready.result()
        finally:
            for future in pending:
                future.cancel()
