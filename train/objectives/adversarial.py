"""The loss of the domain classifier (DANN, arXiv 1505.07818). Domain 0 is the source, domain 1 the target."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dann.train.batch_norm import SOURCE, TARGET
from dann.train.objectives.probabilities import full_precision

SOURCE_DOMAIN, TARGET_DOMAIN = float(SOURCE), float(TARGET)


def domain_loss(
    source_logits_N: Tensor,
    target_logits_N: Tensor,
    source_weights_N: Tensor | None = None,
    target_weights_N: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy of the domain classifier: the mean of the two domains' means.

    Each domain weighs one half however many images it brings; the weights, where given, only count relative to the
    others of their domain. λ does not appear here: it acts once, in the gradient reversal, so the domain classifier
    itself learns at full rate.
    """
    source = _mean_loss(source_logits_N, SOURCE_DOMAIN, source_weights_N)
    target = _mean_loss(target_logits_N, TARGET_DOMAIN, target_weights_N)
    return 0.5 * (source + target)


def domain_accuracy(source_logits_N: Tensor, target_logits_N: Tensor) -> Tensor:
    """Share of images whose domain is told rightly, the mean of both domains, as a 0-d tensor; 0.5 is chance."""
    return 0.5 * ((source_logits_N < 0).float().mean() + (target_logits_N >= 0).float().mean())


def _mean_loss(logits_N: Tensor, domain: float, weights_N: Tensor | None) -> Tensor:
    logits_N = full_precision(logits_N)
    domains_N = torch.full_like(logits_N, domain)
    if weights_N is None:
        return F.binary_cross_entropy_with_logits(logits_N, domains_N)
    weights_N = full_precision(weights_N)
    return F.binary_cross_entropy_with_logits(logits_N, domains_N, weights_N, reduction="sum") / weights_N.sum()
