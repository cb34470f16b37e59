"""Which parameters learn, and how fast: groups for the optimiser, frozen parts, and their batch statistics."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from torch import Tensor, nn

from dann.infer.errors import UsageError, unknown_name

_BACKBONE = "feature_extractor.1"  # where a DomainAdversarialNetwork keeps its backbone


def parameter_groups(
    network: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    head_lr_factor: float = 1.0,
    decay_norm_and_bias: bool = True,
) -> list[dict[str, Any]]:
    """Groups for a torch optimiser, with every parameter that learns in one of them, in the order of the network.

    ``name`` is ``backbone`` or ``heads`` (whose learning rate is ``head_lr_factor`` times the other); ``base_lr`` is
    the learning rate that schedules multiply. Without ``decay_norm_and_bias``, biases and normalisation are in groups
    of their own with a weight decay of 0. Raises :class:`UsageError` where everything is frozen.
    """
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            part = "backbone" if name.startswith(f"{_BACKBONE}.") else "heads"
            decays = decay_norm_and_bias or not _is_norm_or_bias(network, name)
            groups.setdefault((part, decays), []).append(parameter)
    if not groups:
        raise UsageError("every parameter of the network is frozen, so there is nothing to train; freeze less")
    lrs = {"backbone": lr, "heads": lr * head_lr_factor}
    return [
        {
            "params": parameters,
            "lr": lrs[part],
            "base_lr": lrs[part],
            "name": part,
            "weight_decay": weight_decay if decays else 0.0,
        }
        for (part, decays), parameters in groups.items()
    ]


def freeze(network: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Keep parameters from learning; their names, in the network's order.

    A pattern is a module or a parameter by its dotted name (``feature_extractor.1.layer1``), or ``backbone``. Raises
    :class:`UsageError` for one that names no parameter; nothing is frozen then.
    """
    parameters = dict(network.named_parameters())
    inside: dict[str, list[str]] = {}
    for name in parameters:
        for module in accumulate(name.split("."), "{}.{}".format):
            inside.setdefault(module, []).append(name)
    if _BACKBONE in inside:
        inside["backbone"] = inside[_BACKBONE]
    for pattern in patterns:
        if pattern not in inside:
            raise unknown_name("part of the network to freeze", pattern, inside)
    chosen = {name for pattern in patterns for name in inside[pattern]}
    frozen = [name for name in parameters if name in chosen]
    for name in frozen:
        parameters[name].requires_grad_(False)
    return frozen


def hold_frozen_statistics(network: nn.Module) -> None:
    """Put batch normalisation whose scale and shift are frozen in evaluation mode, so that its statistics stay too.

    To be called after every ``network.train()``, which undoes it.
    """
    for module in network.modules():
        own = list(module.parameters(recurse=False))
        if _keeps_statistics(module) and own and not any(parameter.requires_grad for parameter in own):
            module.eval()


def _keeps_statistics(module: nn.Module) -> bool:
    return isinstance(getattr(module, "running_mean", None), Tensor)


def _is_norm_or_bias(network: nn.Module, name: str) -> bool:
    """By the class's name: batch, layer, group and instance normalisation have no base class in common."""
    module, _, leaf = name.rpartition(".")
    return leaf == "bias" or "Norm" in type(network.get_submodule(module)).__name__
