"""Networks from configurations and from finished runs."""

from dataclasses import replace

import torch

from dann.train import checkpoint
from dann.train.config import TrainConfig
from dann.train.model import DomainAdversarialNetwork
from dann.train.run_dir import RunDir


def build_network(config: TrainConfig, classes: int) -> DomainAdversarialNetwork:
    """The network of ``config``, initialised from its seed."""
    torch.manual_seed(config.seed)
    data = config.data
    return DomainAdversarialNetwork(config.model, classes=classes, height=data.height, width=data.width)


def load_trained(run: RunDir) -> tuple[TrainConfig, tuple[str, ...], DomainAdversarialNetwork]:
    """Configuration, classes and trained network (on the CPU, in evaluation mode) of a run."""
    config, _ = run.read_config()
    about, tensors = checkpoint.read(run.last)
    classes = tuple(about["classes"])
    network = build_network(from_scratch(config), len(classes))
    checkpoint.load_network(network, tensors, run.last)
    return config, classes, network.eval()


def from_scratch(config: TrainConfig) -> TrainConfig:
    """``config`` without pretrained weights, for a network whose weights a checkpoint brings."""
    return replace(config, model=replace(config.model, weights="none"))
