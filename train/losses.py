"""The two losses of DANN, from logits, in float32 whatever the precision of the network. No state.

Legend: N images, K classes. Domain 0 is the source, domain 1 the target.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

SOURCE_DOMAIN = 0.0
TARGET_DOMAIN = 1.0


def label_loss(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Mean cross-entropy of the label classifier."""
    return F.cross_entropy(logits_NK.float(), labels_N)


def domain_loss(source_logits_N: Tensor, target_logits_N: Tensor) -> Tensor:
    """Binary cross-entropy of the domain classifier: the mean of the two domains' means.

    Each domain weighs one half however many images it brings. λ does not appear here: it acts once, in the gradient
    reversal, so the domain classifier itself learns at full rate.
    """
    source = F.binary_cross_entropy_with_logits(
        source_logits_N.float(), torch.full_like(source_logits_N, SOURCE_DOMAIN, dtype=torch.float32)
    )
    target = F.binary_cross_entropy_with_logits(
        target_logits_N.float(), torch.full_like(target_logits_N, TARGET_DOMAIN, dtype=torch.float32)
    )
    return 0.5 * (source + target)


def domain_accuracy(source_logits_N: Tensor, target_logits_N: Tensor) -> Tensor:
    """Share of images whose domain is told rightly, the mean of both domains, as a 0-d tensor; 0.5 is chance."""
    return 0.5 * ((source_logits_N < 0).float().mean() + (target_logits_N >= 0).float().mean())
