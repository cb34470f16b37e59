"""What adaptation carries from step to step beside the weights and the optimiser: one object, checkpointed as a whole.

The averaged network (an exponential moving average of weights and batch statistics) is what is evaluated and exported
where it is kept, and it is the teacher of the objectives that have one. The class marginals are AdaMatch's.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dann.train.batch_norm import TARGET, frozen_running_statistics
from dann.train.distributed import World
from dann.train.model import DomainAdversarialNetwork

_MARGINAL_DECAY = 0.99


class AdaptationState(nn.Module):
    """Averaged network (``ema`` is its decay per step; 0 keeps none) and running class marginals (K,)."""

    source_marginal_K: Tensor
    target_marginal_K: Tensor

    def __init__(self, network: DomainAdversarialNetwork, *, classes: int, ema: float):
        super().__init__()
        self.averaged = None
        if ema:
            self.averaged = _MovingAverage(network, ema)
        self.register_buffer("source_marginal_K", torch.full((classes,), 1.0 / classes))
        self.register_buffer("target_marginal_K", torch.full((classes,), 1.0 / classes))

    def evaluated(self, network: DomainAdversarialNetwork) -> DomainAdversarialNetwork:
        """The averaged network where there is one, else ``network`` itself."""
        if self.averaged is None:
            return network
        return self.averaged.module

    def train_like(self, network: nn.Module) -> None:
        """Put each layer of the averaged network in the mode of its counterpart: frozen ones keep their statistics."""
        if self.averaged is not None:
            for own, other in zip(self.averaged.module.modules(), network.modules(), strict=True):
                own.training = other.training

    @torch.no_grad()
    def teacher_logits(self, images_NCHW: Tensor) -> Tensor:
        """Label logits (N, K) of the averaged network for target images, with this batch's statistics and dropout."""
        assert self.averaged is not None, "the settings ask for an averaged network where an objective needs one"
        teacher = self.averaged.module
        with frozen_running_statistics(teacher):
            return teacher(images_NCHW, TARGET)

    @torch.no_grad()
    def step(
        self, network: DomainAdversarialNetwork, marginals: dict[str, Tensor], world: World, *, steps_before: int
    ) -> None:
        """Take in the weights after an optimiser step, and the mean class probabilities (K,) of its batch."""
        if self.averaged is not None:
            self.averaged.update(network, steps_before)
        for name, batch_K in marginals.items():
            running_K: Tensor = getattr(self, name)
            running_K.lerp_(world.mean(batch_K), 1 - _MARGINAL_DECAY)


class _MovingAverage(nn.Module):
    """The exponential moving average of the weights and batch statistics of a network.

    It forgets faster at first, so that the untrained weights leave no trace. How far it is comes with each update: a
    count of its own on a GPU, as torch's AveragedModel keeps, would be waited for at each step.
    """

    def __init__(self, network: DomainAdversarialNetwork, decay: float):
        super().__init__()
        self.module = copy.deepcopy(network).requires_grad_(False)
        self._decay = decay

    def update(self, network: DomainAdversarialNetwork, steps_before: int) -> None:
        own, others = self.module.state_dict().values(), network.state_dict().values()
        pairs = [(value, other) for value, other in zip(own, others, strict=True) if value.is_floating_point()]
        decay = min(self._decay, (1 + steps_before) / (10 + steps_before)) if steps_before else 0.0
        averages, current = zip(*pairs, strict=True)
        torch._foreach_lerp_(averages, current, 1 - decay)  # type: ignore[attr-defined]


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Inside, ``network`` is in evaluation mode; after it, each layer is in the mode it was in."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
