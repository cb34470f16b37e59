"""The verdict passes what is equal and nothing else."""

import dataclasses
import json
import math
from collections.abc import Callable

import numpy as np
import pytest

from dann.infer.verdict import (
    ELSEWHERE,
    STANDARDS,
    Labelled,
    Standard,
    Verdict,
    accuracy_drop,
    compare,
    run_in_batches,
)

IMAGES = np.arange(7, dtype=np.uint8).reshape(7, 1, 1, 1).repeat(3, axis=3)


def answer(images_NHWC: np.ndarray) -> dict[str, np.ndarray]:
    """A classifier of two classes: the first where the pixel is below 3."""
    value_N = images_NHWC[:, 0, 0, 0].astype(np.float32)
    logits_NK = np.stack([np.full_like(value_N, 2.5), value_N], axis=1)
    probabilities_NK = np.exp(logits_NK) / np.exp(logits_NK).sum(1, keepdims=True)
    return {"logits": logits_NK, "probabilities": probabilities_NK, "features": 1000 * value_N[:, None]}


def verdict_on(change: Callable[[dict[str, np.ndarray], int], None]) -> Verdict:
    """On an artefact whose outputs ``change`` alters, given them and the batch size."""

    def execute(images_NHWC: np.ndarray) -> dict[str, np.ndarray]:
        outputs = answer(images_NHWC)
        change(outputs, len(images_NHWC))
        return outputs

    return compare(answer(IMAGES), execute, IMAGES, executor="test 1")


def test_equal_answers_pass():
    verdict = verdict_on(lambda outputs, batch: None)
    assert verdict.passed and verdict.top1_agreement == 1.0 and verdict.images == 7
    assert verdict.max_abs_logit_difference == verdict.max_abs_probability_difference == 0.0
    assert json.loads(json.dumps(verdict.to_dict()))["batch_sizes"] == [1, 2, 3, 32]
    assert str(verdict) == (
        "passed, max |Δ logit| 0.0e+00 (tolerance 1e-04), same top-1 on 7 of 7 images, batches 1, 2, 3, 32, test 1"
    )


@pytest.mark.parametrize(("difference", "passes"), [(0.9e-4, True), (1.2e-4, False), (np.nan, False)])
@pytest.mark.parametrize("output", ["logits", "probabilities"])
def test_tolerance_is_a_ten_thousandth(output: str, difference: float, passes: bool):
    def change(outputs: dict[str, np.ndarray], batch: int) -> None:
        outputs[output][0, 0] += difference

    assert verdict_on(change).passed is passes


@pytest.mark.parametrize(("difference", "passes"), [(0.5, True), (0.7, False)])
def test_features_are_compared_relative_to_the_largest(difference: float, passes: bool):
    def change(outputs: dict[str, np.ndarray], batch: int) -> None:
        outputs["features"] += difference  # of 6000

    assert verdict_on(change).passed is passes


def test_fault_at_one_batch_size_is_found():
    def change(outputs: dict[str, np.ndarray], batch: int) -> None:
        outputs["logits"][batch - 1, 0] += 1.0 if batch == 3 else 0.0

    verdict = verdict_on(change)
    assert not verdict.passed and verdict.max_abs_logit_difference == 1.0
    assert str(verdict).startswith("FAILED, max |Δ logit| 1.0e+00")


def test_answer_that_is_no_number_is_found_at_one_batch_size():
    def change(outputs: dict[str, np.ndarray], batch: int) -> None:
        if batch == 3:
            outputs["probabilities"][0] = np.nan

    assert not verdict_on(change).passed


def test_another_top_1_fails_within_the_tolerance():
    reference = answer(IMAGES)
    reference["logits"][2] = (1.0, np.float32(1.0) + np.float32(1e-6))
    verdict = compare(reference, lambda images: _swapped(reference, images), IMAGES, executor="test 1")
    assert verdict.max_abs_logit_difference < 1e-5
    assert not verdict.passed and verdict.top1_agreement == pytest.approx(6 / 7)


def _swapped(reference: dict[str, np.ndarray], images_NHWC: np.ndarray) -> dict[str, np.ndarray]:
    rows = images_NHWC[:, 0, 0, 0]
    outputs = {name: values[rows].copy() for name, values in reference.items()}
    outputs["logits"][rows == 2] = outputs["logits"][rows == 2][:, ::-1]
    return outputs


def test_verdict_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        verdict_on(lambda outputs, batch: None).passed = False  # pyright: ignore[reportAttributeAccessIssue]


def test_last_batch_is_filled_up_and_cut_again():
    sizes = []

    def execute(images_NHWC: np.ndarray) -> dict[str, np.ndarray]:
        sizes.append(len(images_NHWC))
        return {"logits": images_NHWC[:, 0, 0, :1]}

    assert run_in_batches(execute, IMAGES, 3)["logits"][:, 0].tolist() == list(range(7))
    assert run_in_batches(execute, IMAGES, 32)["logits"][:, 0].tolist() == list(range(7))
    assert sizes == [3, 3, 3, 32]


def in_half(change: Callable[[np.ndarray], None], *, reference: dict[str, np.ndarray] | None = None) -> Verdict:
    """The verdict of fp16 on an artefact whose logits ``change`` alters."""
    expected = answer(IMAGES) if reference is None else reference

    def execute(images_NHWC: np.ndarray) -> dict[str, np.ndarray]:
        outputs = {name: values[images_NHWC[:, 0, 0, 0]].copy() for name, values in expected.items()}
        change(outputs["logits"])
        return outputs

    return compare(expected, execute, IMAGES, executor="test 1", standard=STANDARDS["fp16"])


def test_in_half_precision_any_difference_passes_that_changes_no_class():
    def change(logits_NK: np.ndarray) -> None:
        logits_NK += 0.2

    verdict = in_half(change)
    assert verdict.passed and verdict.tolerance is None and verdict.ties == ()
    assert str(verdict).startswith("passed, max |Δ logit| 2.0e-01, same top-1 on 7 of 7 images, batches")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_in_half_precision_numbers_have_to_be_finite(value: float):
    def change(logits_NK: np.ndarray) -> None:
        logits_NK[:, logits_NK[0].argmax()] = value  # the class stays, at infinity

    assert not in_half(change).passed


def test_in_half_precision_another_class_fails():
    def change(logits_NK: np.ndarray) -> None:
        logits_NK[:] = logits_NK[:, ::-1]

    verdict = in_half(change)
    assert not verdict.passed and verdict.top1_agreement == 0.0


@pytest.mark.parametrize(("lead", "passes"), [(0.02, True), (0.03, False)])  # 6 is the largest logit: 0.0234 is a tie
def test_in_half_precision_ties_are_named_and_not_counted(lead: float, passes: bool):
    reference = answer(IMAGES)
    reference["logits"][2] = 2.0, 2.0 + lead

    def change(logits_NK: np.ndarray) -> None:
        turned = logits_NK[:, 1] == reference["logits"][2, 1]
        logits_NK[turned] = logits_NK[turned][:, ::-1]

    verdict = in_half(change, reference=reference)
    assert verdict.passed is passes and verdict.ties == ((2,) if passes else ())
    assert ("same top-1 on 6 of 6 images (1 more are ties)" in str(verdict)) is passes


def test_nothing_but_ties_is_no_agreement():
    reference = answer(IMAGES)
    reference["logits"][:] = 1.0, 1.001
    verdict = in_half(lambda logits: None, reference=reference)
    assert len(verdict.ties) == 7 and not verdict.passed


# labels ----------------------------------------------------------------------------------------------------------


def labelled(right: int, lost: int, won: int, wrong: int) -> tuple[Labelled, np.ndarray]:
    """Images of two classes, and the logits of an artefact that loses and wins some."""
    count = right + lost + won + wrong
    sure = np.array([[1.0, 0.0]] * count, np.float32)
    before, now = sure.copy(), sure.copy()
    before[right + lost :] = now[right : right + lost] = now[right + lost + won :] = [0.0, 1.0]
    return Labelled(
        images_NHWC=np.zeros((count, 1, 1, 3), np.uint8), labels_N=np.zeros(count, np.int64), logits_NK=before
    ), now


def test_accuracy_drop_is_of_the_same_images_with_an_interval_for_matched_pairs():
    drop = accuracy_drop(*labelled(right=80, lost=12, won=2, wrong=6))
    assert (drop.points, drop.images) == (10.0, 100)
    # Agresti and Min 2005: estimate (b - c) / (n + 2), variance (b + c + 1 - (b - c)^2 / (n + 2)) / (n + 2)^2
    middle, margin = 10 / 102, 1.96 * math.sqrt(15 - 100 / 102) / 102
    assert (drop.low, drop.high) == pytest.approx((100 * (middle - margin), 100 * (middle + margin)))
    assert str(drop) == "accuracy -10.0 points (95 %: -17.0 to -2.6) on 100 labelled images"


def test_no_difference_at_all_still_has_an_interval():
    drop = accuracy_drop(*labelled(right=50, lost=0, won=0, wrong=50))
    assert drop.points == 0 and drop.low < 0 < drop.high and drop.high == pytest.approx(-drop.low)


@pytest.mark.parametrize(("lost", "passes"), [(1, True), (2, False)])
def test_int8_may_lose_one_point_of_accuracy(lost: int, passes: bool):
    known, now = labelled(right=100 - lost, lost=lost, won=0, wrong=0)
    images_NHWC = np.arange(100, dtype=np.uint8).reshape(100, 1, 1, 1).repeat(3, axis=3)
    known = dataclasses.replace(known, images_NHWC=images_NHWC)

    def execute(images: np.ndarray) -> dict[str, np.ndarray]:
        return {"logits": now[images[:, 0, 0, 0]]}

    verdict = compare(
        {"logits": now}, execute, images_NHWC, executor="test", standard=STANDARDS["int8"], labelled=known
    )
    assert verdict.passed is passes and f"{-lost:+.1f} points" in str(verdict)


# elsewhere -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ELSEWHERE)
@pytest.mark.parametrize(("share", "passes"), [(0.9, True), (1.1, False), (np.nan, False)])
def test_on_another_machine_logits_may_differ_by_a_share_of_the_largest(precision: str, share: float, passes: bool):
    logits_NK = np.array([[8.0, 0.0], [-1.0, 5.0], [3.0, 3.0]], np.float32)  # the last is a tie
    other = logits_NK.copy()
    largest = ELSEWHERE[precision].largest_share
    assert largest is not None
    other[:, 1] += 8.0 * share * largest
    images_NHWC = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1).repeat(3, axis=3)
    verdict = compare(
        {"logits": logits_NK},
        lambda images: {"logits": other[images[:, 0, 0, 0]], "probabilities": other[images[:, 0, 0, 0]]},
        images_NHWC,
        executor="test",
        standard=ELSEWHERE[precision],
    )
    assert verdict.passed is passes and verdict.ties == (2,)


def test_where_all_are_ties_bounded_numbers_are_enough_and_nothing_else_is():
    logits_NK = np.zeros((2, 2), np.float32)
    images_NHWC = np.zeros((2, 1, 1, 3), np.uint8)

    def verdict(standard: Standard) -> Verdict:
        return compare(
            {"logits": logits_NK + 1},
            lambda images: {"logits": np.ones((len(images), 2), np.float32)},
            images_NHWC,
            executor="test",
            standard=standard,
        )

    assert verdict(ELSEWHERE["fp16"]).passed and not verdict(STANDARDS["fp16"]).passed
