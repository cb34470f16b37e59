"""Agreement with a mean teacher."""

import numpy as np
import pytest
import torch
from scipy import special
from torch import Tensor

from dann.train.objectives.self_ensembling import confident_consistency


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.968, 1.0])
def test_the_loss_against_numpy(logits_NK: Tensor, other_logits_NK: Tensor, threshold: float):
    student, teacher = (special.softmax(x.numpy(), axis=1) for x in (logits_NK, other_logits_NK))
    confident = teacher.max(1) > threshold
    expected = (((student - teacher) ** 2).mean(1) * confident).sum() / len(student)
    loss, share = confident_consistency(logits_NK, other_logits_NK, threshold)
    assert loss.item() == pytest.approx(expected, abs=1e-15)
    assert share.shape == () and share.item() == pytest.approx(confident.mean())


def test_an_image_that_the_teacher_doubts_counts_as_zero_in_the_mean():
    student, doubted, trusted = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 0.0]]), torch.tensor([[30.0, 0.0]])
    both = confident_consistency(student.repeat(2, 1), torch.cat([doubted, trusted]))
    alone = confident_consistency(student, trusted)
    assert [value.item() for value in both] == pytest.approx([alone[0].item() / 2, 0.5])
    assert alone[0].item() == pytest.approx(0.25)


def test_the_gradient_draws_the_student_to_the_confident_teacher_alone(random):
    decided_NK = torch.tensor([[20.0], [0.5], [20.0], [0.5], [0.5], [20.0]])
    student, teacher = random(6, 3).requires_grad_(), (decided_NK * random(6, 3, seed=1)).requires_grad_()
    loss, share = confident_consistency(student, teacher)
    assert share == 0.5
    loss.backward()
    assert teacher.grad is None and not share.requires_grad
    assert student.grad is not None
    confident = np.array(special.softmax(teacher.detach().numpy(), axis=1).max(1) > 0.968)
    assert ((student.grad.abs().sum(1) > 0).numpy() == confident).all()
    assert confident_consistency(student - student.grad, teacher)[0] < loss


def test_the_gradient_is_the_derivative_for_a_given_teacher(logits_NK: Tensor, other_logits_NK: Tensor):
    assert torch.autograd.gradcheck(
        lambda student: confident_consistency(student, other_logits_NK, 0.5)[0], logits_NK.clone().requires_grad_()
    )
