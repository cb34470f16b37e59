"""Settings: what is impossible or contradicts itself is refused, by a message; the defaults are not."""

import dataclasses
from typing import Any, get_args

import pytest

from dann.infer.errors import UsageError
from dann.train.backbones import backbone_names
from dann.train.selection import CRITERIA, LAST
from dann.train.settings import (
    AdaptConfig,
    AugmentConfig,
    Criterion,
    DataConfig,
    ModelConfig,
    ObjectivesConfig,
    OptimiserConfig,
    SelectionConfig,
    TrainConfig,
)

NAN = float("nan")
OUT_OF_RANGE: list[tuple[type, dict[str, Any], str]] = [
    (DataConfig, {"holdout": -0.1}, "data.holdout is -0.1; expected a value from 0.0 to 0.5"),
    (DataConfig, {"holdout": 0.6}, "data.holdout is 0.6"),
    (DataConfig, {"height": 0}, "data.height is 0; expected a value from 1 to 8192"),
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
    (OptimiserConfig, {"head_lr_factor": 0.0}, "optimiser.head_lr_factor is 0.0"),
    (OptimiserConfig, {"ema": 1.0}, "optimiser.ema is 1.0"),
    (ObjectivesConfig, {"mcc": -1.0}, "objectives.mcc is -1.0"),
    (ObjectivesConfig, {"bnm": NAN}, "objectives.bnm is nan"),
    (ObjectivesConfig, {"mcc_temperature": 0.0}, "objectives.mcc_temperature is 0.0"),
    (ObjectivesConfig, {"vat_radius": 0.0}, "objectives.vat_radius is 0.0"),
    (ObjectivesConfig, {"confidence": 1.5}, "objectives.confidence is 1.5"),
    (ObjectivesConfig, {"adamatch_tau": -0.1}, "objectives.adamatch_tau is -0.1"),
    (ObjectivesConfig, {"warmup": 2.0}, "objectives.warmup is 2.0"),
    (ObjectivesConfig, {"refine": -1.0}, "objectives.refine is -1.0"),
    (ObjectivesConfig, {"refine_from": 1.5}, "objectives.refine_from is 1.5"),
    (SelectionConfig, {"gate": -0.1}, "selection.gate is -0.1"),
    (SelectionConfig, {"images": 0}, "selection.images is 0"),
    (AdaptConfig, {"lam_max": -1.0}, "adapt.lam_max is -1.0"),
    (AugmentConfig, {"shift": 0.6}, "shift of [augment] or [second_view] is 0.6"),
    (AugmentConfig, {"scale": 1.0}, "scale of [augment] or [second_view] is 1.0"),
    (AugmentConfig, {"rotate_deg": 181.0}, "rotate_deg of [augment] or [second_view] is 181.0"),
    (AugmentConfig, {"noise": -0.1}, "noise of [augment] or [second_view] is -0.1"),
    (TrainConfig, {"seed": -1}, "seed is -1"),
    (TrainConfig, {"epochs": 0}, "epochs is 0"),
    (TrainConfig, {"steps": 0}, "steps is 0"),
    (TrainConfig, {"batch_size": 1}, "batch_size is 1"),
    (TrainConfig, {"eval_every": -1}, "eval_every is -1"),
    (TrainConfig, {"accumulate": 0}, "accumulate is 0"),
    (TrainConfig, {"save_every": 0}, "save_every is 0"),
]


@pytest.mark.parametrize(("cls", "values", "message"), OUT_OF_RANGE)
def test_impossible_values_are_refused(cls: type, values: dict[str, Any], message: str):
    with pytest.raises(UsageError) as caught:
        cls(**values)
    assert message in str(caught.value)


@pytest.mark.parametrize("cls", sorted({cls for cls, *_ in OUT_OF_RANGE}, key=str))
def test_the_defaults_are_accepted(cls: type):
    assert cls() == cls()


def test_the_default_backbone_exists():
    assert ModelConfig().backbone in backbone_names()


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().seed = 3  # type: ignore[misc]


def test_every_criterion_can_be_asked_for():
    assert set(get_args(Criterion)) == {LAST, *CRITERIA}


# ---- contradictions -----------------------------------------------------------------------------------------------

NOTHING = ObjectivesConfig(dann=0.0)


def test_two_uses_of_the_one_domain_classifier_are_refused():
    with pytest.raises(UsageError, match="objectives.dann and objectives.cdan are both switched on.*set one to 0"):
        ObjectivesConfig(cdan=1.0)


def test_adapting_without_an_objective_is_refused():
    with pytest.raises(UsageError, match=r"every weight in \[objectives\] is 0: nothing adapts"):
        TrainConfig(objectives=NOTHING)


@pytest.mark.parametrize("settings", [{"mean_teacher": 1.0}, {"refine_from": 0.5}, {"refine_from": 0.0}])
def test_a_teacher_that_is_not_kept_is_refused(settings: dict[str, float]):
    objectives = ObjectivesConfig(**settings)  # type: ignore[arg-type]
    with pytest.raises(
        UsageError, match=f"objectives.{next(iter(settings))} needs averaged weights; set optimiser.ema"
    ):
        TrainConfig(objectives=objectives)
    TrainConfig(objectives=objectives, optimiser=OptimiserConfig(ema=0.99))


def test_a_refinement_that_nothing_holds_is_refused():
    with pytest.raises(UsageError, match="objectives.refine_from is set and objectives.refine is 0"):
        TrainConfig(objectives=ObjectivesConfig(refine_from=0.5, refine=0.0), optimiser=OptimiserConfig(ema=0.9))
    TrainConfig(objectives=ObjectivesConfig(refine=0.0))


@pytest.mark.parametrize("mode", ["source", "target"])
@pytest.mark.parametrize("objectives", [NOTHING, ObjectivesConfig(mean_teacher=1.0)])
def test_objectives_are_of_no_matter_where_nothing_adapts(mode: Any, objectives: ObjectivesConfig):
    assert not TrainConfig(mode=mode, objectives=objectives).adversarial


# ---- what is switched on ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ObjectivesConfig().weights())
def test_each_loss_alone_is_something_that_adapts(name: str):
    objectives = ObjectivesConfig(**{"dann": 0.0, name: 0.5})  # type: ignore[arg-type]
    assert objectives.name == name
    assert objectives.weights() == {**dict.fromkeys(objectives.weights(), 0.0), name: 0.5}
    assert TrainConfig(objectives=objectives, optimiser=OptimiserConfig(ema=0.9)).objectives == objectives


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "dann"),
        ({"dann": 0.0, "cdan": 0.5}, "cdan"),
        ({"vat_target": 0.01, "entropy": 0.01}, "dann+entropy+vat_target"),
        ({"dann": 0.0, "mcc": 1.0, "refine_from": 0.0}, "mcc+refine"),
        ({"dann": 0.0}, ""),
    ],
)
def test_the_name_says_what_is_switched_on(settings: dict[str, float], name: str):
    assert ObjectivesConfig(**settings).name == name  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "adversarial", "second_view"),
    [
        ({}, True, False),
        ({"dann": 0.0, "cdan": 1.0}, True, False),
        ({"dann": 0.0, "mcc": 1.0}, False, False),
        ({"mean_teacher": 1.0}, True, True),
        ({"dann": 0.0, "adamatch": 1.0}, False, True),
    ],
)
def test_what_the_objectives_need(settings: dict[str, float], adversarial: bool, second_view: bool):
    objectives = ObjectivesConfig(**settings)  # type: ignore[arg-type]
    assert (objectives.adversarial, objectives.second_view) == (adversarial, second_view)
    assert TrainConfig(objectives=objectives, optimiser=OptimiserConfig(ema=0.9)).adversarial is adversarial
