"""What all the losses have in common: precision, finite values and gradients, and the right derivative."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dann.train.objectives.adamatch import adamatch
from dann.train.objectives.adversarial import domain_loss
from dann.train.objectives.cdan import entropy_weights
from dann.train.objectives.refinement import teacher_divergence
from dann.train.objectives.self_ensembling import confident_consistency
from dann.train.objectives.supervised import label_loss
from dann.train.objectives.target_outputs import (
    bnm,
    class_balance,
    diversity,
    entropy,
    information_maximisation,
    mcc,
)
from dann.train.objectives.vat import vat_loss

Loss = Callable[[Tensor], Tensor]


def label_loss_of(logits_NK: Tensor) -> Tensor:
    return label_loss(logits_NK, torch.arange(len(logits_NK)) % logits_NK.shape[1])


def domain_loss_of(logits_NK: Tensor) -> Tensor:
    return domain_loss(logits_NK[:, 0], logits_NK[:, 1])


def weighted_domain_loss_of(logits_NK: Tensor) -> Tensor:
    weights_N = entropy_weights(logits_NK)
    return domain_loss(logits_NK[:, 0], logits_NK[:, 1], weights_N, weights_N)


def vat_loss_of(logits_NK: Tensor) -> Tensor:
    direction = torch.ones_like(logits_NK).cumsum(1)
    return vat_loss(lambda x: logits_NK.roll(1, 0) + x, torch.zeros_like(logits_NK), logits_NK, direction)


def consistency_of(logits_NK: Tensor) -> Tensor:
    return confident_consistency(logits_NK, logits_NK.roll(1, 0), threshold=0.0)[0]


def adamatch_of(logits_NK: Tensor) -> Tensor:
    marginal_K = torch.full(logits_NK.shape[1:], 1 / logits_NK.shape[1])
    marginals = {"source_marginal_K": marginal_K, "target_marginal_K": marginal_K}
    return adamatch(logits_NK.roll(1, 0), logits_NK, logits_NK, tau=0.0, **marginals)[0]


def teacher_divergence_of(logits_NK: Tensor) -> Tensor:
    return teacher_divergence(logits_NK, logits_NK.roll(1, 0))


WITH_DETACHED_PARTS: list[Loss] = [
    weighted_domain_loss_of,
    mcc,
    vat_loss_of,
    consistency_of,
    adamatch_of,
    teacher_divergence_of,
]
DIFFERENTIABLE: list[Loss] = [
    label_loss_of,
    domain_loss_of,
    entropy,
    bnm,
    diversity,
    information_maximisation,
    class_balance,
]
every_loss = pytest.mark.parametrize("loss", [*DIFFERENTIABLE, *WITH_DETACHED_PARTS], ids=lambda loss: loss.__name__)

EXTREMES = {
    "certain of different classes": 1e4 * torch.eye(3),
    "certain of one class": torch.tensor([[1e4, -1e4, -1e4]] * 4),
    "certain of one of two": torch.tensor([[-1e4, 1e4]] * 3),
    "certain, one image": torch.tensor([[1e4, -1e4, 0.0]]),
    "beyond the exponent of float32": torch.tensor([[60.0, -60.0, 0.0], [0.0, 110.0, -110.0]]),
    "equal": torch.full((4, 5), 1e4),
    "zero": torch.zeros(4, 3),
    "zero, one image of two classes": torch.zeros(1, 2),
    "equal images": torch.tensor([[1.0, 2.0, 3.0]] * 6),
    "more classes than images": torch.linspace(-1e4, 1e4, 40).reshape(2, 20),
}


@every_loss
@pytest.mark.parametrize("extreme", EXTREMES)
def test_value_and_gradient_are_finite_at_extremes(loss: Loss, extreme: str):
    logits_NK = EXTREMES[extreme].clone().requires_grad_()
    value = loss(logits_NK)
    (gradient_NK,) = torch.autograd.grad(value, logits_NK)
    assert value.shape == () and value.isfinite()
    assert gradient_NK.isfinite().all()
    assert gradient_NK.abs().sum() < 10  # nothing explodes either


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "plain"])
def test_half_precision_logits_give_the_float32_loss_of_the_same_numbers(
    loss: Loss, dtype: torch.dtype, autocast: bool, random
):
    logits_NK = (3 * random(12, 5)).to(dtype)
    expected = loss(logits_NK.float())
    with torch.autocast("cpu", dtype, enabled=autocast):
        found = loss(logits_NK)
    assert found.dtype == torch.float32
    # VAT's images are in half precision here too, so its perturbation is rounded
    torch.testing.assert_close(found, expected, rtol=0.05 if loss is vat_loss_of else 1e-6, atol=1e-6)


@every_loss
def test_float64_stays_float64(loss: Loss, random):
    assert loss(random(4, 3)).dtype == torch.float64


@every_loss
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_give_a_loss_that_is_not(loss: Loss, wrong: float):
    logits_NK = torch.zeros(3, 4)
    logits_NK[1, :] = wrong
    assert not loss(logits_NK).isfinite()


@pytest.mark.parametrize("loss", DIFFERENTIABLE, ids=lambda loss: loss.__name__)
def test_the_gradient_is_the_derivative(loss: Loss, logits_NK: Tensor):
    assert torch.autograd.gradcheck(loss, logits_NK.clone().requires_grad_(), atol=1e-6)


@every_loss
def test_a_loss_draws_no_random_numbers(loss: Loss, random):
    state = torch.get_rng_state()
    loss(random(4, 3))
    assert torch.equal(torch.get_rng_state(), state)
