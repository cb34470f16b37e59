"""Losses of target predictions against NumPy and SciPy, and whether a step along them does what they are for."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor

from dann.train.objectives.target_outputs import (
    bnm,
    class_balance,
    diversity,
    entropy,
    information_maximisation,
    mcc,
)


def softmax(logits_NK: Tensor) -> np.ndarray:
    return special.softmax(logits_NK.detach().numpy(), axis=1)


def mean_entropy(logits_NK: Tensor) -> float:
    return stats.entropy(softmax(logits_NK), axis=1).mean()


def marginal_entropy(logits_NK: Tensor) -> float:
    return float(stats.entropy(softmax(logits_NK).mean(0)))


def confusion(logits_NK: Tensor, temperature: float = 2.5) -> float:
    """Equations 1 to 6 of arXiv 1912.03699, with the matrix written out."""
    p_NK = softmax(logits_NK / temperature)
    weights_N = 1 + np.exp(-stats.entropy(p_NK, axis=1))
    weights_N *= len(p_NK) / weights_N.sum()
    confusion_KK = p_NK.T @ np.diag(weights_N) @ p_NK
    confusion_KK /= confusion_KK.sum(1, keepdims=True)
    return (confusion_KK.sum() - np.trace(confusion_KK)) / len(confusion_KK)


def test_entropy(logits_NK: Tensor):
    assert entropy(logits_NK).item() == pytest.approx(mean_entropy(logits_NK))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_mcc_is_what_lies_off_the_diagonal_of_the_confusion_matrix(logits_NK: Tensor, temperature: float):
    assert mcc(logits_NK, temperature).item() == pytest.approx(confusion(logits_NK, temperature), abs=1e-12)


def mcc_with_the_matrix(logits_NK: Tensor) -> Tensor:
    p_NK = (logits_NK / 2.5).softmax(1)
    weights_N = 1 + torch.exp((p_NK * p_NK.log()).sum(1)).detach()
    confusion_KK = (p_NK * weights_N.unsqueeze(1)).T @ p_NK
    confusion_KK = confusion_KK / confusion_KK.sum(1, keepdim=True)
    return 1 - confusion_KK.trace() / len(confusion_KK)


def test_the_gradient_of_mcc_leaves_the_weights_alone(logits_NK: Tensor):
    logits_NK = logits_NK.clone().requires_grad_()
    (found,) = torch.autograd.grad(mcc(logits_NK), logits_NK)
    (expected,) = torch.autograd.grad(mcc_with_the_matrix(logits_NK), logits_NK)
    torch.testing.assert_close(found, expected)


def test_mcc_knows_certain_and_undecided_predictions():
    assert mcc(1e4 * torch.eye(4)).item() == pytest.approx(0.0, abs=1e-6)
    assert mcc(torch.zeros(4, 4)).item() == pytest.approx(3 / 4)
    assert mcc(torch.tensor([[1e4, -1e4, -1e4]] * 5)).item() == pytest.approx(2 / 3)  # two classes without images


def test_bnm(logits_NK: Tensor):
    nuclear = np.linalg.svd(softmax(logits_NK), compute_uv=False).sum()
    assert bnm(logits_NK).item() == pytest.approx(-nuclear / len(logits_NK))


def test_bnm_is_least_for_certain_and_diverse_predictions():
    certain_diverse, certain_same = 1e4 * torch.eye(4), torch.tensor([[1e4, 0.0, 0.0, 0.0]] * 4)
    assert bnm(certain_diverse).item() == pytest.approx(-1.0)
    assert bnm(certain_same).item() == pytest.approx(-0.5)
    assert bnm(torch.zeros(4, 4)).item() == pytest.approx(-0.25)


def test_diversity(logits_NK: Tensor):
    assert diversity(logits_NK).item() == pytest.approx(-marginal_entropy(logits_NK))


def test_information_maximisation(logits_NK: Tensor):
    expected = mean_entropy(logits_NK) - marginal_entropy(logits_NK)
    assert information_maximisation(logits_NK).item() == pytest.approx(expected, abs=1e-12)


def test_class_balance(logits_NK: Tensor):
    mean_K = softmax(logits_NK).mean(0)
    uniform = 1 / len(mean_K)
    expected = -(uniform * np.log(mean_K) + (1 - uniform) * np.log1p(-mean_K)).sum()
    assert class_balance(logits_NK).item() == pytest.approx(expected)


def test_class_balance_is_least_for_the_uniform_mean():
    balanced, unbalanced = 5 * torch.eye(3), 5 * torch.eye(3)[[0, 0, 1]]
    binary_entropy = -(math.log(1 / 3) + 2 * math.log(2 / 3))  # of 1/3, three times
    assert class_balance(balanced).item() == pytest.approx(binary_entropy)
    assert class_balance(unbalanced) > class_balance(balanced)


STEPS = {
    "entropy": (entropy, mean_entropy),
    "mcc": (mcc, confusion),
    "bnm": (bnm, lambda logits_NK: -np.linalg.norm(softmax(logits_NK), "nuc")),
    "diversity": (diversity, lambda logits_NK: -marginal_entropy(logits_NK)),
    "class_balance": (class_balance, lambda logits_NK: np.ptp(softmax(logits_NK).mean(0))),
}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("seed", range(5))
def test_a_step_down_the_gradient_lowers_what_the_loss_is_named_after(name: str, seed: int, random):
    loss: Callable[[Tensor], Tensor] = STEPS[name][0]
    logits_NK = (2 * random(20, 4, seed=seed)).requires_grad_()
    (gradient_NK,) = torch.autograd.grad(loss(logits_NK), logits_NK)
    assert STEPS[name][1](logits_NK - gradient_NK) < STEPS[name][1](logits_NK)


def test_class_balance_still_pulls_where_diversity_has_given_up():
    logits_NK = torch.tensor([[200.0, 0.0, 0.0]] * 4, requires_grad=True)
    (balance,) = torch.autograd.grad(class_balance(logits_NK), logits_NK)
    (diverse,) = torch.autograd.grad(diversity(logits_NK), logits_NK)
    assert (balance[:, 0] > 0.1).all() and diverse.abs().max() < 1e-6
