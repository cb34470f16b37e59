"""λ and learning-rate schedules against the formulas of the papers."""

import math

import pytest

from dann.train.schedule import LAM_SCHEDULES, LR_SCHEDULES, adamatch_warmup, linear_warmup


@pytest.mark.parametrize(
    ("name", "values"),
    {
        # 2 / (1 + exp(−10 p)) − 1, arXiv 1505.07818 section 5.2.2
        "dann": (0.0, 2 / (1 + math.exp(-5)) - 1, 2 / (1 + math.exp(-10)) - 1),
        "constant": (1.0, 1.0, 1.0),
        "linear": (0.0, 0.5, 1.0),
    }.items(),
)
def test_lam(name: str, values: tuple[float, ...]):
    assert [LAM_SCHEDULES[name](p) for p in (0.0, 0.5, 1.0)] == pytest.approx(values, abs=1e-15)


@pytest.mark.parametrize(
    ("name", "values"),
    {
        # 1 / (1 + 10 p)^0.75, the same section
        "dann": (1.0, 1 / 6**0.75, 1 / 11**0.75),
        "constant": (1.0, 1.0, 1.0),
        "cosine": (1.0, 0.5, 0.0),
    }.items(),
)
def test_learning_rate(name: str, values: tuple[float, ...]):
    assert [LR_SCHEDULES[name](p) for p in (0.0, 0.5, 1.0)] == pytest.approx(values, abs=1e-15)


def test_the_values_that_the_docstrings_round():
    assert LAM_SCHEDULES["dann"](1.0) == pytest.approx(0.9999, abs=1e-5)
    assert LR_SCHEDULES["dann"](1.0) == pytest.approx(0.166, abs=1e-3)


def test_the_warmup_rises_as_half_a_cosine_over_its_share():
    # 0.5 − cos(min(π, 2 π k / K)) / 2, arXiv 2106.04732 section 3.5, where the share is one half
    assert [adamatch_warmup(p, 0.5) for p in (0.0, 0.125, 0.25, 0.5, 1.0)] == pytest.approx(
        [0.0, 0.5 - math.cos(math.pi / 4) / 2, 0.5, 1.0, 1.0], abs=1e-15
    )


def test_the_learning_rate_rises_in_a_straight_line():
    assert [linear_warmup(p, 0.2) for p in (0.0, 0.05, 0.2, 1.0)] == pytest.approx([0.0, 0.25, 1.0, 1.0])


def test_without_a_share_there_is_no_warmup():
    for warmup in (adamatch_warmup, linear_warmup):
        assert warmup(0.0, 0.0) == warmup(1.0, 0.0) == 1.0
