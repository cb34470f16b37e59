"""Batch normalisation for two domains.

A layer that sees source and target in one running average ends with statistics that fit neither. While adapting, every
batch normalisation layer is therefore a :class:`DomainBatchNorm`: statistics per domain, and scale and shift shared
(``--bn split``) or per domain too (``--bn domain``, Chang et al., arXiv 1906.03950). ``--bn shared`` keeps the plain
layers and normalises both domains together in one pass. Evaluation and export of the target use the target's side.

With several processes each one normalises its own batch, and the statistics that are kept are those of the first.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

SOURCE, TARGET = 0, 1

Network = TypeVar("Network", bound=nn.Module)


class DomainBatchNorm(nn.Module):
    """Batch normalisation of (N, C, …) with statistics of its own for each domain.

    ``domain`` says which ones the next call uses. ``weight`` and ``bias`` are (C,) if both domains share them, else
    (2, C); ``running_mean`` and ``running_var`` are (2, C).
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, layer: _BatchNorm, *, shared_affine: bool):
        super().__init__()
        if layer.running_mean is None or layer.running_var is None or layer.momentum is None:
            raise ValueError(
                f"{layer} keeps no running average; expected a layer with track_running_stats and momentum"
            )
        self._plain = type(layer)
        self.eps = layer.eps
        self.momentum: float | None = layer.momentum
        self.domain = TARGET
        self.track_running_stats = True
        for name in ("weight", "bias"):
            value = getattr(layer, name)
            if value is not None and not shared_affine:
                value = nn.Parameter(torch.stack([value.detach(), value.detach()]), requires_grad=value.requires_grad)
            self.register_parameter(name, value)
        for name in ("running_mean", "running_var"):
            value = getattr(layer, name)
            self.register_buffer(name, torch.stack([value, value]))
        self.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        tracks = self.track_running_stats or not self.training
        return F.batch_norm(
            x,
            self.running_mean[self.domain] if tracks else None,
            self.running_var[self.domain] if tracks else None,
            _side(self.weight, self.domain),
            _side(self.bias, self.domain),
            training=self.training,
            momentum=self.momentum or 0.0,
            eps=self.eps,
        )

    def of_domain(self, domain: int) -> _BatchNorm:
        """A plain layer in evaluation mode that does what this one does for ``domain``."""
        layer = self._plain(self.running_mean.shape[1], eps=self.eps, momentum=self.momentum)
        with torch.no_grad():
            for name in ("weight", "bias"):
                value = _side(getattr(self, name), domain)
                if value is not None:
                    getattr(layer, name).copy_(value)
            layer.running_mean.copy_(self.running_mean[domain])  # type: ignore[union-attr]  # it tracks
            layer.running_var.copy_(self.running_var[domain])  # type: ignore[union-attr]
        return layer.eval()


def per_domain(network: nn.Module, *, shared_affine: bool) -> None:
    """Replace every batch normalisation layer inside ``network`` by one with statistics per domain."""
    _replace(network, _BatchNorm, lambda layer: DomainBatchNorm(layer, shared_affine=shared_affine))


def single_domain(network: Network, domain: int) -> Network:
    """A copy of ``network`` with plain layers that do what it does for ``domain``."""
    copy = deepcopy(network)
    _replace(copy, DomainBatchNorm, lambda layer: layer.of_domain(domain))
    return copy


@contextmanager
def frozen_running_statistics(network: nn.Module) -> Iterator[None]:
    """Inside, batch normalisation in training mode uses the batch's statistics and leaves the running ones alone."""
    layers = [layer for layer in _layers(network) if layer.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


@torch.no_grad()
def reestimate(network: nn.Module, batches: Iterable[Tensor], forward: Callable[[Tensor], object]) -> None:
    """Take the running statistics anew: the mean over ``batches`` of their statistics, of the domain ``forward`` runs.

    AdaBN (Li et al., arXiv 1603.04779). ``batches`` are inputs of ``forward``, one pass each: random ones of equal
    size, or the mean of their variances is not the variance of all.
    """
    layers = list(_layers(network))
    before = [(layer.training, layer.momentum) for layer in layers]
    for layer in layers:
        layer.train()
    for count, batch in enumerate(batches, start=1):
        for layer in layers:
            layer.momentum = 1.0 / count  # so that the running average is the plain mean
        forward(batch)
    for layer, (training, momentum) in zip(layers, before, strict=True):
        layer.train(training)
        layer.momentum = momentum


def _layers(network: nn.Module) -> Iterator["_BatchNorm | DomainBatchNorm"]:
    return (module for module in network.modules() if isinstance(module, (_BatchNorm, DomainBatchNorm)))


def _side(value: Tensor | None, domain: int) -> Tensor | None:
    return value[domain] if value is not None and value.dim() == 2 else value


def _replace(network: nn.Module, kind: type, make: Callable[..., nn.Module]) -> None:
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, kind):
                setattr(module, name, make(child))


class KeptBuffers:
    """The batch statistics of a network, to bring back before a pass is repeated."""

    def __init__(self, network: nn.Module):
        self._live = list(network.buffers())
        self._kept = [torch.empty_like(buffer) for buffer in self._live]

    def keep(self) -> None:
        self._copy(self._kept, self._live)

    def bring_back(self) -> None:
        self._copy(self._live, self._kept)

    @torch.no_grad()
    def _copy(self, to: list[Tensor], source: list[Tensor]) -> None:
        if to:
            torch._foreach_copy_(to, source)  # type: ignore[attr-defined]
