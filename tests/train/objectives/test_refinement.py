"""Staying near the teacher of DIRT-T."""

import pytest
import torch
from scipy import special
from torch import Tensor

from dann.train.objectives.refinement import teacher_divergence


def test_it_is_the_divergence_from_the_teacher_to_the_student(logits_NK: Tensor, other_logits_NK: Tensor):
    student, teacher = (special.softmax(x.numpy(), axis=1) for x in (logits_NK, other_logits_NK))
    expected = special.rel_entr(teacher, student).sum(1).mean()
    assert teacher_divergence(logits_NK, other_logits_NK).item() == pytest.approx(expected, abs=1e-14)


def test_it_is_zero_for_the_teacher_itself(logits_NK: Tensor):
    assert teacher_divergence(logits_NK, logits_NK).item() == 0.0


def test_the_gradient_draws_the_student_and_leaves_the_teacher(random):
    student, teacher = random(6, 3).requires_grad_(), random(6, 3, seed=1).requires_grad_()
    loss = teacher_divergence(student, teacher)
    loss.backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert teacher_divergence(student - student.grad, teacher) < loss


def test_the_gradient_is_the_derivative_for_a_given_teacher(logits_NK: Tensor, other_logits_NK: Tensor):
    assert torch.autograd.gradcheck(
        lambda student: teacher_divergence(student, other_logits_NK), logits_NK.clone().requires_grad_()
    )
