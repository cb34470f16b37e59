"""Where settings come from: presets, methods, files and flags; which of them wins, and what is read back."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from dann.infer.errors import UsageError
from dann.train.backbones import backbone_names
from dann.train.config import (
    DEFAULT_PRESET,
    load_method,
    load_preset,
    method_names,
    preset_names,
    resolve,
    to_toml,
    with_method,
)
from dann.train.settings import AugmentConfig, ObjectivesConfig, TrainConfig


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
        ({"model.label_hidden": 64}, "model.label_hidden is 64; expected a list"),
        ({"model.label_hidden": [64, 1.5]}, "model.label_hidden is 1.5; expected int"),
        ({"model": 3}, "model is 3; expected a table of settings"),
        ({"epochs.first": 3}, "epochs is {'first': 3}; expected int"),
        ({"objectives.mc": 1.0}, "unknown setting 'objectives.mc'; did you mean 'objectives.mcc'?"),
        ({"selection.criterion": "source_accuracy"}, "did you mean 'source-accuracy'?"),
        ({"optimiser.stepped": "batch"}, "unknown value of optimiser.stepped 'batch'"),
        ({"model.bn": "domains"}, "unknown value of model.bn 'domains'; did you mean 'domain'?"),
        ({"second_view.flipp": True}, "unknown setting 'second_view.flipp'; did you mean 'second_view.flip'?"),
        ({"second_view": 3}, "second_view is 3; expected a table of settings"),
        ({"optimiser.freeze": "backbone"}, "optimiser.freeze is 'backbone'; expected a list"),
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
    assert config.optimiser.name == preset.optimiser.name == "adam"
    assert (config.data, config.model) == (preset.data, preset.model)


def test_a_table_among_the_flags_adds_to_the_preset():
    config = resolve("mnist-mnistm", overrides={"data": {"height": 32}, "data.width": 32})
    assert (config.data.source, config.data.height, config.data.width) == ("mnist", 32, 32)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_resolves_and_names_a_known_backbone(name: str):
    config = resolve(name)
    assert (name == "photos") == (not config.data.source) == (not config.data.target), "whose data are the user's"
    assert config.model.backbone in backbone_names()


def test_the_presets_that_are_promised_are_there():
    promised = {
        "cars",
        "mnist-mnistm",
        "mnistm-usps",
        "mnist-usps",
        "svhn-mnist",
        "mnist-svhn",
        "mnistm-svhn",
        "photos",
    }
    assert promised <= set(preset_names())
    assert DEFAULT_PRESET in preset_names()


def test_an_unknown_preset_suggests_the_nearest():
    with pytest.raises(UsageError, match="unknown preset 'mnist-mnist'; did you mean 'mnist-mnistm'"):
        load_preset("mnist-mnist")


# ---- methods ------------------------------------------------------------------------------------------------------


def test_the_methods_that_are_promised_are_there():
    promised = {"dann", "cdan", "mcc", "bnm", "entropy", "vada", "dirt-t", "mean-teacher", "adamatch"}
    assert promised <= set(method_names())


@pytest.mark.parametrize("name", method_names())
def test_every_method_resolves_with_every_preset(name: str):
    for preset in (None, *preset_names()):
        config = resolve(preset, method=name)
        assert config.mode == "dann" and config.objectives.name


def test_every_method_is_another_one():
    found = {name: resolve(method=name) for name in method_names()}
    assert found["dann"].objectives == ObjectivesConfig()
    assert len(set(found.values())) == len(found)
    assert len({config.objectives for config in found.values()}) == len(found)


@pytest.mark.parametrize("name", method_names())
def test_a_method_names_its_source(name: str):
    first = (files("dann.train") / "methods" / f"{name}.toml").read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ") and ("arXiv" in first or "2005" in first)


def test_an_unknown_method_suggests_the_nearest():
    with pytest.raises(UsageError, match="unknown method 'mean_teacher'; did you mean 'mean-teacher'"):
        load_method("mean_teacher")
    with pytest.raises(UsageError, match="unknown method"):
        resolve(method="")


def test_file_and_flags_override_the_method_which_overrides_the_preset(tmp_path: Path):
    file = tmp_path / "mine.toml"
    file.write_text("[objectives]\nmcc_temperature = 3.0\nbnm = 0.5\n", encoding="utf-8")
    config = resolve("mnist-mnistm", file, {"objectives.bnm": 0.25}, method="mcc")
    assert config.objectives == ObjectivesConfig(dann=0.0, mcc=1.0, mcc_temperature=3.0, bnm=0.25)
    assert config.data == resolve("mnist-mnistm").data


def test_epochs_of_a_later_layer_take_the_place_of_steps(tmp_path: Path):
    assert resolve("mnist-mnistm").steps == 8000
    by_flag = resolve("mnist-mnistm", overrides={"epochs": 2})
    file = tmp_path / "mine.toml"
    file.write_text("epochs = 3\n", encoding="utf-8")
    by_file = resolve("mnist-mnistm", file)
    assert [(config.epochs, config.steps) for config in (by_flag, by_file)] == [(2, None), (3, None)]
    file.write_text(to_toml(resolve("mnist-mnistm")), encoding="utf-8")
    assert resolve(file=file).steps == 8000
    assert resolve("mnist-mnistm", file, {"steps": 7}).steps == 7


def test_a_file_may_change_what_is_no_loss_of_a_method(tmp_path: Path):
    file = tmp_path / "mine.toml"
    file.write_text("[objectives]\nwarmup = 0.0\ncdan_entropy = false\n", encoding="utf-8")
    assert resolve(file=file, method="combined").objectives.warmup == 0.0
    assert not resolve(file=file, method="cdan").objectives.cdan_entropy
    file.write_text("[objectives]\nmcc = 0\n", encoding="utf-8")
    with pytest.raises(UsageError, match="method 'combined' is made of objectives.mcc, which is 0"):
        resolve(file=file, method="combined")


def test_the_objectives_of_a_method_take_the_place_of_all_others():
    config = resolve(overrides={"objectives.bnm": 0.5, "optimiser.lr": 0.25, "mode": "source"})
    other = with_method(config, "cdan")
    assert other.objectives == ObjectivesConfig(dann=0.0, cdan=1.0)
    assert (other.mode, other.optimiser, other.data) == ("dann", config.optimiser, config.data)


@pytest.mark.parametrize("name", method_names())
def test_a_method_is_the_same_whichever_way_it_is_chosen(name: str):
    assert with_method(resolve("mnist-mnistm", overrides={"mode": "source"}), name) == resolve(
        "mnist-mnistm", method=name
    )


def test_a_method_may_change_more_than_the_objectives():
    config = resolve("mnist-mnistm", method="adamatch")
    assert (config.model.bn, config.optimiser.ema, config.objectives.warmup) == ("shared", 0.999, 0.5)
    assert config.second_view is not None and config.second_view != config.augment
    assert config.model.backbone == resolve("mnist-mnistm").model.backbone


# ---- written and read back ----------------------------------------------------------------------------------------

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
        "second_view.noise": 0.5,
        "optimiser.freeze": ["backbone", "label_classifier.0"],
        "optimiser.ema": 0.99,
        "objectives.refine_from": 0.0,
        "init_from": "",
    }
)


@pytest.mark.parametrize("config", [TrainConfig(), resolve("cars"), AWKWARD], ids=["default", "cars", "awkward"])
def test_what_is_printed_as_toml_is_read_back_the_same(config: TrainConfig, tmp_path: Path):
    file = tmp_path / "printed.toml"
    file.write_text(to_toml(config), encoding="utf-8", newline="")
    assert resolve(file=file) == config


def test_a_printed_method_is_read_back_the_same(tmp_path: Path):
    for name in method_names():
        (tmp_path / "printed.toml").write_text(to_toml(resolve(method=name)), encoding="utf-8")
        assert resolve(file=tmp_path / "printed.toml") == resolve(method=name)


def test_a_second_view_can_be_set_where_there_was_none():
    assert TrainConfig().second_view is None
    assert resolve(overrides={"second_view.flip": True}).second_view == AugmentConfig(flip=True)


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
