"""Virtual adversarial training: how the direction is found, and what it leaves alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special
from torch import Tensor, nn

from dann.train.objectives.probabilities import kl_divergences
from dann.train.objectives.vat import vat_loss


class Recorded:
    """``predict``, remembering what it was given."""

    def __init__(self, predict: Callable[[Tensor], Tensor]):
        self.predict, self.images = predict, []

    def __call__(self, images: Tensor) -> Tensor:
        self.images.append(images.detach().clone())
        return self.predict(images)


@pytest.fixture
def network() -> nn.Module:
    """A small convolutional network whose predictions are neither flat nor certain."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ELU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8 * 4 * 4, 4)]
    network = nn.Sequential(*layers).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)
    return network


@pytest.fixture
def images_NCHW() -> Tensor:
    return torch.rand(10, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def direction_NCHW(random) -> Tensor:
    return random(10, 3, 8, 8, seed=2)


def perturbations(predict: Any, images: Tensor, direction: Tensor, **options: Any) -> list[Tensor]:
    """What was added to the images in each call of ``predict``."""
    recorded = Recorded(predict)
    vat_loss(recorded, images, predict(images), direction, **options)
    return [given - images for given in recorded.images]


def lengths(direction: Tensor) -> list[float]:
    return direction.flatten(1).norm(dim=1).tolist()


def cosines(a: Tensor, b: Tensor) -> Tensor:
    return nn.functional.cosine_similarity(a.flatten(1).double(), b.flatten(1).double())


@pytest.mark.parametrize(("radius", "xi"), [(3.5, 0.1), (0.5, 0.01)])
def test_every_image_moves_by_the_radius(network, images_NCHW, direction_NCHW, radius: float, xi: float):
    tried, found = perturbations(network, images_NCHW, direction_NCHW, radius=radius, xi=xi)
    assert lengths(tried) == pytest.approx([xi] * 10)
    assert lengths(found) == pytest.approx([radius] * 10)
    torch.testing.assert_close(cosines(tried, direction_NCHW), torch.ones(10).double())


def test_the_loss_is_the_mean_divergence_at_the_adversarial_images(network, images_NCHW, direction_NCHW):
    found = perturbations(network, images_NCHW, direction_NCHW, radius=0.5)[-1]
    p, q = (special.softmax(network(x).detach().numpy(), axis=1) for x in (images_NCHW, images_NCHW + found))
    loss = vat_loss(network, images_NCHW, network(images_NCHW), direction_NCHW, radius=0.5)
    assert loss.item() == pytest.approx(special.rel_entr(p, q).sum(1).mean())


def test_the_adversarial_direction_changes_every_prediction_more_than_a_random_one(
    network, images_NCHW, direction_NCHW
):
    tried, found = perturbations(network, images_NCHW, direction_NCHW, radius=0.1)
    clean = network(images_NCHW)
    adversarial = kl_divergences(clean, network(images_NCHW + found))
    random = kl_divergences(clean, network(images_NCHW + tried))  # as long: ξ is the radius
    assert (adversarial > 2 * random).all()
    assert adversarial.mean() > 5 * random.mean()


def hessian(weight_DK: np.ndarray, p_K: np.ndarray) -> np.ndarray:
    """Of KL(p ‖ p(r)) at r = 0 where the logits are linear: W (diag p − ppᵀ) Wᵀ."""
    return weight_DK @ (np.diag(p_K) - np.outer(p_K, p_K)) @ weight_DK.T


def test_one_iteration_multiplies_by_the_hessian_and_many_find_its_leading_eigenvector(random):
    weight_DK, points_ND, start_ND = random(5, 3), random(4, 5, seed=1), random(4, 5, seed=2)

    def predict(points_ND: Tensor) -> Tensor:
        return points_ND @ weight_DK

    once = perturbations(predict, points_ND, start_ND, radius=1.0, xi=1e-5)[-1]
    often = perturbations(predict, points_ND, start_ND, radius=1.0, xi=1e-5, iterations=200)[-1]
    for n, p_K in enumerate(special.softmax(predict(points_ND).numpy(), axis=1)):
        matrix = hessian(weight_DK.numpy(), p_K)
        expected = matrix @ start_ND[n].numpy()
        np.testing.assert_allclose(once[n], expected / np.linalg.norm(expected), atol=1e-4)
        assert abs(often[n].numpy() @ np.linalg.eigh(matrix)[1][:, -1]) == pytest.approx(1, abs=1e-4)


def test_predict_is_called_once_more_than_there_are_iterations(network, images_NCHW, direction_NCHW):
    assert len(perturbations(network, images_NCHW, direction_NCHW, iterations=3)) == 4


def test_the_default_step_finds_in_float32_what_float64_finds(network, images_NCHW, direction_NCHW):
    def found(dtype: torch.dtype, **options: Any) -> Tensor:
        return perturbations(network.to(dtype), images_NCHW.to(dtype), direction_NCHW.to(dtype), **options)[-1]

    reference = found(torch.float64, xi=1e-5)
    assert cosines(found(torch.float32), reference).min() > 0.9
    assert cosines(found(torch.float32, xi=1e-6), reference).min() < 0.9  # why it is not the authors'


def test_the_search_leaves_the_gradients_of_the_parameters_alone(network, images_NCHW, direction_NCHW):
    clean = network(images_NCHW)
    vat_loss(network, images_NCHW, clean, direction_NCHW)
    assert all(parameter.grad is None for parameter in network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    vat_loss(network, images_NCHW, clean, direction_NCHW)
    assert all((parameter.grad == 1).all() for parameter in network.parameters())


def test_the_gradient_is_that_of_the_divergence_at_fixed_images_and_predictions(network, images_NCHW, direction_NCHW):
    parameters = list(network.parameters())
    found = perturbations(network, images_NCHW, direction_NCHW)[-1]
    clean = network(images_NCHW)
    loss = vat_loss(network, images_NCHW, clean, direction_NCHW)
    at_fixed = kl_divergences(network(images_NCHW).detach(), network(images_NCHW + found)).mean()
    for gradient, expected in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(at_fixed, parameters), strict=True
    ):
        torch.testing.assert_close(gradient, expected)


def test_no_gradient_reaches_the_clean_predictions_or_the_direction(network, images_NCHW, direction_NCHW):
    clean, direction = network(images_NCHW).detach().requires_grad_(), direction_NCHW.requires_grad_()
    vat_loss(network, images_NCHW, clean, direction).backward()
    assert clean.grad is None and direction.grad is None


def test_a_step_down_the_gradient_steadies_the_predictions(network, images_NCHW, direction_NCHW):
    def loss() -> Tensor:
        return vat_loss(network, images_NCHW, network(images_NCHW), direction_NCHW, radius=0.5)

    before = loss()
    before.backward()
    with torch.no_grad():
        for parameter in network.parameters():
            assert parameter.grad is not None
            parameter -= 0.01 * parameter.grad
    assert loss() < before


def test_the_value_is_the_same_where_gradients_are_off(network, images_NCHW, direction_NCHW):
    expected = vat_loss(network, images_NCHW, network(images_NCHW), direction_NCHW)
    with torch.no_grad():
        found = vat_loss(network, images_NCHW, network(images_NCHW), direction_NCHW)
    assert torch.equal(found, expected.detach()) and not found.requires_grad


def test_under_autocast_the_loss_is_float32_and_trains(network, images_NCHW, direction_NCHW):
    network, images, direction = network.float(), images_NCHW.float(), direction_NCHW.float()
    with torch.autocast("cpu", torch.bfloat16):
        clean = network(images)
        loss = vat_loss(network, images, clean, direction)
        at_random = vat_loss(network, images, clean, direction, iterations=0)
    assert clean.dtype == torch.bfloat16 and loss.dtype == torch.float32
    assert loss > 2 * at_random
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_an_image_whose_prediction_nothing_changes_stays_as_it_is(images_NCHW, direction_NCHW):
    def flat(images: Tensor) -> Tensor:
        return 0 * images.flatten(1)[:, :3]

    assert lengths(perturbations(flat, images_NCHW, direction_NCHW, iterations=2)[-1]) == [0.0] * 10


@pytest.mark.parametrize("certainty", [0.0, 20.0, 50.0, 80.0])
def test_a_gradient_too_small_to_be_squared_still_gives_the_whole_radius(certainty: float, random):
    weight_DK, bias_K = random(6, 2).float(), torch.tensor([certainty, 0.0])  # gradients near exp(−certainty)
    found = perturbations(lambda x: x @ weight_DK + bias_K, torch.zeros(3, 6), random(3, 6, seed=1).float())[-1]
    assert lengths(found) == pytest.approx([3.5] * 3)
