"""Probabilities, entropies and divergences from logits, in logarithms, so that nothing overflows or becomes 0/0.

Legend: N images, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """``x`` in float32; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def log_probabilities(logits_NK: Tensor) -> Tensor:
    """Logarithms of the class probabilities (N, K)."""
    return F.log_softmax(full_precision(logits_NK), dim=1)


def probabilities(logits_NK: Tensor) -> Tensor:
    """Class probabilities (N, K)."""
    return F.softmax(full_precision(logits_NK), dim=1)


def entropies(logits_NK: Tensor) -> Tensor:
    """Entropy of each image's class probabilities (N,), in nats: from 0 to log K."""
    log_NK = log_probabilities(logits_NK)
    return -(log_NK.exp() * log_NK).sum(1)


def kl_divergences(p_logits_NK: Tensor, q_logits_NK: Tensor) -> Tensor:
    """KL(p ‖ q) of each image (N,), in nats."""
    log_p_NK, log_q_NK = log_probabilities(p_logits_NK), log_probabilities(q_logits_NK)
    return (log_p_NK.exp() * (log_p_NK - log_q_NK)).sum(1)
