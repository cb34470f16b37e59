"""Self-ensembling with a mean teacher (arXiv 1706.05208). Legend: N images, K classes."""

from torch import Tensor

from dann.train.objectives.probabilities import probabilities


def confident_consistency(
    student_logits_NK: Tensor, teacher_logits_NK: Tensor, threshold: float = 0.968
) -> tuple[Tensor, Tensor]:
    """Squared difference of the student's and the teacher's probabilities, and the share of confident images.

    The difference is a mean over classes; images on which the teacher's highest probability does not exceed
    ``threshold`` count as zero in the mean over all N. No gradient reaches the teacher.
    """
    student_NK, teacher_NK = probabilities(student_logits_NK), probabilities(teacher_logits_NK.detach())
    confident_N = (teacher_NK.amax(1) > threshold).to(teacher_NK.dtype)
    differences_N = (student_NK - teacher_NK).square().mean(1)
    return (differences_N * confident_N).mean(), confident_N.mean()
