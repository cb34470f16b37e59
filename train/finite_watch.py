"""Losses that are not finite, seen without waiting for the device.

From the first such loss on, updates are blocked on the device itself. The host, which runs ahead, hears of it as soon
as the device has come there, some steps later on a GPU and at once on the CPU, and what it noted for that step tells
where it was.
"""

from collections import deque
from typing import Generic, TypeVar

import torch
from torch import Tensor

from dann.train.distributed import World
from dann.train.readback import Readback

_MOST_STEPS_AHEAD = 8

About = TypeVar("About")


class FiniteWatch(Generic[About]):
    """``blocked`` (0-d float32 on the device) is 1 from the first step on whose loss was not finite in any process.

    An optimiser whose ``found_inf`` it is then changes nothing, as for an overflow that a GradScaler found.
    """

    def __init__(self, device: torch.device, world: World):
        self.blocked = torch.zeros((), device=device)
        self._world = world
        self._noted: deque[tuple[About, Readback]] = deque()

    def note(self, losses: Tensor, about: About) -> None:
        """Take in the losses of a step, of any shape, before the optimiser; ``about`` comes back if they are bad."""
        bad = losses.detach().isfinite().all().logical_not().float()
        torch.maximum(self.blocked, self._world.maximum(bad), out=self.blocked)
        self._noted.append((about, Readback(bad)))

    def first_bad(self, *, wait: bool = False) -> About | None:
        """What was noted of the first bad step of this process, if it is known; with ``wait`` of all noted so far."""
        while self._noted and (wait or len(self._noted) > _MOST_STEPS_AHEAD or self._noted[0][1].is_here()):
            about, bad = self._noted.popleft()
            if bad.value().item():
                return about
        return None
