"""Feature extractors by name, and weights from a file or a download."""

import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dann.infer.errors import UnavailableError, UsageError
from dann.train.backbones import backbone_names, build_backbone, feature_width
from dann.train.mix_style import MixStyle
from dann.train.settings import ModelConfig


def build(backbone: str, **settings: Any) -> nn.Module:
    return build_backbone(ModelConfig(backbone=backbone, **settings))


@pytest.mark.parametrize(
    ("name", "side", "features"),
    [
        ("dann-mnist", 28, 48 * 4 * 4),  # arXiv 1505.07818, figure 4a
        ("dann-svhn", 32, 128 * 7 * 7),  # figure 4b
        ("conv6", 64, 256),
        ("conv9", 32, 64),
    ],
)
@pytest.mark.parametrize("batch_norm", [True, False])
def test_own_networks_at_their_size(name: str, side: int, features: int, batch_norm: bool):
    network = build(name, batch_norm=batch_norm)
    assert feature_width(network, side, side) == features
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()) == batch_norm


@pytest.mark.parametrize("name", ["dann-mnist", "dann-svhn", "conv6", "conv9"])
def test_width_scales_the_channels_and_dropout_reaches_the_layers(name: str):
    network = build(name, width=0.25, dropout=0.3)
    full = [layer.out_channels for layer in build(name).modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in network.modules() if isinstance(layer, nn.Conv2d)] == [
        channels // 4 for channels in full
    ]
    assert {layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)} == {0.3}


def test_dropout_between_stages_can_differ_and_a_last_halving_keeps_positions():
    network = build("conv6", width=0.25, dropout=0.3, stage_dropout=0.1, pool="max")
    assert {layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)} == {0.1}
    assert feature_width(network, 64, 64) == 64 * 4 * 4


def test_mixing_styles_changes_neither_the_names_of_the_weights_nor_the_network_in_use():
    mixing, plain = build("conv6", width=0.1, mix_style=2), build("conv6", width=0.1)
    assert sum(isinstance(layer, MixStyle) for layer in mixing.modules()) == 2
    mixing.load_state_dict(plain.state_dict())
    images = torch.rand(4, 3, 16, 16)
    assert torch.equal(mixing.eval()(images), plain.eval()(images))
    assert not torch.equal(mixing.train()(images), plain.train()(images))


@pytest.mark.parametrize("name", ["dann-mnist", "resnet18"])
def test_networks_that_mix_no_styles_are_not_asked_to(name: str):
    with pytest.raises(UsageError, match="conv6 and conv9 do"):
        build(name, mix_style=1)


@pytest.mark.parametrize(
    ("name", "features"), [("resnet18", 512), ("mobilenet_v3_small", 1024), ("shufflenet_v2_x0_5", 1024)]
)
def test_torchvision_networks_lose_their_classifier(name: str, features: int):
    assert feature_width(build(name), 32, 32) == features


@pytest.mark.slow
def test_every_torchvision_network_ends_in_the_layer_that_is_taken_off():
    for name in backbone_names()[4:]:
        if name.startswith("regnet") and name != "regnet_y_400mf":
            continue  # one stands for all: they compute with tensors when they are built, so they need storage
        with torch.device("cpu" if name == "regnet_y_400mf" else "meta"):
            network = build(name)
        removed = [key for key, layer in network.named_modules() if isinstance(layer, nn.Identity)][-1]
        assert removed == list(dict(network.named_modules()))[-1], name


def test_the_extractor_is_left_in_the_mode_it_was_in():
    network = build("conv6", width=0.1)
    feature_width(network, 16, 16)
    assert network.training


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UsageError, match="unknown backbone 'resnet81'; did you mean 'resnet18'"):
        build("resnet81")


def test_own_names_come_first_and_networks_without_a_linear_classifier_are_not_offered():
    names = backbone_names()
    assert names[:4] == ["dann-mnist", "dann-svhn", "conv6", "conv9"]
    assert {"resnet18", "vit_b_16", "convnext_tiny"} <= set(names)
    assert not {"squeezenet1_0", "inception_v3", "googlenet"} & set(names)


@pytest.mark.parametrize(("name", "height", "width"), [("dann-mnist", 8, 8), ("conv6", 4, 64), ("vit_b_16", 32, 32)])
def test_images_too_small_for_the_backbone_are_refused(name: str, height: int, width: int):
    with torch.device("meta") if name == "vit_b_16" else torch.device("cpu"):
        network = build(name)
        with pytest.raises(UsageError, match=f"images of {height}x{width} do not fit this backbone"):
            feature_width(network, height, width)


def test_weights_come_from_a_file(tmp_path: Path):
    torch.manual_seed(1)
    trained = build("conv6", width=0.1).state_dict()
    save_file(trained, tmp_path / "trained.safetensors")
    loaded = build("conv6", width=0.1, weights=str(tmp_path / "trained.safetensors")).state_dict()
    assert all(torch.equal(loaded[key], trained[key]) for key in trained)


def test_own_networks_have_no_published_weights():
    with pytest.raises(UsageError, match="'conv6' has no published weights"):
        build("conv6", weights="DEFAULT")


def test_without_a_network_published_weights_are_unavailable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def refuse(*args: object, **options: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    with pytest.raises(UnavailableError, match="weights of resnet18 cannot be downloaded.*--weights FILE"):
        build("resnet18", weights="DEFAULT")
