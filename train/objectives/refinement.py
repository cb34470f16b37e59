"""Refinement of an adapted model without the source (DIRT-T, arXiv 1802.08735). Legend: N images, K classes."""

from torch import Tensor

from dann.train.objectives.probabilities import kl_divergences


def teacher_divergence(student_logits_NK: Tensor, teacher_logits_NK: Tensor) -> Tensor:
    """Mean KL(teacher ‖ student), in nats (equation 9): the student is not to run away. No gradient to the teacher."""
    return kl_divergences(teacher_logits_NK.detach(), student_logits_NK).mean()
