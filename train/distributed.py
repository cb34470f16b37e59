"""Several processes that train one network together, as ``torchrun`` starts them.

Each process takes its share of every batch, and gradients are averaged by DistributedDataParallel. Only the first one
evaluates, writes and prints. Without torchrun there is one process, and nothing here has an effect.
"""

import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from dann.infer.errors import DannError
from dann.train.readback import Readback

_TIMEOUT = timedelta(hours=2)  # the others wait while the first evaluates
_STEPS_LATE = 8


@dataclass(frozen=True)
class World:
    """The processes of a run, and which of them this is."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.size > 1:
            dist.barrier()

    def text_of_first(self, text: str) -> str:
        """``text`` as the first process gave it."""
        if self.size == 1:
            return text
        box = [text]
        dist.broadcast_object_list(box)  # what is unpickled comes from our own first process
        return box[0]

    def mean(self, values: Tensor) -> Tensor:
        """Elementwise mean over the processes."""
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total / self.size

    def maximum(self, values: Tensor) -> Tensor:
        """Elementwise maximum over the processes."""
        if self.size == 1:
            return values
        largest = values.clone()
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return largest


class AgreedNumber:
    """What all processes agree on at each step: the largest number that any of them gave.

    Between GPUs it is that of some steps before, the same number of steps in every process, so that none waits.
    """

    def __init__(self, world: World, device: torch.device):
        self._world, self._device = world, device
        self._steps_late = _STEPS_LATE if device.type == "cuda" else 0
        self._sent: deque[Readback] = deque()

    def after(self, own: int) -> int:
        """The newest number that all know, when this process gives ``own``; 0 before there is one."""
        if self._world.size == 1:
            return own
        self._sent.append(Readback(self._world.maximum(torch.full((), own, device=self._device))))
        if len(self._sent) <= self._steps_late:
            return 0
        return int(self._sent.popleft().value())


def process_count() -> int:
    """How many processes torchrun started, this one included; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def started_by_torchrun() -> bool:
    """Whether this process is one of several."""
    return process_count() > 1


def local_rank() -> int:
    """Number of this process on its machine, and so of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """The world of this process: NCCL between GPUs, gloo between CPUs."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # streams and events are those of the current one
    if not started_by_torchrun():
        yield World()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise DannError("another process of this run has ended; its own message says why") from error
        raise
    finally:
        dist.destroy_process_group()
