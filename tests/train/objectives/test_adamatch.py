"""The three parts of AdaMatch: logit interpolation, distribution alignment, the relative threshold."""

import numpy as np
import pytest
import torch
from scipy import special
from torch import Tensor

from dann.train.objectives.adamatch import adamatch, aligned, interpolate_logits


def marginals(classes: int, seed: int) -> tuple[Tensor, Tensor]:
    source, target = np.random.default_rng(seed).dirichlet(np.ones(classes), size=2)
    return torch.from_numpy(source), torch.from_numpy(target)


def unaligned(weak: Tensor, strong: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and the share where both marginals are uniform."""
    marginal_K = torch.full(weak.shape[1:], 1 / weak.shape[1], dtype=torch.float64)
    return adamatch(weak, strong, source, source_marginal_K=marginal_K, target_marginal_K=marginal_K)


def test_interpolation_lies_between_the_two_passes(random):
    joint, source_only = random(5, 3), random(5, 3, seed=1)
    lam = torch.rand(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(interpolate_logits(joint, source_only, lam), (1 - lam) * joint + lam * source_only)
    assert torch.equal(interpolate_logits(joint, source_only, torch.zeros_like(joint)), joint)


def test_both_passes_get_their_part_of_the_gradient(random):
    joint, source_only = random(5, 3).requires_grad_(), random(5, 3, seed=1).requires_grad_()
    interpolate_logits(joint, source_only, torch.full((5, 3), 0.25)).sum().backward()
    assert joint.grad is not None and (joint.grad == 0.75).all()
    assert source_only.grad is not None and (source_only.grad == 0.25).all()


def test_interpolation_is_done_in_float32(random):
    joint, source_only, lam = random(5, 3).bfloat16(), random(5, 3, seed=1).bfloat16(), torch.full((5, 3), 0.3)
    found = interpolate_logits(joint, source_only, lam)
    assert torch.equal(found, interpolate_logits(joint.float(), source_only.float(), lam))


@pytest.mark.parametrize("seed", range(5))
def test_alignment_scales_by_the_marginals_and_renormalises(seed: int, random):
    p_NK = random(7, 4, seed=seed).softmax(1)
    source_K, target_K = marginals(4, seed)
    expected = p_NK.numpy() * ((1e-6 + source_K) / (1e-6 + target_K)).numpy()
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(aligned(p_NK, source_K, target_K), expected)


def test_alignment_gives_the_target_the_classes_of_the_source():
    p_NK = torch.tensor([[0.9, 0.1]] * 4)
    found = aligned(p_NK, torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.1]))
    torch.testing.assert_close(found, torch.full((4, 2), 0.5), rtol=0, atol=1e-5)


def test_a_class_that_was_never_predicted_stays_finite():
    found = aligned(torch.tensor([[1.0, 0.0]]), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0]))
    assert found.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("tau", [0.5, 0.9, 1.1])
def test_the_loss_against_numpy(logits_NK: Tensor, other_logits_NK: Tensor, tau: float):
    source_K, target_K = marginals(logits_NK.shape[1], seed=3)
    source_NK = other_logits_NK.flip(0) * 0.7
    weak_NK = special.softmax(logits_NK.numpy(), axis=1) * ((1e-6 + source_K) / (1e-6 + target_K)).numpy()
    weak_NK /= weak_NK.sum(1, keepdims=True)
    confident_N = weak_NK.max(1) >= tau * special.softmax(source_NK.numpy(), axis=1).max(1).mean()
    log_NK = special.log_softmax(other_logits_NK.numpy(), axis=1)
    expected = -(log_NK[np.arange(len(log_NK)), weak_NK.argmax(1)] * confident_N).mean()

    loss, share = adamatch(
        logits_NK, other_logits_NK, source_NK, source_marginal_K=source_K, target_marginal_K=target_K, tau=tau
    )
    assert loss.item() == pytest.approx(expected)
    assert share.shape == () and share.item() == pytest.approx(confident_N.mean())


def test_the_threshold_is_relative_to_the_confidence_on_the_source():
    weak = torch.tensor([[0.0, 1.0]]).double()  # 0.73 confident
    for source, share in {0.0: 1.0, 3.0: 0.0}.items():  # 0.5 and 0.95 confident
        source_logits = torch.tensor([[0.0, source]]).double()
        assert unaligned(weak, weak, source_logits)[1].item() == share


def test_only_the_strong_views_get_a_gradient(random):
    weak, strong, source = (random(6, 3, seed=seed).requires_grad_() for seed in range(3))
    loss, share = unaligned(weak, strong, source)
    loss.backward()
    assert strong.grad is not None and strong.grad.abs().sum() > 0
    assert weak.grad is None and source.grad is None and not share.requires_grad


def test_the_gradient_is_the_derivative_for_given_pseudo_labels(logits_NK: Tensor, other_logits_NK: Tensor):
    assert torch.autograd.gradcheck(
        lambda strong: unaligned(other_logits_NK, strong, other_logits_NK)[0],
        logits_NK.clone().requires_grad_(),
    )
