"""The three networks, their input scaling, and batch statistics."""

import pytest
import torch
from torch import nn

from dann.train.config import ModelConfig
from dann.train.model import DomainAdversarialNetwork, frozen_running_statistics

CONFIG = ModelConfig(backbone="conv6", width=0.1, label_hidden=(7, 6), domain_hidden=(5,))


def build(config: ModelConfig = CONFIG) -> DomainAdversarialNetwork:
    torch.manual_seed(0)
    return DomainAdversarialNetwork(config, classes=3, height=16, width=24)


def images(count: int = 4) -> torch.Tensor:
    return torch.rand(count, 3, 16, 24, generator=torch.Generator().manual_seed(1))


def test_shapes():
    network = build()
    features = network.feature_extractor(images())
    assert features.shape == (4, 26)
    assert network(images()).shape == (4, 3)
    assert network.domain_logits(features, 1.0).shape == (4,)


def linear_sizes(network: nn.Module) -> list[tuple[int, int]]:
    return [(layer.in_features, layer.out_features) for layer in network.modules() if isinstance(layer, nn.Linear)]


def test_hidden_layers_are_as_configured():
    network = build()
    assert linear_sizes(network.label_classifier) == [(26, 7), (7, 6), (6, 3)]
    assert linear_sizes(network.domain_classifier) == [(26, 5), (5, 1)]
    assert linear_sizes(build(ModelConfig(backbone="conv6", width=0.1, label_hidden=())).label_classifier) == [(26, 3)]


def test_no_head_ends_in_a_softmax_or_sigmoid():
    network = build()
    for head in (network.label_classifier, network.domain_classifier):
        assert isinstance(list(head.modules())[-1], nn.Linear)


def test_only_the_features_are_reversed_and_the_domain_classifier_learns_at_full_rate():
    gradients = {}
    for lam in (0.0, 1.0, 0.25):
        network = build().eval()
        network.domain_logits(network.feature_extractor(images()), lam).sum().backward()
        gradients[lam] = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    for name, gradient in gradients[1.0].items():
        factor = 1.0 if name.startswith("domain_classifier") else 0.25
        torch.testing.assert_close(gradients[0.25][name], factor * gradient)
    assert all(not g.any() for name, g in gradients[0.0].items() if name.startswith("feature_extractor"))
    assert any(g.any() for name, g in gradients[1.0].items() if name.startswith("feature_extractor"))


@pytest.mark.parametrize(
    ("normalise", "expected"),
    [
        ("half", lambda x: (x - 0.5) / 0.5),
        (
            "imagenet",
            lambda x: (
                (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
                / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
            ),
        ),
        (
            "instance",
            lambda x: (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), keepdim=True, unbiased=False) + 1e-5).sqrt(),
        ),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_input_scaling_is_the_first_layer(normalise: str, expected, training: bool):
    config = ModelConfig(backbone="conv6", width=0.1, normalise=normalise)  # type: ignore[arg-type]
    scaling = build(config).train(training).feature_extractor[0]
    torch.testing.assert_close(scaling(images()), expected(images()))


def test_input_scaling_adds_nothing_to_the_weights():
    assert not [key for key in build().state_dict() if key.startswith("feature_extractor.0.")]


def running_statistics(network: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items() if "running" in key or "tracked" in key}


def test_frozen_statistics_normalise_by_the_batch_and_keep_nothing():
    network, other = build().train(), build().train()
    before = running_statistics(network)
    with frozen_running_statistics(network):
        features = network.feature_extractor(images())
    assert all(torch.equal(value, before[key]) for key, value in running_statistics(network).items())
    assert torch.equal(features, other.feature_extractor(images()))


def test_statistics_run_again_after_the_context_even_when_it_fails():
    network = build().train()
    before = running_statistics(network)
    with pytest.raises(KeyError), frozen_running_statistics(network):
        raise KeyError
    network.feature_extractor(images())
    assert all(not torch.equal(value, before[key]) for key, value in running_statistics(network).items())


def test_layers_that_never_track_are_left_alone():
    network = build()
    layer = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    layer.track_running_stats = False
    with frozen_running_statistics(network):
        pass
    assert layer.track_running_stats is False


def test_evaluation_is_deterministic_with_dropout():
    network = build(ModelConfig(backbone="conv6", width=0.1, dropout=0.5)).eval()
    assert torch.equal(network(images()), network(images()))
    assert not torch.equal(network.train()(images()), network(images()))
