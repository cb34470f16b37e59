"""The label loss, the domain loss and the domain accuracy."""

import math

import pytest
import torch

from dann.train.losses import SOURCE_DOMAIN, TARGET_DOMAIN, domain_accuracy, domain_loss, label_loss


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


def test_the_domains_have_the_numbers_that_the_network_documents():
    assert (SOURCE_DOMAIN, TARGET_DOMAIN) == (0.0, 1.0)


def test_label_loss_is_the_mean_cross_entropy():
    logits = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    expected = (math.log(2) + softplus(2.0)) / 2
    assert label_loss(logits, torch.tensor([0, 1])).item() == pytest.approx(expected, rel=1e-6)


def test_each_domain_weighs_one_half_however_many_images_it_brings():
    source, target = torch.tensor([-2.0]), torch.tensor([1.0, 1.0, 1.0, -3.0])
    # −log(1 − σ(z)) = softplus(z) for source, −log σ(z) = softplus(−z) for target
    expected = 0.5 * softplus(-2.0) + 0.5 * (3 * softplus(-1.0) + softplus(3.0)) / 4
    assert domain_loss(source, target).item() == pytest.approx(expected, rel=1e-6)


def test_an_undecided_domain_classifier_loses_log_two():
    assert domain_loss(torch.zeros(3), torch.zeros(5)).item() == pytest.approx(math.log(2))


def test_large_logits_stay_finite():
    assert domain_loss(torch.tensor([300.0]), torch.tensor([-300.0])).item() == pytest.approx(300.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_are_float32_from_half_precision_logits(dtype: torch.dtype):
    logits = torch.tensor([[1.0, -1.0], [0.5, 0.25]], dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        label = label_loss(logits, torch.tensor([0, 1]))
        domain = domain_loss(logits[:, 0], logits[:, 1])
    assert label.dtype == domain.dtype == torch.float32
    assert torch.equal(domain, domain_loss(logits[:, 0].float(), logits[:, 1].float()))


def test_domain_accuracy_is_the_mean_of_both_domains():
    source, target = torch.tensor([-1.0, 1.0]), torch.tensor([1.0, 2.0, 3.0, -4.0])
    assert domain_accuracy(source, target).item() == pytest.approx((1 / 2 + 3 / 4) / 2)


def test_a_logit_of_zero_counts_as_target():
    assert domain_accuracy(torch.zeros(2), torch.zeros(3)).item() == 0.5
