"""The three networks of DANN (arXiv 1505.07818, figure 1) and what goes into them.

Legend: N images, C = 3 channels, H × W pixels, D features, K classes. Images are float in [0, 1], RGB; the input
scaling is part of the feature extractor, so an exported network needs nothing but pixels.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dann.train.backbones import build_backbone, feature_width, is_own_backbone
from dann.train.batch_norm import SOURCE, TARGET, DomainBatchNorm, per_domain
from dann.train.objectives.cdan import multilinear_map
from dann.train.settings import ModelConfig

_MEAN_STD = {
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
_LEAST_CONTRAST = 0.08  # a deviation that counts as noise; 1.0 is white


class DomainAdversarialNetwork(nn.Module):
    """Feature extractor, label classifier and domain classifier.

    ``feature_extractor``: (N, 3, H, W) in [0, 1] → (N, D). ``label_classifier``: (N, D) → logits (N, K).
    ``domain_classifier``: (N, D) → one logit an image; above 0 means target. ``two_domains`` gives batch normalisation
    a side for each domain as ``config.bn`` says; without it there is one, whatever the domain. ``conditional`` lets the
    domain classifier see features and class probabilities together (CDAN).
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        classes: int,
        height: int,
        width: int,
        two_domains: bool = False,
        conditional: bool = False,
    ):
        super().__init__()
        backbone = build_backbone(config)
        features = feature_width(backbone, height, width)
        self.feature_extractor = nn.Sequential(_input_scaling(config), backbone)
        if config.bottleneck is not None:
            self.feature_extractor.append(_bottleneck(features, config.bottleneck, config.dropout))
            features = config.bottleneck
        self.label_classifier = _mlp(features, config.label_hidden, classes, dropout=config.dropout)
        self.conditioning = multilinear_map(features, classes) if conditional else None
        inputs = features if self.conditioning is None else self.conditioning.outputs
        self.domain_classifier = _mlp(inputs, config.domain_hidden, 1)
        self.joint_pass = config.bn == "shared"
        if two_domains and not self.joint_pass:
            per_domain(self, shared_affine=config.bn == "split")
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # pixels come as N, H, W, C

    @property
    def of_classes(self) -> tuple[str, ...]:
        """What the names of those tensors begin with that mean something for these classes only."""
        last_layer = f"label_classifier.{len(self.label_classifier) - 1}."
        return (last_layer,) if self.conditioning is None else (last_layer, "conditioning.", "domain_classifier.")

    def forward(self, images_NCHW: Tensor, domain: int = TARGET) -> Tensor:
        """Label logits (N, K)."""
        return self.label_classifier(self.features(images_NCHW, domain))

    def features(self, images_NCHW: Tensor, domain: int = TARGET) -> Tensor:
        """Features (N, D), batch normalisation being that of ``domain``."""
        for module in self.modules():
            if isinstance(module, DomainBatchNorm):
                module.domain = domain
        return self.feature_extractor(images_NCHW)

    def features_of_both(self, source_NCHW: Tensor, target_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Features of both domains: from one pass each, or from a joint one where they share batch statistics."""
        if self.joint_pass:
            source_ND, target_ND = self.features(torch.cat([source_NCHW, target_NCHW])).split(
                [len(source_NCHW), len(target_NCHW)]
            )
            return source_ND, target_ND
        return self.features(source_NCHW, SOURCE), self.features(target_NCHW, TARGET)

    def domain_logits(self, reversed_ND: Tensor, logits_NK: Tensor | None = None) -> Tensor:
        """Domain logits (N,); CDAN needs the label logits too.

        To train against, the features come through :func:`~dann.train.reversal.gradient_reversal`.
        """
        if self.conditioning is not None:
            reversed_ND = self.conditioning(reversed_ND, logits_NK)
        return self.domain_classifier(reversed_ND).squeeze(1)


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


class LocalContrast(nn.Module):
    """Local contrast normalisation (Jarrett et al., ICCV 2009): (x − local mean) / (local standard deviation + 0.08).

    Mean and deviation are those of a square window, a seventh of the image's height; the deviation is over all
    channels, so colours keep their relation. What is left of an image does not depend on how brightly it is lit, from
    which side, or with which contrast. Any shape (N, 3, H, W) in [0, 1]; the original weighs its window with a bell.
    """

    def forward(self, x: Tensor) -> Tensor:
        window = max(3, x.shape[2] // 7 | 1)
        centred = x - _local_mean(x, window)
        variance = _local_mean((centred * centred).mean(dim=1, keepdim=True), window)
        return centred / (variance.sqrt() + _LEAST_CONTRAST)


def _local_mean(x: Tensor, window: int) -> Tensor:
    """Over a square window as far as it lies in the image: over its rows, then its columns, which costs less."""
    for kernel, padding in (((window, 1), (window // 2, 0)), ((1, window), (0, window // 2))):
        x = F.avg_pool2d(x, kernel, stride=1, padding=padding, count_include_pad=False)
    return x


def _input_scaling(config: ModelConfig) -> nn.Module:
    name = config.normalise
    if name == "auto":
        name = "half" if is_own_backbone(config.backbone) else "imagenet"
    if name == "instance":
        return nn.InstanceNorm2d(3)
    if name == "local-contrast":
        return LocalContrast()
    return MeanStd(*_MEAN_STD[name])


def _bottleneck(inputs: int, outputs: int, dropout: float) -> nn.Sequential:
    """Fewer features for both classifiers, as is usual where a backbone has many (arXiv 1705.10667, section 5.1)."""
    return nn.Sequential(
        nn.Dropout(dropout),
        nn.Linear(inputs, outputs, bias=False),
        nn.BatchNorm1d(outputs),
        nn.ReLU(),
        nn.Dropout(dropout),
    )


def _mlp(inputs: int, hidden: Iterable[int], outputs: int, *, dropout: float = 0.0) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(dropout)]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))
