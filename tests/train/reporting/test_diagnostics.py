"""Diagnostics of features and predictions, against closed forms and against loops."""

import math

import numpy as np
import pytest

from dann.train.evaluate import calibration_error, confidence_bins, evaluation_subset
from dann.train.reporting.diagnostics import (
    class_change,
    proxy_a_distance,
    samples,
    tsne,
    worst_mistakes,
)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# ---- which images ---------------------------------------------------------------------------------------------------


def test_the_subset_is_fixed_sorted_and_without_repetition():
    subset = evaluation_subset(1000, 100, seed=3)
    assert np.array_equal(subset, evaluation_subset(1000, 100, seed=3))
    assert np.array_equal(subset, np.unique(subset)) and len(subset) == 100 and subset.max() < 1000
    assert not np.array_equal(subset, evaluation_subset(1000, 100, seed=4))


@pytest.mark.parametrize("count", [0, 1, 99, 100])
def test_a_small_set_is_taken_whole(count: int):
    assert evaluation_subset(count, 100, seed=0).tolist() == list(range(count))


# ---- t-SNE ----------------------------------------------------------------------------------------------------------


def blobs() -> tuple[np.ndarray, np.ndarray]:
    """Three groups of 20 images that lie apart, and the group of each."""
    group_N = np.repeat([0, 1, 2], 20)
    return normal(60, 8) + 12 * np.eye(8, dtype=np.float32)[group_N], group_N


def test_groups_that_lie_apart_lie_apart_in_the_plane():
    features_ND, group_N = blobs()
    points_N2 = tsne(features_ND)
    distance_NN = np.linalg.norm(points_N2[:, None] - points_N2[None], axis=-1) + np.diag([np.inf] * 60)
    assert points_N2.shape == (60, 2)
    assert np.array_equal(group_N[distance_NN.argmin(axis=1)], group_N)


def test_the_same_features_give_the_same_plane():
    features_ND, _ = blobs()
    assert np.array_equal(tsne(features_ND), tsne(features_ND))


def test_the_unit_of_a_feature_does_not_matter():
    features_ND, _ = blobs()
    scaled_ND = features_ND.astype(np.float64) * 2.0 ** np.arange(8)  # exact, and so is every difference that follows
    assert np.allclose(tsne(features_ND), tsne(scaled_ND), atol=1e-3)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 7])
@pytest.mark.parametrize("width", [1, 2, 5])
def test_few_images_and_few_features_have_a_place(count: int, width: int):
    points_N2 = tsne(normal(count, width))
    assert points_N2.shape == (count, 2) and np.isfinite(points_N2).all()


def test_images_that_all_look_the_same_have_a_place():
    points_N2 = tsne(np.ones((40, 3), np.float32))
    assert points_N2.shape == (40, 2) and np.isfinite(points_N2).all()


# ---- A-distance -----------------------------------------------------------------------------------------------------


def distance(source_ND: np.ndarray, target_ND: np.ndarray) -> tuple[float, float]:
    found = proxy_a_distance(source_ND, target_ND, seed=0)
    assert found is not None
    assert found.distance == pytest.approx(2 * (1 - 2 * min(found.error, 0.5)))
    return found.error, found.distance


def test_domains_that_lie_apart_have_the_largest_distance():
    assert distance(normal(100, 4), normal(100, 4, seed=1) + 20) == (0.0, 2.0)


def test_the_error_is_that_of_the_best_line_between_two_normal_distributions():
    shift = 1.0
    best = 0.5 * math.erfc(shift / 2 / math.sqrt(2))  # Φ(−shift / 2)
    error, _ = distance(normal(20_000, 1), normal(20_000, 1, seed=1) + shift)
    assert error == pytest.approx(best, abs=0.01)


def test_domains_that_are_the_same_have_almost_none():
    _, found = distance(normal(4000, 4), normal(4000, 4, seed=1))
    assert found < 0.1


def test_more_features_than_images_do_not_make_domains_differ():
    error, _ = distance(normal(200, 2000), normal(200, 2000, seed=1))  # a line that was measured in training has 0
    assert error == pytest.approx(0.5, abs=0.15)


def test_the_larger_domain_is_not_the_better_guess():
    error, _ = distance(normal(200, 2), normal(4000, 2, seed=1))  # always saying "target" would err on 5 %
    assert error == pytest.approx(0.5, abs=0.15)


def test_an_error_worse_than_chance_is_no_negative_distance():
    same_ND = np.array([[0.0], [1.0]] * 10)
    found = [proxy_a_distance(same_ND, same_ND, seed) for seed in range(20)]
    assert max(entry.error for entry in found if entry) > 0.5
    assert min(entry.distance for entry in found if entry) == 0


@pytest.mark.parametrize(("source", "target", "enough"), [(0, 5, False), (1, 5, False), (5, 1, False), (2, 2, True)])
def test_two_images_of_each_domain_are_needed(source: int, target: int, enough: bool):
    assert (proxy_a_distance(normal(source, 3), normal(target, 3), seed=0) is not None) == enough


# ---- classes and predictions ----------------------------------------------------------------------------------------


def test_the_change_of_a_class_needs_images_of_it_on_both_sides():
    before = {"a": 0.5, "b": None, "c": 0.25}
    after = {"a": 0.75, "b": 0.5, "c": None, "d": 1.0}
    assert class_change(before, after) == {"a": 0.25, "b": None, "c": None, "d": None}


def logits_and_labels(count: int = 200, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    return 3 * normal(count, classes), np.random.default_rng(1).integers(0, classes, count)


def test_the_worst_mistakes_are_the_most_confident_wrong_ones():
    logits_NK, labels_N = logits_and_labels()
    expected = []
    for index, (row, label) in enumerate(zip(logits_NK.astype(float), labels_N, strict=True)):
        odds = [math.exp(value) for value in row]
        if max(odds) != odds[label]:
            expected.append((-max(odds) / sum(odds), index, int(label), odds.index(max(odds))))
    found = worst_mistakes(logits_NK, labels_N, 10)
    assert [(p.index, p.true, p.predicted) for p in found] == [entry[1:] for entry in sorted(expected)[:10]]
    assert [p.probability for p in found] == pytest.approx([-entry[0] for entry in sorted(expected)[:10]])


def test_without_mistakes_there_is_no_worst_one():
    assert worst_mistakes(np.eye(3), np.arange(3), 10) == []


def test_samples_show_every_predicted_class_from_doubtful_to_sure():
    logits_NK, labels_N = logits_and_labels()
    found = samples(logits_NK, labels_N, 40)
    assert len({prediction.index for prediction in found}) == 40
    assert found == samples(logits_NK, labels_N, 40)
    for label in range(4):
        confidence = [prediction.probability for prediction in found if prediction.predicted == label]
        assert len(confidence) >= 5 and confidence == sorted(confidence)
        assert confidence[0] < 0.7 and confidence[-1] > 0.95
    assert all(prediction.true == labels_N[prediction.index] for prediction in found)


def test_samples_need_no_labels_and_no_more_images_than_there_are():
    found = samples(np.eye(3), None, 40)
    assert [(prediction.index, prediction.true) for prediction in found] == [(0, None), (1, None), (2, None)]


def test_the_bins_of_confidence_add_up_to_the_calibration_error():
    logits_NK, labels_N = logits_and_labels(1000)
    bins = confidence_bins(logits_NK, labels_N)
    assert sum(entry.images for entry in bins) == 1000
    gap = sum(entry.images * abs(entry.confidence - entry.accuracy) for entry in bins) / 1000
    assert gap == pytest.approx(calibration_error(logits_NK, labels_N))
    assert [entry.confidence for entry in bins] == sorted(entry.confidence for entry in bins)


def test_confidence_is_binned_by_fifteenths():
    probability_N = np.array([0.5, 0.92, 0.94, 1 - 1e-12])  # in the bins 7, 13, 14, 14 of 15
    logits_NK = np.log(np.stack([probability_N, 1 - probability_N], axis=1))
    bins = confidence_bins(logits_NK, np.array([0, 0, 1, 0]))
    assert [(entry.images, entry.accuracy) for entry in bins] == [(1, 1.0), (1, 1.0), (2, 0.5)]
    assert [entry.confidence for entry in bins] == pytest.approx([0.5, 0.92, 0.97])
