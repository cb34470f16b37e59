"""Networks from configurations and from finished runs."""

from dataclasses import replace

import torch

from dann.infer.errors import DannError
from dann.train import checkpoint
from dann.train.model import DomainAdversarialNetwork
from dann.train.run_dir import RunDir, Which
from dann.train.settings import TrainConfig


def build_network(config: TrainConfig, classes: int) -> DomainAdversarialNetwork:
    """The network of ``config``, initialised from its seed."""
    torch.manual_seed(config.seed)
    data = config.data
    return DomainAdversarialNetwork(
        config.model,
        classes=classes,
        height=data.height,
        width=data.width,
        two_domains=config.mode == "dann",
        conditional=config.mode == "dann" and bool(config.objectives.cdan),
    )


def load_trained(
    run: RunDir, which: Which | None = None
) -> tuple[TrainConfig, tuple[str, ...], DomainAdversarialNetwork]:
    """Configuration, classes and trained network (on the CPU, in evaluation mode) of a run.

    ``which`` checkpoint, ``selected`` or ``last``; by default the one that is exported (:attr:`RunDir.evaluated`).
    Where weights are averaged, the averaged network. Raises :class:`DannError` for a checkpoint of another run.
    """
    config, recorded = run.read_config()
    path = run.evaluated if which is None else run.checkpoint(which)
    about, tensors = checkpoint.read(path)
    classes = tuple(about["classes"])
    if classes != tuple(recorded.get("classes", classes)):
        raise DannError(f"{path} is of a network for the classes {list(classes)}; its run has {recorded['classes']}")
    network = build_network(from_scratch(config), len(classes))
    averaged = any(name.startswith(checkpoint.AVERAGED) for name in tensors)
    checkpoint.load(network, checkpoint.AVERAGED if averaged else checkpoint.NETWORK, tensors, path)
    return config, classes, network.eval()


def from_scratch(config: TrainConfig) -> TrainConfig:
    """``config`` without weights to begin from, for a network whose weights a checkpoint brings."""
    return replace(config, init_from=None, model=replace(config.model, weights="none"))
