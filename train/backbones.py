"""Feature extractors: from float images (N, 3, H, W) to features (N, D).

``dann-mnist`` and ``dann-svhn`` are the digit networks of arXiv 1505.07818, figure 4; ``conv6`` and ``conv9`` are plain
stacks of 3×3 convolutions (``conv9`` is the small network of DIRT-T, arXiv 1802.08735, appendix B); every other name
is a torchvision classification model with its last linear layer taken off.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from dann.infer.errors import DannError, UnavailableError, UsageError, unknown_name
from dann.train.mix_style import MixStyle
from dann.train.settings import ModelConfig
from dann.train.weights import load_backbone

_NO_FINAL_LINEAR = (
    "squeezenet",
    "inception_v3",
    "googlenet",
)  # last layer a convolution, or auxiliary outputs


def backbone_names() -> list[str]:
    """All names that :func:`build_backbone` accepts, dann's own first."""
    return [*_OWN, *_torchvision_names()]


def is_own_backbone(name: str) -> bool:
    """Whether ``name`` is one of dann's networks rather than torchvision's."""
    return name in _OWN


def build_backbone(config: ModelConfig) -> nn.Module:
    """A freshly initialised (or pretrained, by ``config.weights``) feature extractor.

    Raises :class:`UsageError` for an unknown name, :class:`UnavailableError` where weights cannot be downloaded.
    """
    name = config.backbone
    if config.mix_style and name not in ("conv6", "conv9"):
        raise UsageError(
            f"model.mix_style is {config.mix_style}; {name!r} does not mix styles, conv6 and conv9 do: set it to 0"
        )
    if name in _OWN:
        if config.weights == "DEFAULT":
            raise UsageError(f"backbone {name!r} has no published weights; use --weights none or a file")
        network = _OWN[name](config)
    elif name in _torchvision_names():
        network = _torchvision_backbone(name, pretrained=config.weights == "DEFAULT")
    else:
        raise unknown_name("backbone", name, backbone_names())
    if config.weights not in ("none", "DEFAULT"):
        load_backbone(network, Path(config.weights))
    return network


def _torchvision_names() -> list[str]:
    names = torchvision.models.list_models(module=torchvision.models)
    return [name for name in names if not name.startswith(_NO_FINAL_LINEAR)]


def _torchvision_backbone(name: str, *, pretrained: bool) -> nn.Module:
    try:
        network = torchvision.models.get_model(name, weights="DEFAULT" if pretrained else None)
    except OSError as error:  # URLError and HTTPError are OSErrors
        raise UnavailableError(
            f"the pretrained weights of {name} cannot be downloaded ({error}); give them as --weights FILE "
            "(a torchvision state dict fetched elsewhere), or train from scratch with --weights none"
        ) from error
    except RuntimeError as error:  # what torch.hub raises for a file with the wrong hash
        raise DannError(f"the pretrained weights of {name} are damaged ({error}); run this again") from error
    path = [key for key, module in network.named_modules() if isinstance(module, nn.Linear)][-1]
    parent, _, leaf = path.rpartition(".")
    setattr(network.get_submodule(parent), leaf, nn.Identity())
    return network


def _conv(
    inputs: int, outputs: int, kernel: int, *, padding: int, batch_norm: bool, slope: float = 0.0
) -> Iterable[nn.Module]:
    yield nn.Conv2d(inputs, outputs, kernel, padding=padding, bias=not batch_norm)
    if batch_norm:
        yield nn.BatchNorm2d(outputs)
    yield nn.LeakyReLU(slope) if slope else nn.ReLU()


def _dann_mnist(config: ModelConfig) -> nn.Module:
    first, second = _channels(config, 32, 48)
    norm = config.batch_norm
    return nn.Sequential(
        *_conv(3, first, 5, padding=0, batch_norm=norm),
        nn.MaxPool2d(2),
        *_conv(first, second, 5, padding=0, batch_norm=norm),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(config.dropout),
    )


def _dann_svhn(config: ModelConfig) -> nn.Module:
    first, second, third = _channels(config, 64, 64, 128)
    norm = config.batch_norm
    return nn.Sequential(
        *_conv(3, first, 5, padding=2, batch_norm=norm),
        nn.MaxPool2d(3, stride=2),
        *_conv(first, second, 5, padding=2, batch_norm=norm),
        nn.MaxPool2d(3, stride=2),
        *_conv(second, third, 5, padding=2, batch_norm=norm),
        nn.Flatten(),
        nn.Dropout(config.dropout),
    )


def _conv_stack(config: ModelConfig, stages: list[tuple[int, int]]) -> nn.Module:
    """Stages of (convolutions, channels), halving the image between stages, pooled at the end as ``config`` says."""
    layers: list[nn.Module] = []
    dropout = config.dropout if config.stage_dropout is None else config.stage_dropout
    inputs = 3
    for index, (convolutions, channels) in enumerate(stages):
        (outputs,) = _channels(config, channels)
        if index:
            halved = nn.MaxPool2d(2)  # mixed or not, layers have the same number, and weights the same names
            mixed = index <= config.mix_style
            layers += [nn.Sequential(MixStyle(), halved) if mixed else halved, nn.Dropout(dropout)]
        for _ in range(convolutions):
            layers += _conv(inputs, outputs, 3, padding=1, batch_norm=config.batch_norm, slope=0.1)
            inputs = outputs
    if config.pool != "none":
        layers.append(nn.AdaptiveAvgPool2d(1) if config.pool == "average" else nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten())


def _channels(config: ModelConfig, *base: int) -> tuple[int, ...]:
    return tuple(max(1, round(channels * config.width)) for channels in base)


_OWN = {
    "dann-mnist": _dann_mnist,
    "dann-svhn": _dann_svhn,
    "conv6": lambda config: _conv_stack(config, [(1, 32), (1, 64), (2, 128), (2, 256)]),
    "conv9": lambda config: _conv_stack(config, [(3, 64), (3, 64), (3, 64)]),
}


def feature_width(network: nn.Module, height: int, width: int) -> int:
    """D, the number of features that ``network`` gives for images of this size; :class:`UsageError` if too small."""
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            features: Tensor = network(torch.zeros(1, 3, height, width))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UsageError(
            f"images of {height}x{width} do not fit this backbone ({error}); try a larger --size"
        ) from error
    finally:
        network.train(training)
    if features.dim() != 2 or features.shape[1] == 0:
        raise UsageError(f"the backbone gives {tuple(features.shape)} for one {height}x{width} image; expected (1, D)")
    return features.shape[1]
