"""Each warning comes on its case, says what to try, and keeps silent on a run that is well."""

import json
from collections.abc import Sequence

import numpy as np
import pytest

from dann.train.detectors import RunWarning, collapse, domains_stuck, effective_classes, source_lost
from dann.train.selection import Evidence

CLASSES = 5
EVEN = (4, 4, 4, 4, 4)


def evidence(source: Sequence[int], target: Sequence[int], *, confidence: float = 50.0) -> Evidence:
    """So many source labels, and so many confident target predictions, of each class."""
    labels_N, logits_NK = np.repeat(range(CLASSES), source), np.eye(CLASSES)[np.repeat(range(CLASSES), target)]
    return Evidence(
        source_logits_NK=np.eye(CLASSES)[labels_N],
        source_labels_N=labels_N,
        source_features_ND=np.zeros((len(labels_N), 2)),
        target_logits_NK=confidence * logits_NK,
        target_features_ND=np.zeros((len(logits_NK), 2)),
    )


@pytest.mark.parametrize(
    ("shares", "expected"),
    [([0.2] * 5, 5.0), ([1.0, 0.0, 0.0], 1.0), ([0.5, 0.5, 0.0], 2.0), ([0.5, 0.25, 0.25], 2**1.5)],
)
def test_effective_number_of_classes(shares: list[float], expected: float):
    assert effective_classes(np.array(shares)) == pytest.approx(expected)


# ---- collapse -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        (EVEN, (20, 0, 0, 0, 0), "use 1.0 classes, the source's labels 5.0"),
        (EVEN, (0, 10, 0, 10, 0), "use 2.0 classes, the source's labels 5.0"),
        (EVEN, (97, 1, 1, 1, 0), "use 1.2 classes, the source's labels 5.0"),
        ((6, 6, 6, 0, 0), (0, 0, 9, 0, 0), "use 1.0 classes, the source's labels 3.0"),
        ((6, 6, 0, 0, 0), (0, 9, 0, 0, 0), "use 1.0 classes, the source's labels 2.0"),
        ((6, 6, 0, 0, 0), (97, 3, 0, 0, 0), "use 1.1 classes, the source's labels 2.0"),
    ],
    ids=["one of five", "two of five", "others hardly", "one of three", "one of two", "the other hardly"],
)
def test_predictions_of_few_classes_are_a_collapse(source: Sequence[int], target: Sequence[int], said: str):
    warning = collapse(evidence(source, target), 7)
    assert warning is not None and (warning.step, warning.name) == (7, "collapse")
    assert said in warning.message and "Try " in warning.message and "class_balance" in warning.message


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (EVEN, EVEN),
        (EVEN, (10, 10, 10, 2, 0)),
        ((18, 1, 1, 0, 0), (20, 1, 1, 0, 0)),
        ((10, 10, 0, 0, 0), (8, 12, 0, 0, 0)),
    ],
    ids=["all classes", "three and a few more", "as uneven as the source", "as few as the source"],
)
def test_predictions_as_varied_as_the_source_are_no_collapse(source: Sequence[int], target: Sequence[int]):
    assert collapse(evidence(source, target), 7) is None


def test_a_network_that_is_not_certain_yet_has_not_collapsed():
    assert collapse(evidence(EVEN, (20, 0, 0, 0, 0), confidence=0.5), 7) is None


# ---- source accuracy ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accuracies", [[0.9, 0.79], [0.5, 0.95, 0.7], [0.9, 0.9, 0.9, 0.2]])
def test_source_accuracy_far_below_its_best_is_lost(accuracies: list[float]):
    warning = source_lost(accuracies, 7)
    assert warning is not None and (warning.step, warning.name) == (7, "source-lost")
    assert f"fell from {max(accuracies):.3f} to {accuracies[-1]:.3f}" in warning.message and "Try " in warning.message


@pytest.mark.parametrize("accuracies", [[], [0.1], [0.9, 0.81], [0.2, 0.5, 0.9], [0.9, 0.1, 0.95]])
def test_source_accuracy_near_its_best_is_not(accuracies: list[float]):
    assert source_lost(accuracies, 7) is None


# ---- domains ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accuracies", "said"),
    [
        ([1.0, 0.99, 1.0], "is right on 100.0% of the images"),
        ([0.5, 1.0, 1.0, 0.995], "is right on 99.5% of the images"),
        ([0.0, 0.005, 0.01], "is wrong on 99.0% of the images"),
    ],
)
def test_domains_that_are_told_always_or_never_are_stuck(accuracies: list[float], said: str):
    warning = domains_stuck(accuracies, 7)
    assert warning is not None and (warning.step, warning.name) == (7, "domains-stuck")
    assert said in warning.message and "Try " in warning.message


@pytest.mark.parametrize(
    "accuracies", [[], [1.0], [1.0, 1.0], [1.0, 0.98, 1.0], [0.0, 0.02, 0.0], [0.5, 0.5, 0.5], [1.0, 0.0, 1.0]]
)
def test_domains_that_move_are_not(accuracies: list[float]):
    assert domains_stuck(accuracies, 7) is None


def test_a_warning_goes_through_json():
    warning = RunWarning(step=3, name="collapse", message="ümläut")
    assert RunWarning(**json.loads(json.dumps(warning.to_dict()))) == warning
