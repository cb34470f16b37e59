"""The loss of the label classifier."""

import torch.nn.functional as F
from torch import Tensor

from dann.train.objectives.probabilities import full_precision


def label_loss(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Mean cross-entropy of the label classifier."""
    return F.cross_entropy(full_precision(logits_NK), labels_N)
