"""The training configuration: what is refused, what is read back, and which source of settings wins."""

import json
from pathlib import Path
from typing import Any

import pytest

from dann.infer.errors import UsageError
from dann.train.backbones import backbone_names
from dann.train.config import (
    DEFAULT_PRESET,
    AdaptConfig,
    AugmentConfig,
    DataConfig,
    ModelConfig,
    OptimiserConfig,
    TrainConfig,
    load_preset,
    preset_names,
    resolve,
    to_toml,
)

NAN = float("nan")
OUT_OF_RANGE: list[tuple[type, dict[str, Any], str]] = [
    (DataConfig, {"holdout": -0.1}, "data.holdout is -0.1; expected a value from 0.0 to 0.5"),
    (DataConfig, {"holdout": 0.6}, "data.holdout is 0.6"),
    (DataConfig, {"height": 0}, "image size is 0x64"),
    (DataConfig, {"resize": "squash"}, "unknown resize mode 'squash'"),
    (ModelConfig, {"dropout": 1.0}, "model.dropout is 1.0"),
    (ModelConfig, {"width": 0.0}, "model.width is 0.0"),
    (ModelConfig, {"width": NAN}, "model.width is nan"),
    (ModelConfig, {"label_hidden": (8, 0)}, "model.label_hidden is 0; expected a value from 1"),
    (ModelConfig, {"domain_hidden": (-3,)}, "model.domain_hidden is -3"),
    (OptimiserConfig, {"lr": 0.0}, "optimiser.lr is 0.0"),
    (OptimiserConfig, {"lr": NAN}, "optimiser.lr is nan"),
    (OptimiserConfig, {"momentum": 1.0}, "optimiser.momentum is 1.0"),
    (OptimiserConfig, {"weight_decay": -1.0}, "optimiser.weight_decay is -1.0"),
    (OptimiserConfig, {"clip_norm": 0.0}, "optimiser.clip_norm is 0.0"),
    (OptimiserConfig, {"clip_norm": NAN}, "optimiser.clip_norm is nan"),
    (AdaptConfig, {"lam_max": -1.0}, "adapt.lam_max is -1.0"),
    (AugmentConfig, {"shift": 0.6}, "augment.shift is 0.6"),
    (AugmentConfig, {"scale": 1.0}, "augment.scale is 1.0"),
    (AugmentConfig, {"rotate_deg": 181.0}, "augment.rotate_deg is 181.0"),
    (AugmentConfig, {"noise": -0.1}, "augment.noise is -0.1"),
    (TrainConfig, {"seed": -1}, "seed is -1"),
    (TrainConfig, {"epochs": 0}, "epochs is 0"),
    (TrainConfig, {"steps": 0}, "steps is 0"),
    (TrainConfig, {"batch_size": 1}, "batch_size is 1"),
    (TrainConfig, {"eval_every": -1}, "eval_every is -1"),
]


@pytest.mark.parametrize(("cls", "values", "message"), OUT_OF_RANGE)
def test_impossible_values_are_refused(cls: type, values: dict[str, Any], message: str):
    with pytest.raises(UsageError) as caught:
        cls(**values)
    assert message in str(caught.value)


@pytest.mark.parametrize("cls", [DataConfig, ModelConfig, OptimiserConfig, AdaptConfig, AugmentConfig, TrainConfig])
def test_the_defaults_are_accepted(cls: type):
    assert cls() == cls()


def test_the_default_backbone_exists():
    assert ModelConfig().backbone in backbone_names()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epoch": 3}, "unknown setting 'epoch'; did you mean 'epochs'?"),
        ({"optimiser.momentun": 0.5}, "unknown setting 'optimiser.momentun'; did you mean 'optimiser.momentum'?"),
        ({"optimizer.lr": 0.5}, "unknown setting 'optimizer'; did you mean 'optimiser'?"),
        ({"mode": "dan"}, "unknown value of mode 'dan'; did you mean 'dann'?"),
        ({"amp": "fp8"}, "unknown value of amp 'fp8'"),
        ({"epochs": 2.5}, "epochs is 2.5; expected int"),
        ({"epochs": "3"}, "epochs is '3'; expected int"),
        ({"epochs": True}, "epochs is True; expected int"),
        ({"optimiser.lr": True}, "optimiser.lr is True; expected float"),
        ({"optimiser.lr": "fast"}, "optimiser.lr is 'fast'; expected float"),
        ({"optimiser.clip_norm": "1"}, "optimiser.clip_norm is '1'; expected float"),
        ({"augment.flip": 1}, "augment.flip is 1; expected bool"),
        ({"data.source": 7}, "data.source is 7; expected str"),
        ({"epochs": None}, "epochs is None; expected int"),
        ({"model.label_hidden": 64}, "model.label_hidden is 64; expected tuple"),
        ({"model.label_hidden": [64, 1.5]}, "model.label_hidden is 1.5; expected int"),
        ({"model": 3}, "model is 3; expected a table of settings"),
        ({"epochs.first": 3}, "epochs is {'first': 3}; expected int"),
    ],
)
def test_wrong_settings_are_refused_by_name(settings: dict[str, Any], message: str):
    with pytest.raises(UsageError) as caught:
        resolve("cars", overrides=settings)
    assert message in str(caught.value)


def test_whole_numbers_are_taken_where_a_real_one_is_meant():
    lr = resolve(overrides={"optimiser.lr": 1}).optimiser.lr
    assert lr == 1.0 and type(lr) is float


def test_file_overrides_preset_and_flags_override_both(tmp_path: Path):
    file = tmp_path / "mine.toml"
    file.write_text("epochs = 3\nbatch_size = 16\n[optimiser]\nlr = 0.5\n", encoding="utf-8")
    preset = resolve("mnist-mnistm")
    config = resolve("mnist-mnistm", file, {"batch_size": 4, "optimiser.momentum": 0.1})
    assert (config.epochs, config.batch_size) == (3, 4)
    assert (config.optimiser.lr, config.optimiser.momentum) == (0.5, 0.1)
    assert config.optimiser.name == preset.optimiser.name == "sgd"
    assert (config.data, config.model) == (preset.data, preset.model)


def test_a_table_among_the_flags_adds_to_the_preset():
    config = resolve("mnist-mnistm", overrides={"data": {"height": 32}, "data.width": 32})
    assert (config.data.source, config.data.height, config.data.width) == ("mnist", 32, 32)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_resolves_and_names_a_known_backbone(name: str):
    config = resolve(name)
    assert config.data.source and config.data.target
    assert config.model.backbone in backbone_names()


def test_the_presets_that_are_promised_are_there():
    promised = {"cars", "mnist-mnistm", "mnistm-usps", "mnist-usps", "svhn-mnist", "mnist-svhn", "mnistm-svhn"}
    assert promised <= set(preset_names())
    assert DEFAULT_PRESET in preset_names()


def test_an_unknown_preset_suggests_the_nearest():
    with pytest.raises(UsageError, match="unknown preset 'mnist-mnist'; did you mean 'mnist-mnistm'"):
        load_preset("mnist-mnist")


AWKWARD = resolve(
    overrides={
        "data.source": 'C:\\renders\\"new"\n\ttab\x7f\x01 ümläut 车',
        "data.target": "",
        "data.holdout": 0.05,
        "optimiser.lr": 1e-09,
        "optimiser.clip_norm": 1e9,
        "model.label_hidden": [],
        "model.domain_hidden": [1024, 1024],
        "augment.invert": True,
        "steps": 10**9,
        "seed": 2**63 - 1,
    }
)


@pytest.mark.parametrize("config", [TrainConfig(), resolve("cars"), AWKWARD], ids=["default", "cars", "awkward"])
def test_what_is_printed_as_toml_is_read_back_the_same(config: TrainConfig, tmp_path: Path):
    file = tmp_path / "printed.toml"
    file.write_text(to_toml(config), encoding="utf-8", newline="")
    assert resolve(file=file) == config


@pytest.mark.parametrize("config", [TrainConfig(), AWKWARD], ids=["default", "awkward"])
def test_what_is_saved_as_json_is_read_back_the_same(config: TrainConfig):
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"epochs = ", "is not valid TOML"), (b"\xff\xfe", "is not valid TOML"), (None, "cannot be read: No such file")],
)
def test_a_configuration_that_cannot_be_read_is_refused(content: bytes | None, message: str, tmp_path: Path):
    file = tmp_path / "mine.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        resolve(file=file)
