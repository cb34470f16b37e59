"""Parameter groups: what learns and how fast, and what stays as it is."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from dann.infer.errors import UsageError
from dann.train.batch_norm import DomainBatchNorm, per_domain
from dann.train.model import DomainAdversarialNetwork
from dann.train.parameter_groups import freeze, hold_frozen_statistics, parameter_groups
from dann.train.settings import ModelConfig


def small() -> DomainAdversarialNetwork:
    config = ModelConfig(backbone="conv6", width=0.1, label_hidden=(6,), domain_hidden=(5,))
    return DomainAdversarialNetwork(config, classes=3, height=8, width=8)


def groups_of(network: nn.Module, **settings: Any) -> list[dict[str, Any]]:
    return parameter_groups(network, **{"lr": 0.1, "weight_decay": 0.01, **settings})


def identities(groups: list[dict[str, Any]]) -> list[int]:
    return [id(parameter) for group in groups for parameter in group["params"]]


def test_every_parameter_is_in_one_group_in_the_order_of_the_network():
    network = small()
    assert identities(groups_of(network)) == [id(parameter) for parameter in network.parameters()]


def test_the_heads_learn_faster_by_their_factor():
    network = small()
    backbone, heads = groups_of(network, head_lr_factor=10.0)
    assert [id(parameter) for parameter in backbone["params"]] == [
        id(parameter) for parameter in network.feature_extractor.parameters()
    ]
    settings = [{key: value for key, value in group.items() if key != "params"} for group in (backbone, heads)]
    assert settings == [
        {"name": "backbone", "lr": 0.1, "base_lr": 0.1, "weight_decay": 0.01},
        {"name": "heads", "lr": 1.0, "base_lr": 1.0, "weight_decay": 0.01},
    ]


@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.AdamW])
def test_optimisers_keep_the_groups_through_their_state(optimiser: Callable[..., torch.optim.Optimizer]):
    first = optimiser(groups_of(small(), head_lr_factor=10.0))
    second = optimiser(groups_of(small(), lr=0.5))
    second.load_state_dict(first.state_dict())
    assert [(group["name"], group["base_lr"], group["lr"]) for group in second.param_groups] == [
        ("backbone", 0.1, 0.1),
        ("heads", 1.0, 1.0),
    ]


def test_a_bottleneck_learns_with_the_heads_and_is_no_part_of_the_backbone():
    config = ModelConfig(backbone="conv6", width=0.1, bottleneck=5, label_hidden=(), domain_hidden=())
    network = DomainAdversarialNetwork(config, classes=3, height=8, width=8)
    backbone, heads = groups_of(network, head_lr_factor=10.0)
    assert (backbone["lr"], heads["lr"]) == (0.1, 1.0)
    assert len(backbone["params"]) == len(list(network.feature_extractor[1].parameters()))
    freeze(network, ["backbone"])
    assert all(parameter.requires_grad for parameter in network.feature_extractor[2].parameters())


def test_what_is_frozen_is_in_no_group_and_empty_groups_are_dropped():
    network = small()
    frozen = freeze(network, ["label_classifier.0"])
    parameters = dict(network.named_parameters())
    learning = identities(groups_of(network))
    assert not {id(parameters[name]) for name in frozen} & set(learning)
    assert len(learning) == len(parameters) - 2
    freeze(network, ["backbone"])
    assert [group["name"] for group in groups_of(network)] == ["heads"]


def test_nothing_to_train_is_refused():
    network = small()
    freeze(network, ["backbone", "label_classifier", "domain_classifier"])
    with pytest.raises(UsageError, match="every parameter of the network is frozen"):
        groups_of(network)


def test_biases_and_normalisation_can_be_spared_the_decay():
    two_sided = DomainBatchNorm(nn.BatchNorm1d(2), shared_affine=False)  # scale and shift are matrices
    network = nn.ModuleDict(
        {
            "feature_extractor": nn.Sequential(
                nn.Identity(), nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.GroupNorm(1, 3))
            ),
            "label_classifier": nn.Sequential(nn.Linear(3, 2), two_sided),
        }
    )
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = groups_of(network, decay_norm_and_bias=False)
    found = [(g["name"], g["weight_decay"], [names[id(p)] for p in g["params"]]) for g in groups]
    norms = [f"feature_extractor.1.{layer}.{name}" for layer in (1, 2) for name in ("weight", "bias")]
    assert found == [
        ("backbone", 0.01, ["feature_extractor.1.0.weight"]),
        ("backbone", 0.0, ["feature_extractor.1.0.bias", *norms]),
        ("heads", 0.01, ["label_classifier.0.weight"]),
        ("heads", 0.0, ["label_classifier.0.bias", "label_classifier.1.weight", "label_classifier.1.bias"]),
    ]


def test_shared_parameters_are_in_one_group_once():
    layer = nn.Linear(2, 2)
    network = nn.ModuleDict({"feature_extractor": nn.Sequential(layer), "label_classifier": nn.Sequential(layer)})
    assert identities(groups_of(network)) == [id(layer.weight), id(layer.bias)]


def test_a_pattern_is_a_dotted_prefix():
    network = nn.ModuleDict({"layer1": nn.Linear(1, 1), "layer10": nn.Linear(1, 1)})
    assert freeze(network, ["layer1"]) == ["layer1.weight", "layer1.bias"]
    assert [name for name, parameter in network.named_parameters() if parameter.requires_grad] == [
        "layer10.weight",
        "layer10.bias",
    ]


def test_modules_parameters_and_the_backbone_can_be_named_and_come_back_in_order():
    network = small()
    names = [name for name, _ in network.named_parameters()]
    backbone = [name for name in names if name.startswith("feature_extractor.")]
    frozen = freeze(network, ["label_classifier.0.bias", "feature_extractor.1.0", "backbone"])
    assert frozen == [*backbone, "label_classifier.0.bias"]
    assert [name for name, p in network.named_parameters() if p.requires_grad] == [n for n in names if n not in frozen]


def test_no_pattern_freezes_nothing():
    assert freeze(small(), []) == []


@pytest.mark.parametrize(
    ("pattern", "nearest"),
    [("label_clasifier", "label_classifier"), ("backbones", "backbone")],
)
def test_an_unknown_part_suggests_the_nearest_and_nothing_is_frozen(pattern: str, nearest: str):
    network = small()
    with pytest.raises(
        UsageError, match=f"unknown part of the network to freeze '{pattern}'; did you mean '{nearest}'"
    ):
        freeze(network, ["domain_classifier", pattern])
    assert all(parameter.requires_grad for parameter in network.parameters())


def statistics(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in network.named_buffers() if "running" in name}


@pytest.mark.parametrize("domains", [1, 2])
def test_statistics_of_frozen_batch_normalisation_do_not_move_and_others_do(domains: int):
    network = torchvision.models.resnet18(num_classes=2)
    if domains == 2:
        per_domain(network, shared_affine=False)
    freeze(network, ["bn1", "layer1"])
    before = statistics(network)
    network.train()
    hold_frozen_statistics(network)
    network(torch.rand(2, 3, 32, 32))
    moved = {name for name, buffer in statistics(network).items() if not torch.equal(buffer, before[name])}
    assert moved == {name for name in before if not name.startswith(("bn1", "layer1"))}


def test_only_batch_normalisation_that_is_frozen_whole_leaves_training():
    network = nn.Sequential(
        nn.BatchNorm2d(3), nn.BatchNorm2d(3, affine=False), nn.MultiheadAttention(4, 1, dropout=0.1)
    )
    freeze(network, ["0.weight", "2"])
    hold_frozen_statistics(network)
    assert all(module.training for module in network.modules())
