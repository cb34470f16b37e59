"""The optimiser of a run: fused, so that a step is one pass over all weights."""

import torch
from torch import nn

from dann.train.parameter_groups import parameter_groups
from dann.train.settings import OptimiserConfig


def build_optimiser(config: OptimiserConfig, network: nn.Module) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW, over :func:`parameter_groups`; blocked while its ``found_inf`` is a tensor of 1."""
    groups = parameter_groups(
        network, lr=config.lr, weight_decay=config.weight_decay, head_lr_factor=config.head_lr_factor
    )
    if config.name == "sgd":
        sgd = torch.optim.SGD(groups, momentum=config.momentum, fused=True)
        for group in groups:
            for parameter in group["params"]:  # else a first step that is blocked leaves uninitialised memory in them
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd
    return torch.optim.AdamW(groups, betas=(config.momentum, 0.999), fused=True)
