"""The multilinear maps and the entropy weights of CDAN."""

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor, nn

from dann.train.objectives.cdan import MultilinearMap, RandomisedMultilinearMap, entropy_weights, multilinear_map


def test_entropy_weights(logits_NK: Tensor):
    entropies = stats.entropy(special.softmax(logits_NK.numpy(), axis=1), axis=1)
    np.testing.assert_allclose(entropy_weights(logits_NK), 1 + np.exp(-entropies))


def test_entropy_weights_reach_from_undecided_to_certain():
    logits_NK = torch.tensor([[0.0, 0.0, 0.0, 0.0], [100.0, 0.0, 0.0, 0.0]])
    assert entropy_weights(logits_NK).tolist() == pytest.approx([1.25, 2.0])


def test_entropy_weights_have_no_gradient(random):
    assert not entropy_weights(random(4, 3).requires_grad_()).requires_grad


def test_the_exact_map_is_the_outer_product(logits_NK: Tensor, random):
    features_ND = random(len(logits_NK), 6, seed=2)
    classes_NK = special.softmax(logits_NK.numpy(), axis=1)
    expected = np.einsum("nd,nk->ndk", features_ND, classes_NK).reshape(len(logits_NK), -1)
    exact = MultilinearMap(6, logits_NK.shape[1])
    np.testing.assert_allclose(exact(features_ND, logits_NK), expected)
    assert exact.outputs == expected.shape[1]


def test_the_randomised_map_is_the_product_of_two_random_projections(logits_NK: Tensor, random):
    features_ND = random(len(logits_NK), 6, seed=2)
    classes_NK = special.softmax(logits_NK.numpy(), axis=1)
    randomised = RandomisedMultilinearMap(6, logits_NK.shape[1], outputs=50).double()
    from_features, from_classes = randomised.from_features.numpy(), randomised.from_classes.numpy()
    expected = (features_ND.numpy() @ from_features) * (classes_NK @ from_classes) / np.sqrt(50)
    np.testing.assert_allclose(randomised(features_ND, logits_NK), expected, atol=1e-12)
    assert randomised.outputs == expected.shape[1]


def test_inner_products_of_the_randomised_map_estimate_those_of_the_exact_one(random):
    torch.manual_seed(0)
    features_ND, logits_NK = random(5, 6), random(5, 3, seed=1)
    exact = MultilinearMap(6, 3)(features_ND, logits_NK)
    estimate = RandomisedMultilinearMap(6, 3, outputs=400_000).double()(features_ND, logits_NK)
    torch.testing.assert_close(estimate @ estimate.T, exact @ exact.T, rtol=0, atol=0.05)


@pytest.mark.parametrize(("features", "classes", "exact"), [(2048, 2, True), (409, 10, True), (2049, 2, False)])
def test_the_map_is_exact_up_to_4096_outputs(features: int, classes: int, exact: bool):
    chosen = multilinear_map(features, classes)
    assert isinstance(chosen, MultilinearMap if exact else RandomisedMultilinearMap)
    assert chosen.outputs == (features * classes if exact else 1024)


MAPS = {"exact": lambda: MultilinearMap(4, 3), "randomised": lambda: RandomisedMultilinearMap(4, 3, outputs=20)}
both_maps = pytest.mark.parametrize("which", MAPS)


@both_maps
def test_the_gradient_reaches_the_features_and_not_the_predictions(which: str, random):
    features_ND, logits_NK = random(5, 4).requires_grad_(), random(5, 3, seed=1).requires_grad_()
    MAPS[which]().double()(features_ND, logits_NK).square().sum().backward()
    assert features_ND.grad is not None and features_ND.grad.abs().min() > 0
    assert logits_NK.grad is None


@both_maps
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_input_is_mapped_in_float32(which: str, dtype: torch.dtype, random):
    features_ND, logits_NK = random(5, 4).to(dtype), random(5, 3, seed=1).to(dtype)
    module = MAPS[which]()
    with torch.autocast("cpu", torch.bfloat16):
        found = module(features_ND, logits_NK)
    assert found.dtype == torch.float32
    assert torch.equal(found, module(features_ND.float(), logits_NK.float()))


@both_maps
def test_nothing_in_a_map_learns(which: str):
    assert list(MAPS[which]().parameters()) == []


def test_the_random_matrices_come_from_the_global_generator_and_are_saved():
    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return RandomisedMultilinearMap(4, 3, outputs=5)

    first, same, other = build(0), build(0), build(1)
    assert set(first.state_dict()) == {"from_features", "from_classes"}
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in first.state_dict().items())
    assert not torch.equal(first.state_dict()["from_features"], other.state_dict()["from_features"])
    other.load_state_dict(first.state_dict())
    assert torch.equal(first.state_dict()["from_features"], other.state_dict()["from_features"])
