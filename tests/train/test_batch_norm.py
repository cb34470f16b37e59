"""Batch normalisation per domain against two plain layers, each of which sees one domain only."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from dann.train.batch_norm import (
    SOURCE,
    TARGET,
    DomainBatchNorm,
    frozen_running_statistics,
    per_domain,
    reestimate,
    single_domain,
)
from dann.train.model import DomainAdversarialNetwork
from dann.train.settings import ModelConfig

CHANNELS = 3
DOMAINS = (SOURCE, TARGET)


def images(seed: int, count: int = 6, size: int = 5) -> Tensor:
    """(N, 3, size, size) with a mean and a spread that depend on the seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, CHANNELS, size, size, generator=generator) * (1 + seed) + seed


def plain_layer(**options: float) -> nn.BatchNorm2d:
    """A layer that has been trained: nothing in it is as at the start."""
    layer = nn.BatchNorm2d(CHANNELS, **{"momentum": 0.3, "eps": 1e-3, **options})  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
            if value is not None:
                value.copy_(torch.rand(CHANNELS, generator=generator) + 0.5)
    return layer


def layers(*, shared_affine: bool) -> tuple[DomainBatchNorm, list[nn.BatchNorm2d]]:
    """A layer for two domains, and a plain one for each."""
    return DomainBatchNorm(plain_layer(), shared_affine=shared_affine), [plain_layer(), plain_layer()]


def run(layer: DomainBatchNorm, domain: int, x: Tensor) -> Tensor:
    layer.domain = domain
    return layer(x)


def side(value: Tensor, domain: int) -> Tensor:
    return value[domain] if value.dim() == 2 else value


# ---- against two plain layers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared_affine", [True, False], ids=["split", "domain"])
def test_it_is_two_plain_layers(shared_affine: bool):
    """Outputs and statistics, bit for bit, whichever domain comes when and how often."""
    layer, plain = layers(shared_affine=shared_affine)
    for seed, domain in enumerate((SOURCE, TARGET, TARGET, SOURCE, TARGET)):
        assert torch.equal(run(layer, domain, images(seed)), plain[domain](images(seed)))
    layer.eval()
    for domain in DOMAINS:
        assert torch.equal(layer.running_mean[domain], plain[domain].running_mean)  # type: ignore[arg-type]
        assert torch.equal(layer.running_var[domain], plain[domain].running_var)  # type: ignore[arg-type]
        assert torch.equal(run(layer, domain, images(9)), plain[domain].eval()(images(9)))
    assert not torch.allclose(run(layer, SOURCE, images(9)), run(layer, TARGET, images(9)))


def gradients(shared_affine: bool) -> tuple[DomainBatchNorm, list[nn.BatchNorm2d]]:
    """Both after a backward pass of the same loss, which weighs the domains differently."""
    layer, plain = layers(shared_affine=shared_affine)
    for domain in DOMAINS:
        weights = images(domain + 5)
        (run(layer, domain, images(domain)) * weights).sum().backward()
        (plain[domain](images(domain)) * weights).sum().backward()
    return layer, plain


def test_the_gradient_of_a_shared_scale_and_shift_is_the_sum_over_both_domains():
    layer, plain = gradients(shared_affine=True)
    for name in ("weight", "bias"):
        expected = sum(getattr(one, name).grad for one in plain)
        assert layer.get_parameter(name).shape == (CHANNELS,)
        torch.testing.assert_close(layer.get_parameter(name).grad, expected)


def test_scale_and_shift_of_a_domain_learn_from_it_alone():
    layer, plain = gradients(shared_affine=False)
    for name in ("weight", "bias"):
        expected = torch.stack([getattr(one, name).grad for one in plain])
        assert layer.get_parameter(name).shape == (2, CHANNELS)
        torch.testing.assert_close(layer.get_parameter(name).grad, expected)


@pytest.mark.parametrize("training", [True, False])
def test_images_get_the_gradient_of_a_plain_layer(training: bool):
    layer, plain = layers(shared_affine=False)
    layer.train(training)
    for domain in DOMAINS:
        one, other = images(domain).requires_grad_(), images(domain).requires_grad_()
        (run(layer, domain, one) * images(7)).sum().backward()
        (plain[domain].train(training)(other) * images(7)).sum().backward()
        torch.testing.assert_close(one.grad, other.grad)


def test_a_layer_without_scale_and_shift_stays_without():
    layer = DomainBatchNorm(plain_layer(affine=False), shared_affine=False)
    assert list(layer.parameters()) == []
    assert torch.equal(run(layer, SOURCE, images(1)), plain_layer(affine=False)(images(1)))
    assert torch.equal(layer.of_domain(SOURCE)(images(2)), run(layer.eval(), SOURCE, images(2)))


def test_a_frozen_scale_stays_frozen():
    frozen = plain_layer().requires_grad_(False)
    for shared_affine in (True, False):
        assert not any(
            value.requires_grad for value in DomainBatchNorm(frozen, shared_affine=shared_affine).parameters()
        )


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(3, track_running_stats=False), nn.BatchNorm2d(3, momentum=None)])
def test_a_layer_without_a_running_average_cannot_have_one_for_each_domain(layer: nn.BatchNorm2d):
    with pytest.raises(ValueError, match="keeps no running average"):
        DomainBatchNorm(layer, shared_affine=True)


# ---- whole networks -----------------------------------------------------------------------------------------------


def torchvision_network(name: str) -> nn.Module:
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, num_classes=4)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
    return network


@pytest.mark.parametrize("shared_affine", [True, False], ids=["split", "domain"])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_a_network_of_torchvision_says_the_same_when_its_layers_are_replaced(name: str, shared_affine: bool):
    network = torchvision_network(name).eval()
    photos = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    plain = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    with torch.no_grad():
        before = network(photos)
        per_domain(network, shared_affine=shared_affine)
        found = [module for module in network.modules() if isinstance(module, DomainBatchNorm)]
        for domain in DOMAINS:
            for layer in found:
                layer.domain = domain
            torch.testing.assert_close(network(photos), before)
    assert len(found) == plain > 10
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def two_domains(bn: str = "domain") -> DomainAdversarialNetwork:
    """A network that has seen both domains, and learnt another scale and shift for each."""
    torch.manual_seed(0)
    config = ModelConfig(backbone="conv6", width=0.1, bn=bn, label_hidden=(5,))  # type: ignore[arg-type]
    network = DomainAdversarialNetwork(config, classes=3, height=8, width=8, two_domains=True)
    with torch.no_grad():
        for seed in range(2):
            for domain in DOMAINS:
                network.features(images(seed + 3 * domain, size=8), domain)
        for module in network.modules():
            if isinstance(module, DomainBatchNorm):
                for value in module.parameters():
                    value.add_(torch.rand_like(value))
    return network


@pytest.mark.parametrize("bn", ["split", "domain"])
@pytest.mark.parametrize("domain", DOMAINS)
def test_a_copy_for_one_domain_says_the_same_in_evaluation(bn: str, domain: int):
    network = two_domains(bn).eval()
    copy = single_domain(network, domain)
    x = images(2, size=8)
    torch.testing.assert_close(copy(x), network(x, domain))
    assert not torch.allclose(copy(x), network(x, 1 - domain))
    assert not any(isinstance(module, DomainBatchNorm) for module in copy.modules())
    assert any(isinstance(module, DomainBatchNorm) for module in network.modules())  # itself left alone
    assert not copy.training


# ---- statistics ---------------------------------------------------------------------------------------------------


def forward_of(network: DomainAdversarialNetwork, domain: int) -> Callable[[Tensor], Tensor]:
    return lambda x: network.features(x, domain)


def first_layer(network: nn.Module) -> DomainBatchNorm:
    return next(module for module in network.modules() if isinstance(module, DomainBatchNorm))


def test_statistics_taken_anew_are_the_mean_of_those_of_the_batches():
    network = two_domains("split").eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    batches = [images(seed, count=4 + seed, size=8) for seed in range(3)]
    reestimate(network, batches, forward_of(network, TARGET))

    convolution = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    with torch.no_grad():
        seen = [
            convolution(network.feature_extractor[0](batch)).transpose(0, 1).flatten(1).double().numpy()
            for batch in batches
        ]
    layer = first_layer(network)
    expected = np.mean([batch.mean(axis=1) for batch in seen], axis=0)
    np.testing.assert_allclose(layer.running_mean[TARGET].numpy(), expected, rtol=1e-4, atol=1e-5)
    expected = np.mean([batch.var(axis=1, ddof=1) for batch in seen], axis=0)
    np.testing.assert_allclose(layer.running_var[TARGET].numpy(), expected, rtol=1e-4)

    for name, value in network.state_dict().items():  # nothing else moved
        if "running" in name:
            assert torch.equal(value[SOURCE], before[name][SOURCE]) and not torch.equal(
                value[TARGET], before[name][TARGET]
            )
        else:
            assert torch.equal(value, before[name])


def test_taking_statistics_anew_leaves_modes_and_momentum():
    network = two_domains().eval()
    held = first_layer(network).train()
    reestimate(network, [images(0, size=8)], forward_of(network, TARGET))
    assert held.training and sum(module.training for module in network.modules()) == 1
    assert {module.momentum for module in network.modules() if isinstance(module, DomainBatchNorm)} == {0.1}


def test_statistics_of_plain_layers_are_taken_anew_too():
    layer = plain_layer().eval()
    batches = [images(seed) for seed in range(3)]
    reestimate(layer, batches, layer)
    expected = torch.stack([batch.mean(dim=(0, 2, 3)) for batch in batches]).mean(dim=0)
    torch.testing.assert_close(layer.running_mean, expected)
    assert layer.momentum == 0.3


@pytest.mark.parametrize("bn", ["shared", "split", "domain"])
@pytest.mark.parametrize("domain", DOMAINS)
def test_frozen_statistics_normalise_by_the_batch_and_keep_nothing(bn: str, domain: int):
    network, other = two_domains(bn).train(), two_domains(bn).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with frozen_running_statistics(network):
        features = network.features(images(4, size=8), domain)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(features, other.features(images(4, size=8), domain))


@pytest.mark.parametrize("bn", ["shared", "domain"])
def test_frozen_statistics_are_used_in_evaluation(bn: str):
    network = two_domains(bn).eval()
    expected = network(images(4, size=8))
    with frozen_running_statistics(network):
        assert torch.equal(network(images(4, size=8)), expected)


@pytest.mark.parametrize("bn", ["shared", "split"])
def test_statistics_run_again_after_the_context_even_when_it_fails(bn: str):
    network = two_domains(bn).train()
    with pytest.raises(KeyError), frozen_running_statistics(network):
        raise KeyError
    before = {name: value.clone() for name, value in network.state_dict().items() if "running" in name}
    network.features(images(4, size=8), SOURCE)
    assert before and not any(torch.equal(network.state_dict()[name], value) for name, value in before.items())


def test_layers_that_never_track_are_left_alone():
    layer = nn.BatchNorm2d(CHANNELS, track_running_stats=False)
    with frozen_running_statistics(layer):
        pass
    assert layer.track_running_stats is False
