"""How several threads share an engine."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Semaphore
from typing import Generic, TypeVar

Lane = TypeVar("Lane")


class Lanes(Generic[Lane]):
    """What an engine computes a batch with, buffers or a request, each for one thread at a time.

    ``make`` gives a new one, when it is first needed. ``limit`` is how many there are at most.
    """

    def __init__(self, make: Callable[[], Lane], limit: int):
        self._make = make
        self._places = Semaphore(limit)
        self._free: list[Lane] = []

    @contextmanager
    def lane(self) -> Iterator[Lane]:
        """One of them, once one is free. What fails in the block is not used again: nothing is known of its state."""
        with self._places:
            lane = None
            with suppress(IndexError):  # another thread may have taken the last one
                lane = self._free.pop()
            lane = self._make() if lane is None else lane
            yield lane
            self._free.append(lane)

    def taken_down(self) -> list[Lane]:
        """Those that were made and are free, to be closed."""
        free, self._free = self._free, []
        return free
