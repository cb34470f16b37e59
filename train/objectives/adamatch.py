"""AdaMatch (arXiv 2106.04732): pseudo-labels from weakly augmented target images, learnt on strongly augmented ones.

The running averages of the predictions in both domains, the marginals, belong to whoever trains. The authors update
them with this batch's mean probabilities of the weakly augmented images before they use them;
:class:`~dann.train.adaptation_state.AdaptationState` takes a batch in after its step, so here they lag by one batch,
whose weight is 0.01: a step only reads its state, and can be repeated where fp16 overflowed.

Legend: N images, K classes.
"""

import torch.nn.functional as F
from torch import Tensor

from dann.train.objectives.probabilities import full_precision, probabilities

_SMALLEST_MARGINAL = 1e-6  # of the authors' code: a class not seen yet takes no image's whole probability


def interpolate_logits(joint_NK: Tensor, source_only_NK: Tensor, lam_NK: Tensor) -> Tensor:
    """Source logits between those of a pass with the target (``lam`` 0) and those of a pass without it (``lam`` 1).

    ``lam_NK`` is uniform in [0, 1], drawn by the caller: it makes batch normalisation's two views of the source agree.
    """
    joint_NK, source_only_NK = full_precision(joint_NK), full_precision(source_only_NK)
    return joint_NK + (source_only_NK - joint_NK) * lam_NK


def aligned(target_probabilities_NK: Tensor, source_marginal_K: Tensor, target_marginal_K: Tensor) -> Tensor:
    """Target probabilities (N, K) scaled class by class as the source's marginal is to the target's; rows sum to 1."""
    ratio_K = (_SMALLEST_MARGINAL + source_marginal_K) / (_SMALLEST_MARGINAL + target_marginal_K)
    return F.normalize(full_precision(target_probabilities_NK) * ratio_K, p=1.0, dim=1)


def adamatch(
    target_weak_logits_NK: Tensor,
    target_strong_logits_NK: Tensor,
    source_weak_logits_NK: Tensor,
    *,
    source_marginal_K: Tensor,
    target_marginal_K: Tensor,
    tau: float = 0.9,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the strong views with the pseudo-labels of the weak ones, and the share of images with one.

    A target image has a pseudo-label where its highest aligned probability reaches ``tau`` times the mean highest
    probability of the source images; the others count as zero in the mean over all N. Only
    ``target_strong_logits_NK`` gets a gradient.
    """
    weak_NK = aligned(probabilities(target_weak_logits_NK.detach()), source_marginal_K, target_marginal_K)
    confidence_N, labels_N = weak_NK.max(1)
    threshold = tau * probabilities(source_weak_logits_NK.detach()).amax(1).mean()
    confident_N = (confidence_N >= threshold).to(weak_NK.dtype)
    losses_N = F.cross_entropy(full_precision(target_strong_logits_NK), labels_N, reduction="none")
    return (losses_N * confident_N).mean(), confident_N.mean()
