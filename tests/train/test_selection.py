"""Criteria of selection against independent references, and the rules by which a step is selected."""

import json
import math
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dann.infer.errors import DannError, UsageError
from dann.train import selection
from dann.train.selection import (
    CRITERIA,
    LAST,
    Evidence,
    Selector,
    bnm,
    dev,
    dev_risk,
    entropy,
    importance_weights,
    information_maximisation,
    score_all,
    snd,
    source_accuracy,
)

SCALES = [0.0, 0.3, 3.0, 30.0, 1e4]


def evidence(*, target: np.ndarray | None = None, images: int = 40, **arrays: Any) -> Evidence:
    """Random evidence of 3 classes and 4 features; ``target`` are its target logits."""
    rng = np.random.default_rng(5)
    target = rng.normal(0, 3, (images, 3)) if target is None else target
    count, classes = target.shape
    given = {
        "source_logits_NK": rng.normal(0, 3, (images, classes)),
        "source_labels_N": rng.integers(0, classes, images),
        "source_features_ND": rng.normal(0, 1, (images, 4)),
        "target_logits_NK": target,
        "target_features_ND": rng.normal(0.5, 1, (count, 4)),
        "source_train_features_ND": rng.normal(0, 1, (images, 4)),
    }
    return Evidence(**given | arrays)


def probabilities(logits_NK: np.ndarray) -> list[list[float]]:
    """The softmax, image by image, in plain Python."""
    rows = []
    for row in logits_NK.tolist():
        odds = [math.exp(logit - max(row)) for logit in row]
        rows.append([o / sum(odds) for o in odds])
    return rows


def entropy_of(row: list[float]) -> float:
    return -sum(p * math.log(p) for p in row if p > 0)


def logits_of(*predicted: int, classes: int = 3, confidence: float = 0.99) -> np.ndarray:
    """Logits that give each image's predicted class ``confidence``, and the others the rest in equal shares."""
    shares = np.full((len(predicted), classes), (1 - confidence) / (classes - 1))
    shares[np.arange(len(predicted)), predicted] = confidence
    return np.log(shares)


CONFIDENT = logits_of(0, 1, 2, 0, 1, 2)
COLLAPSED = logits_of(1, 1, 1, 1, 1, 1)
UNIFORM = np.zeros((6, 3))


# --- the criteria


def test_source_accuracy_counts_the_right_ones():
    logits = np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0], [0.0, 9.0]])
    found = source_accuracy(
        evidence(target=np.zeros((5, 2)), images=4, source_logits_NK=logits, source_labels_N=[0, 1, 1, 1])
    )
    assert found == 0.75


@pytest.mark.parametrize("scale", SCALES)
def test_entropy_and_information_maximisation_against_plain_python(scale: float):
    logits = np.random.default_rng(0).normal(0, 1, (50, 4)) * scale
    rows = probabilities(logits)
    conditional = sum(map(entropy_of, rows)) / len(rows)
    marginal = entropy_of([sum(column) / len(rows) for column in zip(*rows, strict=True)])
    assert entropy(evidence(target=logits)) == pytest.approx(-conditional, abs=1e-9)
    assert information_maximisation(evidence(target=logits)) == pytest.approx(marginal - conditional, abs=1e-9)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", [(50, 4), (3, 7), (1, 2)])
def test_bnm_is_the_sum_of_singular_values_over_its_largest(shape: tuple[int, int], scale: float):
    logits = np.random.default_rng(1).normal(0, 1, shape) * scale
    singular = np.linalg.svd(np.array(probabilities(logits)), compute_uv=False)
    largest = math.sqrt(shape[0] * min(shape))
    assert bnm(evidence(target=logits)) == pytest.approx(singular.sum() / largest, rel=1e-9)


def test_bnm_has_the_documented_range_and_does_not_depend_on_the_number_of_images():
    for repeats in (1, 50):
        scores = [bnm(evidence(target=np.tile(logits, (repeats, 1)))) for logits in (CONFIDENT, COLLAPSED, UNIFORM)]
        certain = bnm(evidence(target=np.tile(np.eye(3) * 1e4, (repeats, 1))))
        assert certain == pytest.approx(1.0)
        assert scores == [pytest.approx(0.99, abs=1e-6), pytest.approx(3**-0.5, rel=0.02), pytest.approx(1 / 3)]


def plain_snd(logits_NK: np.ndarray) -> float:
    rows, entropies = probabilities(logits_NK), []
    for i, one in enumerate(rows):
        odds = []
        for j, other in enumerate(rows):
            if j != i:
                cosine = sum(a * b for a, b in zip(one, other, strict=True)) / math.hypot(*one) / math.hypot(*other)
                odds.append(math.exp(cosine / 0.05))
        entropies.append(entropy_of([o / sum(odds) for o in odds]))
    return sum(entropies) / len(entropies)


@pytest.mark.parametrize("scale", SCALES)
def test_snd_against_a_double_loop(scale: float):
    logits = np.random.default_rng(2).normal(0, 1, (30, 4)) * scale
    assert snd(evidence(target=logits)) == pytest.approx(plain_snd(logits), rel=1e-9)


@pytest.mark.parametrize("entries", [1, 100, 37 * 37 - 1, 10**6])
def test_snd_in_blocks_is_snd_in_one(monkeypatch: pytest.MonkeyPatch, entries: int):
    logits = np.random.default_rng(3).normal(0, 2, (37, 4))
    monkeypatch.setattr(selection, "_BLOCK_ENTRIES", entries)
    assert snd(evidence(target=logits)) == pytest.approx(plain_snd(logits), rel=1e-9)


def test_snd_never_holds_the_whole_matrix():
    many = evidence(target=np.random.default_rng(4).normal(0, 2, (4000, 3)))
    tracemalloc.start()
    snd(many)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 16e6 < 4000 * 4000 * 8


def test_confident_and_balanced_beats_saying_nothing():
    for criterion in (entropy, information_maximisation, bnm):
        assert criterion(evidence(target=CONFIDENT)) > criterion(evidence(target=UNIFORM))


def test_collapse_onto_one_class_is_seen_by_im_and_bnm_but_not_by_entropy_and_snd():
    collapsed, balanced = evidence(target=COLLAPSED), evidence(target=CONFIDENT)
    assert information_maximisation(collapsed) < information_maximisation(balanced)
    assert bnm(collapsed) < bnm(balanced)
    assert entropy(collapsed) == pytest.approx(entropy(balanced))
    assert snd(collapsed) == pytest.approx(math.log(5)) and snd(collapsed) > snd(balanced)


@pytest.mark.parametrize("name", sorted(set(CRITERIA) - {"dev"}))
def test_the_order_of_images_does_not_matter(name: str):
    some = evidence()
    order = np.random.default_rng(6).permutation(40)
    shuffled = replace(
        some,
        source_logits_NK=some.source_logits_NK[order],
        source_labels_N=some.source_labels_N[order],
        target_logits_NK=some.target_logits_NK[order],
    )
    assert CRITERIA[name](shuffled) == pytest.approx(CRITERIA[name](some), rel=1e-12)


def test_the_order_of_weighted_images_does_not_matter_to_dev():
    some = evidence()
    order = np.random.default_rng(6).permutation(40)
    moved = {name: getattr(some, name)[order] for name in ("source_logits_NK", "source_labels_N", "source_features_ND")}
    assert dev(replace(some, **moved)) == pytest.approx(dev(some), rel=1e-12)


def test_scores_do_not_depend_on_the_precision_of_the_logits():
    single = evidence(target=CONFIDENT.astype(np.float32))
    assert score_all(single)["im"] == pytest.approx(score_all(evidence(target=CONFIDENT))["im"], rel=1e-6)
    assert score_all(single)["snd"] == pytest.approx(score_all(evidence(target=CONFIDENT))["snd"], rel=1e-6)


@pytest.mark.parametrize("images", [1, 2, 7])
@pytest.mark.parametrize("logits", [[0.0, 0.0], [1e4, -1e4], [-1e4, 1e4]])
def test_extremes_give_numbers_in_range(images: int, logits: list[float]):
    scores = score_all(evidence(target=np.tile(np.array(logits, np.float32), (images, 1)), images=images))
    assert list(scores) == list(CRITERIA)
    assert all(isinstance(score, float) for score in scores.values())
    assert -math.log(2) - 1e-12 <= scores["entropy"] <= 0
    assert scores["im"] == pytest.approx(0, abs=1e-12)
    assert 0.5 - 1e-12 <= scores["bnm"] <= 1 + 1e-12
    assert math.isnan(scores["snd"]) if images == 1 else scores["snd"] == pytest.approx(math.log(max(images - 1, 1)))
    assert math.isnan(scores["dev"]) == (images < 5)


# --- deep embedded validation


def transcribed_dev_risk(weights: list[float], errors: list[float]) -> float:
    count = len(weights)
    losses = [w * e for w, e in zip(weights, errors, strict=True)]
    mean_loss, mean_weight = sum(losses) / count, sum(weights) / count
    covariance = sum((a - mean_loss) * (b - mean_weight) for a, b in zip(losses, weights, strict=True)) / (count - 1)
    variance = sum((b - mean_weight) ** 2 for b in weights) / (count - 1)
    eta = -covariance / variance
    return mean_loss + eta * mean_weight - eta


@given(st.lists(st.tuples(st.floats(0.01, 20), st.booleans()), min_size=2, max_size=30))
def test_the_risk_for_known_weights_against_the_papers_algorithm(pairs: list[tuple[float, bool]]):
    weights, errors = [w for w, _ in pairs], [float(e) for _, e in pairs]
    if max(weights) - min(weights) > 1e-3:
        found = dev_risk(np.array(weights), np.array(errors))
        assert found == pytest.approx(transcribed_dev_risk(weights, errors), rel=1e-6, abs=1e-6)


def test_the_risk_of_equal_weights_is_the_error():
    assert dev_risk(np.full(10, 0.7), np.arange(10) < 3) == pytest.approx(0.7 * 0.3)


def test_the_risk_of_a_network_that_is_always_wrong_is_one_whatever_the_weights():
    assert dev_risk(np.random.default_rng(0).uniform(0, 3, 50), np.ones(50)) == pytest.approx(1.0)


@pytest.mark.parametrize("sources", [4_000, 12_000])
def test_weights_are_the_density_ratio_of_two_gaussians_however_many_images_each_has(sources: int):
    rng = np.random.default_rng(7)
    shift, scale = np.array([0.8, -0.4, 0.0]), np.array([0.01, 10.0, 1.0])  # the scale must not matter
    at = rng.normal(0, 1, (500, 3))
    source, target = rng.normal(0, 1, (sources, 3)), rng.normal(0, 1, (6_000, 3)) + shift
    found = importance_weights(source * scale, target * scale, at * scale)
    expected = np.exp(at @ shift - shift @ shift / 2)
    assert found.shape == (500,)
    np.testing.assert_allclose(np.log(found), np.log(expected), atol=0.3)


def test_weights_stay_near_one_where_domains_are_alike_and_features_many():
    rng = np.random.default_rng(8)
    source, target, at = (rng.normal(0, 1, (200, 150)) for _ in range(3))
    weights = importance_weights(source, target, at)
    assert weights.mean() == pytest.approx(1, abs=0.1) and weights.max() < 2


def test_dev_estimates_the_error_on_a_shifted_target():
    rng = np.random.default_rng(9)
    held_out, train, target = rng.normal(0, 1, (4000, 1)), rng.normal(0, 1, (4000, 1)), rng.normal(1, 1, (4000, 1))
    wrong = held_out[:, 0] > 1  # so half of the target would be wrong, but a sixth of the source is
    shifted = evidence(
        target=np.zeros((4000, 2)),
        source_logits_NK=np.tile([1.0, 0.0], (4000, 1)),
        source_labels_N=wrong.astype(int),
        source_features_ND=held_out,
        target_features_ND=target,
        source_train_features_ND=train,
    )
    assert source_accuracy(shifted) == pytest.approx(0.84, abs=0.02)
    assert -dev(shifted) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("held_out", [0.0, 1e30])
@pytest.mark.parametrize("target", [0.0, 1.0, 1e30])
def test_dev_copes_with_dead_features_and_domains_far_apart(target: float, held_out: float):
    levels = {"source_train_features_ND": 0.0, "target_features_ND": target, "source_features_ND": held_out}
    dead = {name: np.full((40, 4), level, np.float32) for name, level in levels.items()}
    assert math.isfinite(dev(replace(evidence(), **dead)))


def test_dev_is_silent_about_fits_that_do_not_converge():
    rng = np.random.default_rng(0)
    mixing = rng.normal(0, 1, (64, 400))
    source, target = (np.maximum(rng.normal(mean, 1, (1000, 64)) @ mixing, 0) for mean in (0.0, 0.3))
    assert np.isfinite(importance_weights(source, target, source)).all()


def test_without_training_features_there_is_no_dev():
    scores = score_all(evidence(source_train_features_ND=None))
    assert [name for name, score in scores.items() if math.isnan(score)] == ["dev"]


# --- evidence


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    "name",
    ["source_logits_NK", "target_logits_NK", "source_features_ND", "target_features_ND", "source_train_features_ND"],
)
def test_values_that_are_not_finite_are_refused(name: str, value: float):
    broken = getattr(evidence(), name).copy()
    broken[-1, -1] = value
    with pytest.raises(
        DannError, match=f"{'logits' if 'logits' in name else 'features'} are not finite: it has diverged"
    ):
        replace(evidence(), **{name: broken})


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("source_logits_NK", np.zeros((39, 3))),
        ("source_logits_NK", np.zeros((40, 2))),
        ("source_features_ND", np.zeros((40, 5))),
        ("source_train_features_ND", np.zeros((40, 5))),
        ("source_train_features_ND", np.zeros((0, 4))),
        ("target_logits_NK", np.zeros(40)),
        ("target_features_ND", np.zeros((39, 4))),
    ],
)
def test_arrays_that_do_not_fit_are_refused(name: str, array: np.ndarray):
    with pytest.raises(UsageError, match="has the shape .*; expected"):
        replace(evidence(), **{name: array})


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_of_no_class_are_refused(label: int):
    with pytest.raises(UsageError, match="other than 0 … 2"):
        replace(evidence(), source_labels_N=np.full(40, label))


# --- the selector


def offered(selector: Selector, *scores: tuple[float, float]) -> list[bool]:
    """Offer steps 1, 2, … with (source accuracy, im); whether each was selected."""
    step = selector.offers[-1].step if selector.offers else 0
    return [
        selector.offer(step + n, {"source-accuracy": accuracy, "im": im})
        for n, (accuracy, im) in enumerate(scores, start=1)
    ]


def test_the_best_score_is_selected():
    selector = Selector("im")
    assert selector.selected is None and selector.choices() == {}
    assert offered(selector, (0.9, 1.0), (0.9, 2.0), (0.9, 1.5)) == [True, True, False]
    assert selector.selected == 2


def test_of_equals_the_later_is_selected():
    assert offered(Selector("im"), (0.9, 1.0), (0.9, 1.0)) == [True, True]


def test_last_selects_the_newest_whatever_its_scores():
    assert offered(Selector(LAST), (0.9, 2.0), (0.1, 1.0), (0.0, math.nan)) == [True, True, True]


def test_a_step_below_the_gate_is_not_selected():
    assert offered(Selector("im", gate=0.05), (0.9, 1.0), (0.84, 5.0), (0.86, 4.0)) == [True, False, True]


def test_the_gate_is_five_points_unless_said_otherwise():
    assert offered(Selector("im"), (0.9, 1.0), (0.845, 5.0), (0.855, 4.0)) == [True, False, True]


def test_the_gate_includes_its_edge():
    assert offered(Selector("im", gate=0.25), (1.0, 1.0), (0.75, 2.0)) == [True, True]
    assert offered(Selector("im", gate=0.0), (1.0, 1.0), (1.0, 2.0)) == [True, True]


def test_a_selected_step_that_falls_below_the_gate_gives_way_to_one_above_it():
    selector = Selector("im", gate=0.05)
    assert offered(selector, (0.5, 9.0), (0.9, 1.0), (0.9, 0.5)) == [True, True, False]


def test_what_was_passed_over_does_not_come_back():
    # step 2 would now be the best above the gate, but its weights are gone
    selector = Selector("im", gate=0.05)
    assert offered(selector, (0.86, 3.0), (0.90, 2.0), (0.95, 1.0)) == [True, False, True]


def test_while_no_step_passes_the_gate_the_score_decides():
    selector = Selector("im", gate=0.05)
    assert offered(selector, (0.99, math.nan), (0.5, 1.0), (0.6, 0.5), (0.5, 1.5)) == [True, True, False, True]


def test_a_score_that_is_not_a_number_is_never_selected_over_one_that_is():
    for none in (math.nan, math.inf, -math.inf):
        assert offered(Selector("im"), (0.9, none), (0.9, none)) == [True, True]
        assert offered(Selector("im"), (0.9, -5.0), (0.9, none)) == [True, False]
        assert offered(Selector("im"), (0.9, none), (0.2, -5.0), (0.9, none)) == [True, True, False]


def test_a_score_that_was_not_offered_counts_as_not_a_number():
    selector = Selector("dev")
    assert offered(selector, (0.9, 1.0), (0.9, 0.5)) == [True, True]
    assert selector.choices() == {"last": 2, "source-accuracy": 2, "im": 1, "dev": 2}


def test_choices_follow_each_criterion_behind_the_same_gate():
    selector = Selector("entropy", gate=0.05)
    for step, source, conditional, im in [(10, 0.9, -1.0, 0.1), (20, 0.8, -0.1, 3.0), (30, 0.88, -0.5, 0.05)]:
        selector.offer(step, {"source-accuracy": source, "entropy": conditional, "im": im, "dev": math.nan})
    assert selector.choices() == {"last": 30, "source-accuracy": 10, "entropy": 30, "im": 10}


def test_an_unknown_criterion_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="unknown selection criterion 'entropie'; did you mean 'entropy'"):
        Selector("entropie")


@pytest.mark.parametrize("gate", [-0.1, 1.1, math.nan])
def test_an_impossible_gate_is_refused(gate: float):
    with pytest.raises(UsageError, match="gate is .*; expected a value from 0.0 to 1.0"):
        Selector("im", gate)


def test_a_step_out_of_order_is_noticed():
    selector = Selector("im")
    selector.offer(5, {"im": 1.0})
    with pytest.raises(AssertionError, match="step 5 was offered after 5"):
        selector.offer(5, {"im": 1.0})


class OnDisk:
    """The rule as it is stated, kept by one who has nothing but the selected step's scores and the best accuracy."""

    def __init__(self, criterion: str, gate: float):
        self.criterion, self.gate, self.best = criterion, gate, -math.inf
        self.kept: dict[str, float] | None = None

    def offer(self, scores: dict[str, float]) -> bool:
        new = {
            "accuracy": scores["source-accuracy"],
            "score": scores.get(self.criterion, math.nan),
        }
        self.best = max(self.best, new["accuracy"])
        if self.kept is None or self.criterion == LAST or not self._worse(new, self.kept):
            self.kept = new
            return True
        return False

    def _worse(self, new: dict[str, float], kept: dict[str, float]) -> bool:
        if math.isnan(new["score"]) or math.isnan(kept["score"]):
            return math.isnan(new["score"]) and not math.isnan(kept["score"])
        new_passes, kept_passes = (one["accuracy"] >= self.best - self.gate for one in (new, kept))
        if new_passes != kept_passes:
            return kept_passes
        return new["score"] < kept["score"]


ACCURACIES = st.sampled_from([0.25, 0.5, 0.625, 0.75, 0.8125, 0.875, 1.0])
HISTORIES = st.lists(
    st.tuples(ACCURACIES, st.one_of(st.just(math.nan), st.integers(0, 4).map(float), st.floats(-3, 3))),
    min_size=1,
    max_size=15,
)


@given(
    HISTORIES,
    st.sampled_from([LAST, "source-accuracy", "im", "dev"]),
    st.sampled_from([0.0, 0.125, 0.25, 1.0]),
    st.integers(0, 15),
)
def test_a_resumed_selection_makes_the_choices_of_an_uninterrupted_one(
    history: list[tuple[float, float]], criterion: str, gate: float, cut: int
):
    plain, resumed, on_disk = Selector(criterion, gate), Selector(criterion, gate), OnDisk(criterion, gate)
    kept = None
    for number, (accuracy, score) in enumerate(history):
        if number == cut:
            resumed = Selector.from_state(json.loads(json.dumps(resumed.state(), allow_nan=False)))
        scores = {"source-accuracy": accuracy, "im": score, "dev": -score}
        selected = plain.offer(number * 100, scores)
        assert selected == resumed.offer(number * 100, scores)
        assert selected == on_disk.offer(scores)
        kept = number * 100 if selected else kept
        assert plain.selected == resumed.selected == kept  # never one whose weights are gone
    assert plain.state() == resumed.state()
    assert plain.choices() == resumed.choices()
    assert plain.choices()[criterion] == kept


@given(HISTORIES, st.sampled_from([0.0, 0.125, 1.0]))
def test_with_scores_throughout_the_selected_step_always_passes_the_gate(
    history: list[tuple[float, float]], gate: float
):
    selector = Selector("im", gate)
    for number, (accuracy, score) in enumerate(history):
        selector.offer(number, {"source-accuracy": accuracy, "im": 0.0 if math.isnan(score) else score})
        best = max(offer.source_accuracy for offer in selector.offers)
        assert selector.selected is not None
        assert selector.offers[selector.selected].source_accuracy >= best - gate
