"""What the steps between two lines of the log have in common: means of their losses, and how fast they were."""

import time

import torch
from torch import Tensor

from dann.train.distributed import World
from dann.train.readback import Readback


class LateMeans:
    """The means of a window, which come to the host when the device has computed them."""

    def __init__(self, names: list[str], means: Tensor, images_per_second: float):
        self._names, self._means, self._images_per_second = names, Readback(means), images_per_second

    def is_here(self) -> bool:
        return self._means.is_here()

    def read(self) -> dict[str, float]:
        """The means by name, and ``images_per_second``."""
        means = dict(zip(self._names, self._means.value().tolist(), strict=True))
        return {**means, "images_per_second": self._images_per_second}


class LossWindow:
    """Losses since they were last taken, summed on the device, each over the steps that had it."""

    def __init__(self, device: torch.device):
        self._device = device
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[str, tuple[Tensor, int]] = {}
        self._images = 0
        self._began = time.perf_counter()

    def add(self, losses: dict[str, Tensor], *, images: int) -> None:
        """Those of a step, 0-d, by name."""
        for name, loss in losses.items():
            if name in self._sums:
                total, steps = self._sums[name]
                self._sums[name] = total + loss, steps + 1
            else:
                self._sums[name] = loss, 1
        self._images += images

    def take(self, world: World) -> LateMeans:
        """Means over the steps and processes; the next window begins here."""
        means = torch.stack([(total / steps).float() for total, steps in self._sums.values()])
        rate = self._images / (time.perf_counter() - self._began)
        taken = LateMeans(list(self._sums), world.mean(means), rate)
        self._clear()
        return taken

    def state(self, world: World) -> dict[str, tuple[float, int]]:
        """Plain values for a checkpoint, so that a resumed run logs the means of an uninterrupted one."""
        return {name: (float(world.mean(total)), steps) for name, (total, steps) in self._sums.items()}

    def restore(self, state: dict[str, tuple[float, int]]) -> None:
        """Continue from what :meth:`state` gave."""
        self._sums = {name: (torch.tensor(total, device=self._device), steps) for name, (total, steps) in state.items()}
