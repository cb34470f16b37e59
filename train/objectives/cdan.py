"""Conditional adversarial adaptation (CDAN, arXiv 1705.10667).

The domain classifier sees features ⊗ class probabilities instead of features alone, so domains are aligned class by
class. CDAN+E also weighs each image by how certain its prediction is. Neither the probabilities nor the weights get a
gradient: the label classifier is not to learn to deceive the domain classifier.

Legend: N images, D features, K classes.
"""

import math

import torch
from torch import Tensor, nn

from dann.train.objectives.probabilities import entropies, full_precision, probabilities

_MOST_EXACT_OUTPUTS = 4096  # the paper's bound, the width of AlexNet's widest layer


def entropy_weights(logits_NK: Tensor) -> Tensor:
    """1 + exp(−entropy) of each image (N,), detached: from 1 + 1/K where undecided to 2 where certain."""
    return 1.0 + torch.exp(-entropies(logits_NK.detach()))


def multilinear_map(features: int, classes: int) -> "MultilinearMap | RandomisedMultilinearMap":
    """The exact map up to 4096 outputs, as in the paper, and the randomised one beyond; ``outputs`` is its width."""
    if features * classes <= _MOST_EXACT_OUTPUTS:
        return MultilinearMap(features, classes)
    return RandomisedMultilinearMap(features, classes)


class MultilinearMap(nn.Module):
    """(features (N, D), logits (N, K)) → (N, D·K): each feature times each class probability."""

    def __init__(self, features: int, classes: int):
        super().__init__()
        self.outputs = features * classes

    def forward(self, features_ND: Tensor, logits_NK: Tensor) -> Tensor:
        classes_NK = probabilities(logits_NK.detach())
        return (features_ND.unsqueeze(2) * classes_NK.unsqueeze(1)).flatten(1)


class RandomisedMultilinearMap(nn.Module):
    """(features (N, D), logits (N, K)) → (N, ``outputs``), whose inner products estimate those of the exact map.

    The two random matrices come from torch's global generator, once; they are saved with the weights and never learn.
    """

    from_features: Tensor
    from_classes: Tensor

    def __init__(self, features: int, classes: int, outputs: int = 1024):
        super().__init__()
        self.outputs = outputs
        self.register_buffer("from_features", torch.randn(features, outputs))
        self.register_buffer("from_classes", torch.randn(classes, outputs))

    def forward(self, features_ND: Tensor, logits_NK: Tensor) -> Tensor:
        with torch.autocast(features_ND.device.type, enabled=False):  # which would multiply in half precision
            features = full_precision(features_ND) @ self.from_features
            classes = probabilities(logits_NK.detach()) @ self.from_classes
        return features * classes / math.sqrt(self.outputs)
