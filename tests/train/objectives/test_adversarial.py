"""The domain loss and the domain accuracy."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dann.train.objectives.adversarial import SOURCE_DOMAIN, TARGET_DOMAIN, domain_accuracy, domain_loss


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


def test_the_domains_have_the_numbers_that_the_network_documents():
    assert (SOURCE_DOMAIN, TARGET_DOMAIN) == (0.0, 1.0)


def test_each_domain_weighs_one_half_however_many_images_it_brings():
    source, target = torch.tensor([-2.0]), torch.tensor([1.0, 1.0, 1.0, -3.0])
    # −log(1 − σ(z)) = softplus(z) for source, −log σ(z) = softplus(−z) for target
    expected = 0.5 * softplus(-2.0) + 0.5 * (3 * softplus(-1.0) + softplus(3.0)) / 4
    assert domain_loss(source, target).item() == pytest.approx(expected, rel=1e-6)


def test_weights_count_relative_to_the_others_of_their_domain():
    source, target = torch.tensor([-2.0, 1.0]), torch.tensor([1.0, -3.0, 0.5])
    weights, more = torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0, 4.0])
    expected_source = np.average([softplus(-2.0), softplus(1.0)], weights=weights)
    expected_target = np.average([softplus(-1.0), softplus(3.0), softplus(-0.5)], weights=more)
    expected = pytest.approx((expected_source + expected_target) / 2, rel=1e-6)
    assert domain_loss(source, target, weights, more).item() == expected
    assert domain_loss(source, target, 10 * weights, 0.1 * more).item() == expected


def test_one_domain_alone_may_be_weighted(random):
    source, target, weights = random(4), random(6, seed=1), random(6, seed=2).exp()
    expected = domain_loss(source, target, torch.ones_like(source), weights)
    torch.testing.assert_close(domain_loss(source, target, None, weights), expected)


def test_equal_weights_change_nothing(random):
    source, target = random(4), random(6, seed=1)
    weighted = domain_loss(source, target, torch.full_like(source, 1.7), torch.full_like(target, 0.3))
    torch.testing.assert_close(weighted, domain_loss(source, target))


def test_an_undecided_domain_classifier_loses_log_two():
    assert domain_loss(torch.zeros(3), torch.zeros(5)).item() == pytest.approx(math.log(2))


def test_large_logits_stay_finite():
    assert domain_loss(torch.tensor([300.0]), torch.tensor([-300.0])).item() == pytest.approx(300.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_do_not_lower_the_precision(dtype: torch.dtype, random):
    logits, weights = random(9).to(dtype), random(9, seed=1).exp().to(dtype)
    loss = domain_loss(logits, logits, weights, weights)
    assert torch.equal(loss, domain_loss(logits.float(), logits.float(), weights.float(), weights.float()))
    assert loss.dtype == torch.float32


def accuracy(source: list[float], target: list[float]) -> Tensor:
    return domain_accuracy(torch.tensor(source), torch.tensor(target))


def test_domain_accuracy_is_the_mean_of_both_domains():
    assert accuracy([-1.0, 1.0], [1.0, 2.0, 3.0, -4.0]).item() == pytest.approx((1 / 2 + 3 / 4) / 2)


def test_a_logit_of_zero_counts_as_target():
    assert accuracy([0.0, 0.0], [0.0, 0.0, 0.0]).item() == 0.5
