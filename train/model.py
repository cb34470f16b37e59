"""The three networks of DANN (arXiv 1505.07818, figure 1) and what goes into them.

Legend: N images, C = 3 channels, H × W pixels, D features, K classes. Images are float in [0, 1], RGB; the input
scaling is part of the feature extractor, so an exported network needs nothing but pixels.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dann.train.backbones import build_backbone, feature_width, is_own_backbone
from dann.train.config import ModelConfig
from dann.train.reversal import gradient_reversal

_MEAN_STD = {
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


class DomainAdversarialNetwork(nn.Module):
    """Feature extractor, label classifier and domain classifier.

    ``feature_extractor``: (N, 3, H, W) in [0, 1] → (N, D). ``label_classifier``: (N, D) → logits (N, K).
    ``domain_classifier``: (N, D) → one logit an image; above 0 means target.
    """

    def __init__(self, config: ModelConfig, *, classes: int, height: int, width: int):
        super().__init__()
        backbone = build_backbone(config)
        features = feature_width(backbone, height, width)
        self.feature_extractor = nn.Sequential(_input_scaling(config), backbone)
        self.label_classifier = _mlp(features, config.label_hidden, classes, dropout=config.dropout)
        self.domain_classifier = _mlp(features, config.domain_hidden, 1)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Label logits (N, K)."""
        return self.label_classifier(self.feature_extractor(images_NCHW))

    def domain_logits(self, features_ND: Tensor, lam: float | Tensor) -> Tensor:
        """Domain logits (N,), behind the gradient reversal with factor ``lam``."""
        return self.domain_classifier(gradient_reversal(features_ND, lam)).squeeze(1)


class MeanStd(nn.Module):
    """(x − mean) / std per channel; any shape (N, 3, H, W)."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


@contextmanager
def frozen_running_statistics(network: nn.Module) -> Iterator[None]:
    """Inside, batch normalisation in training mode uses the batch's statistics and leaves the running ones alone.

    The source pass runs in here when a target is adapted to: the running statistics, which evaluation uses, are then
    the target's alone instead of a mixture that fits neither domain.
    """
    layers = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


def _input_scaling(config: ModelConfig) -> nn.Module:
    name = config.normalise
    if name == "auto":
        name = "half" if is_own_backbone(config.backbone) else "imagenet"
    if name == "instance":
        return nn.InstanceNorm2d(3)
    return MeanStd(*_MEAN_STD[name])


def _mlp(inputs: int, hidden: Iterable[int], outputs: int, *, dropout: float = 0.0) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(dropout)]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))
