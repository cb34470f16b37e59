"""Losses of nothing but the predictions on target images: they should be decided, and not all the same.

Legend: N images, K ≥ 2 classes.
"""

import math

import torch
from torch import Tensor

from dann.train.objectives.cdan import entropy_weights
from dann.train.objectives.probabilities import entropies, full_precision, log_probabilities, probabilities


def entropy(logits_NK: Tensor) -> Tensor:
    """Mean entropy of the predictions, in nats (as in arXiv 1802.08735). Alone, it allows a single class."""
    return entropies(logits_NK).mean()


def mcc(logits_NK: Tensor, temperature: float = 2.5) -> Tensor:
    """Minimum class confusion (arXiv 1912.03699): from 0 to (K − 1) / K.

    With probabilities P (N, K) at ``temperature`` and the entropy weights W of CDAN+E, detached, row k of the
    confusion matrix PᵀWP says with which classes class k is confused. Rows are normalised; the loss is the mean of
    what lies off the diagonal.
    """
    logits_NK = full_precision(logits_NK) / temperature
    log_NK = log_probabilities(logits_NK)
    # Row k sums to Σ_n w_n p_nk, so its share on the diagonal is a mean of p_nk with weights w_n p_nk. The softmax
    # over images makes them from logarithms: a class that no image is given would be 0/0 in the matrix itself.
    shares_NK = (log_NK + entropy_weights(logits_NK).log().unsqueeze(1)).softmax(0)
    return 1.0 - (shares_NK * log_NK.exp()).sum(0).mean()


def bnm(logits_NK: Tensor) -> Tensor:
    """Batch nuclear-norm maximisation (arXiv 2003.12237): minus the nuclear norm of the probabilities (N, K), over N.

    Its gradient is bounded also where singular values coincide or vanish, as no difference of them divides it. Logits
    that are not finite give NaN, as in every other loss, instead of the error of the decomposition.
    """
    probabilities_NK = probabilities(logits_NK)
    norm = torch.linalg.svdvals(probabilities_NK.nan_to_num()).sum()
    return 0 * probabilities_NK.sum() - norm / len(logits_NK)


def diversity(logits_NK: Tensor) -> Tensor:
    """Minus the entropy of the batch's mean prediction, in nats: least where all classes are predicted equally."""
    log_K = _log_mean_probabilities(logits_NK)
    return (log_K.exp() * log_K).sum()


def information_maximisation(logits_NK: Tensor) -> Tensor:
    """Entropy of each prediction minus entropy of their mean (SHOT, arXiv 2002.08546): decided, diverse."""
    return entropy(logits_NK) + diversity(logits_NK)


def class_balance(logits_NK: Tensor) -> Tensor:
    """Binary cross-entropy of the batch's mean prediction with 1/K, summed over classes (arXiv 1706.05208).

    Unlike :func:`diversity` its gradient does not fade where a class is never predicted. The authors weigh it 0.005
    and by the share of confident images.
    """
    log_K = _log_mean_probabilities(logits_NK)
    classes = len(log_K)
    itself_KK = torch.eye(classes, dtype=torch.bool, device=log_K.device)
    log_others_K = log_K.expand(classes, classes).masked_fill(itself_KK, -math.inf).logsumexp(1)  # log(1 − p), at p = 1
    return -(log_K + (classes - 1) * log_others_K).sum() / classes


def _log_mean_probabilities(logits_NK: Tensor) -> Tensor:
    return log_probabilities(logits_NK).logsumexp(0) - math.log(len(logits_NK))
