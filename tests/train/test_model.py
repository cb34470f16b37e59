"""The three networks, their input scaling, and which batch statistics a pass uses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dann.train.batch_norm import SOURCE, TARGET, DomainBatchNorm, single_domain
from dann.train.model import DomainAdversarialNetwork, LocalContrast
from dann.train.reversal import gradient_reversal
from dann.train.settings import ModelConfig

CONFIG = ModelConfig(backbone="conv6", width=0.1, label_hidden=(7, 6), domain_hidden=(5,))


def build(config: ModelConfig = CONFIG, **options: bool) -> DomainAdversarialNetwork:
    torch.manual_seed(0)
    return DomainAdversarialNetwork(config, classes=3, height=16, width=24, **options)


def build_for_two_domains(bn: str) -> DomainAdversarialNetwork:
    return build(replace(CONFIG, bn=bn), two_domains=True)


def images(count: int = 4, seed: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, 16, 24, generator=torch.Generator().manual_seed(seed))


def test_shapes():
    network = build()
    features = network.feature_extractor(images())
    assert features.shape == (4, 26)
    assert network(images()).shape == (4, 3)
    assert network.domain_logits(features).shape == (4,)


def test_a_bottleneck_is_what_both_classifiers_see_and_what_is_adapted():
    network = build(replace(CONFIG, bottleneck=9, dropout=0.5), two_domains=True)
    features = network.features(images(), SOURCE)
    assert features.shape == (4, 9) and (features >= 0).all()
    assert linear_sizes(network)[0] == (26, 9)
    assert network.label_classifier[0].in_features == network.domain_classifier[0].in_features == 9
    plain = single_domain(network.eval(), TARGET)
    torch.testing.assert_close(plain(images()), network(images(), TARGET))


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
        network.domain_logits(gradient_reversal(network.feature_extractor(images()), lam)).sum().backward()
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


def test_local_contrast_is_what_a_window_says_of_each_pixel():
    x = torch.rand(2, 3, 36, 40, generator=torch.Generator().manual_seed(2))
    window = 5  # a seventh of 36
    given = LocalContrast()(x)
    for row, column in ((0, 0), (10, 3), (35, 39)):
        around = np.s_[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
        mean = x[:, :, *around].mean(dim=(2, 3))
        centred = x - F.avg_pool2d(x, window, 1, 2, count_include_pad=False)
        deviation = (centred[:, :, *around] ** 2).mean(dim=(1, 2, 3)).sqrt()[:, None]
        torch.testing.assert_close(given[:, :, row, column], (x[:, :, row, column] - mean) / (deviation + 0.08))


def test_local_contrast_hardly_sees_the_light():
    x = torch.rand(2, 3, 36, 40, generator=torch.Generator().manual_seed(2))
    darker = 0.5 * x + 0.1
    scaled = LocalContrast()
    assert (scaled(x) - scaled(darker)).abs().mean() < 0.35 * scaled(x).abs().mean()
    assert torch.equal(scaled(torch.full((1, 3, 32, 32), 0.25)), torch.zeros(1, 3, 32, 32)), "flat stays flat"


def test_input_scaling_adds_nothing_to_the_weights():
    assert not [key for key in build().state_dict() if key.startswith("feature_extractor.0.")]


def test_evaluation_is_deterministic_with_dropout():
    network = build(ModelConfig(backbone="conv6", width=0.1, dropout=0.5)).eval()
    assert torch.equal(network(images()), network(images()))
    assert not torch.equal(network.train()(images()), network(images()))


# ---- two domains --------------------------------------------------------------------------------------------------


def statistics(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items() if "running" in name}


@pytest.mark.parametrize(
    ("bn", "own"), [("shared", nn.BatchNorm2d), ("split", DomainBatchNorm), ("domain", DomainBatchNorm)]
)
def test_batch_normalisation_is_per_domain_unless_it_is_shared(bn: str, own: type):
    kinds = {type(module) for module in build_for_two_domains(bn).modules() if "BatchNorm" in type(module).__name__}
    assert kinds == {own}


@pytest.mark.parametrize(("bn", "dimensions"), [("split", {1}), ("domain", {2})])
def test_scale_and_shift_are_per_domain_where_asked_for(bn: str, dimensions: set[int]):
    layers = [module for module in build_for_two_domains(bn).modules() if isinstance(module, DomainBatchNorm)]
    assert {value.dim() for layer in layers for value in layer.parameters()} == dimensions


@pytest.mark.parametrize("bn", ["shared", "split", "domain"])
def test_one_domain_has_plain_layers_whatever_the_setting(bn: str):
    network = build(replace(CONFIG, bn=bn))
    assert not any(isinstance(module, DomainBatchNorm) for module in network.modules())
    assert torch.equal(network(images(), SOURCE), build()(images(), TARGET))


def test_the_domains_of_a_new_network_start_alike():
    network = build_for_two_domains("domain").eval()
    assert torch.equal(network(images(), SOURCE), network(images(), TARGET))
    assert torch.equal(network(images()), build().eval()(images()))


@pytest.mark.parametrize("bn", ["split", "domain"])
def test_a_pass_uses_and_keeps_the_statistics_of_its_domain(bn: str):
    network = build_for_two_domains(bn)
    before = statistics(network)
    network.features(images(), SOURCE)
    after = statistics(network)
    assert after
    for name, value in after.items():
        assert not torch.equal(value[SOURCE], before[name][SOURCE])
        assert torch.equal(value[TARGET], before[name][TARGET])
    network.eval()
    assert not torch.allclose(network(images(), SOURCE), network(images(), TARGET))
    assert torch.equal(network(images()), network(images(), TARGET))  # which is what evaluation and export see


@pytest.mark.parametrize("bn", ["split", "domain"])
def test_both_domains_go_through_passes_of_their_own(bn: str):
    network, other = build_for_two_domains(bn), build_for_two_domains(bn)
    source, target = network.features_of_both(images(4, seed=1), images(6, seed=2))
    assert torch.equal(source, other.features(images(4, seed=1), SOURCE))
    assert torch.equal(target, other.features(images(6, seed=2), TARGET))
    assert all(torch.equal(value, statistics(other)[name]) for name, value in statistics(network).items())


def test_shared_statistics_are_those_of_one_pass_over_both_domains():
    network, other = build_for_two_domains("shared"), build_for_two_domains("shared")
    source, target = network.features_of_both(images(4, seed=1), images(6, seed=2))
    together = other.features(torch.cat([images(4, seed=1), images(6, seed=2)]))
    assert torch.equal(torch.cat([source, target]), together) and (len(source), len(target)) == (4, 6)
    assert all(torch.equal(value, statistics(other)[name]) for name, value in statistics(network).items())


# ---- CDAN ---------------------------------------------------------------------------------------------------------


def test_the_domain_classifier_of_cdan_depends_on_features_and_classes():
    network = build(conditional=True).eval()
    features = network.features(images())
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    told = network.domain_logits(features, logits)
    assert told.shape == (4,)
    assert not torch.allclose(told, network.domain_logits(features, logits.flip(1)))
    assert not torch.allclose(told, network.domain_logits(features.flip(0), logits))
    assert linear_sizes(network.domain_classifier)[0] == (26 * 3, 5)


def test_the_features_are_reversed_in_cdan_too():
    features = build().features(images()).detach()
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    found = {}
    for lam in (-1.0, 0.25):  # −1 is the plain gradient
        network, leaf = build(conditional=True), features.clone().requires_grad_()
        network.domain_logits(gradient_reversal(leaf, lam), logits).sum().backward()
        found[lam] = leaf.grad
    torch.testing.assert_close(found[0.25], -0.25 * found[-1.0])
