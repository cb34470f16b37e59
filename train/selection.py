"""Which checkpoint to keep, judged without target labels: six criteria, and the state of a selection over epochs.

Legend: N images, K classes, D features. Every score is a float of which larger is better; entropies are in nats.

No criterion sees everything. ``entropy`` and ``snd`` are at their best when every photo gets the same class; ``im``
and ``bnm`` notice that, but trust any classes that are confident and balanced; ``source-accuracy`` knows nothing of the
target; ``dev`` gets noisy where the domains hardly overlap. So all of them stand behind one gate: a checkpoint that
lost too much accuracy on the source is not chosen while there is another. How they compare: arXiv 2208.07360.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import entr, softmax

from dann.infer.errors import Diverged, UsageError, unknown_name
from dann.train.settings import between

SND_TEMPERATURE = 0.05
DEV_PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""What the domain classifier's L2 penalty is chosen from, as scikit-learn's C: the smaller, the stronger."""

_BLOCK_ENTRIES = 2**18  # similarities at a time: 2 MiB, so that memory does not grow with N²
_FOLD = 5  # one image in so many judges the domain classifier; the authors hold out a fifth, too
_MAX_LOG_WEIGHT = 50.0  # more than images can tell, and far from overflow


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a network in evaluation mode makes of images: all that a criterion looks at.

    Scores of two networks compare only on the same images. Raises :class:`Diverged` for values that are not finite,
    :class:`UsageError` for arrays that are empty or do not fit together.
    """

    source_logits_NK: np.ndarray
    """Of source images that were held out of training."""
    source_labels_N: np.ndarray
    """Their classes: ints below K."""
    source_features_ND: np.ndarray
    target_logits_NK: np.ndarray
    """Of unlabelled target images."""
    target_features_ND: np.ndarray
    source_train_features_ND: np.ndarray | None = None
    """Of source images that were trained on, which ``dev`` needs."""

    def __post_init__(self) -> None:
        sources, targets = len(self.source_labels_N), len(self.target_logits_NK)
        classes, width = self.target_logits_NK.shape[-1], self.target_features_ND.shape[-1]
        _check("source_logits_NK", self.source_logits_NK, (sources, classes))
        _check("source_features_ND", self.source_features_ND, (sources, width))
        _check("target_logits_NK", self.target_logits_NK, (targets, classes))
        _check("target_features_ND", self.target_features_ND, (targets, width))
        if self.source_train_features_ND is not None:
            trained = self.source_train_features_ND
            _check("source_train_features_ND", trained, (len(trained), width))
        if not np.isin(self.source_labels_N, np.arange(classes)).all():
            raise UsageError(f"source_labels_N has labels other than 0 … {classes - 1}, the columns of the logits")

    @property
    def target_probabilities_NK(self) -> np.ndarray:
        """The softmax of the target's logits, float64."""
        return softmax(self.target_logits_NK.astype(np.float64), axis=1)


def source_accuracy(evidence: Evidence) -> float:
    """Accuracy on held-out source images, in [0, 1]."""
    return float((evidence.source_logits_NK.argmax(axis=1) == evidence.source_labels_N).mean())


def entropy(evidence: Evidence) -> float:
    """Minus the mean entropy of a target prediction, in [−log K, 0] (Morerio et al., arXiv 1711.10288)."""
    return -float(entr(evidence.target_probabilities_NK).sum(axis=1).mean())


def information_maximisation(evidence: Evidence) -> float:
    """Entropy of the mean target prediction minus their mean entropy, in [0, log K] (Shi & Sha, arXiv 1206.6438).

    The mutual information of image and predicted class: log K where predictions are certain and the classes balanced.
    """
    return float(entr(evidence.target_probabilities_NK.mean(axis=0)).sum()) + entropy(evidence)


def bnm(evidence: Evidence) -> float:
    """Nuclear norm of the target predictions (Cui et al., arXiv 2003.12237; as a criterion: arXiv 2208.07360).

    In units of the largest that N predictions of K classes can have, √(N · min(N, K)). So for N ≥ K it is 1 where
    predictions are certain and balanced, 1/√K where all are certain of one class, and 1/K, the least, where none says
    anything.
    """
    probabilities_NK = evidence.target_probabilities_NK
    largest = math.sqrt(len(probabilities_NK) * min(probabilities_NK.shape))
    return float(np.linalg.norm(probabilities_NK, "nuc")) / largest


def snd(evidence: Evidence) -> float:
    """Soft neighbourhood density, in [0, log(N − 1)] (Saito et al., arXiv 2108.10860); NaN for a single image.

    The mean entropy of an image's similarities to all others, a softmax of cosines between predictions: high where
    predictions form dense clusters.
    """
    probabilities_NK = evidence.target_probabilities_NK
    unit_NK = probabilities_NK / np.linalg.norm(probabilities_NK, axis=1, keepdims=True)
    count = len(unit_NK)
    if count == 1:
        return math.nan
    total, rows = 0.0, max(1, _BLOCK_ENTRIES // count)
    for start in range(0, count, rows):
        # cosines of probabilities are in [0, 1], so nothing overflows
        weights = np.exp(unit_NK[start : start + rows] @ unit_NK.T / SND_TEMPERATURE)
        np.fill_diagonal(weights[:, start:], 0.0)  # an image is no neighbour of its own
        total += entr(weights / weights.sum(axis=1, keepdims=True)).sum()
    return float(total) / count


def dev(evidence: Evidence) -> float:
    """Minus the risk of deep embedded validation: the error on the source, weighted to stand for the target's.

    You et al., ICML 2019 (PMLR 97:7124), with a logistic regression as domain classifier. NaN without
    ``source_train_features_ND``, or with fewer than five images of a domain to tell it by.
    """
    train_ND, target_ND = evidence.source_train_features_ND, evidence.target_features_ND
    errors_N = evidence.source_logits_NK.argmax(axis=1) != evidence.source_labels_N
    if train_ND is None or min(len(train_ND), len(target_ND)) < _FOLD:
        return math.nan
    return -dev_risk(importance_weights(train_ND, target_ND, evidence.source_features_ND), errors_N)


def importance_weights(source_ND: np.ndarray, target_ND: np.ndarray, at_ND: np.ndarray) -> np.ndarray:
    """Density of the target over that of the source at each row of ``at_ND``, float64 (N,), estimated from samples.

    The odds of a logistic regression on standardised features. Its penalty is the one with the smallest loss on every
    fifth image, for odds, unlike the accuracy that the authors go by, are only as good as they are calibrated.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    features_ND = np.concatenate([source_ND, target_ND]).astype(np.float64)
    domain_N = np.repeat([0, 1], [len(source_ND), len(target_ND)])
    judging_N = np.concatenate([np.arange(len(rows)) % _FOLD == _FOLD - 1 for rows in (source_ND, target_ND)])
    features_fit, domain_fit = features_ND[~judging_N], domain_N[~judging_N]

    def loss(classifier: Any) -> float:
        return log_loss(domain_N[judging_N], classifier.predict_proba(features_ND[judging_N]))

    classifiers = [make_pipeline(StandardScaler(), LogisticRegression(C=penalty)) for penalty in DEV_PENALTIES]
    with warnings.catch_warnings(), threadpool_limits(1, user_api="blas"):  # small products: threads make it 5 × slower
        warnings.simplefilter("ignore", ConvergenceWarning)  # a fit that stopped early is judged like any other
        best = min((classifier.fit(features_fit, domain_fit) for classifier in classifiers), key=loss)
    log_odds_N = best.decision_function(at_ND.astype(np.float64))
    images_of = np.bincount(domain_fit)
    return np.exp(np.clip(log_odds_N, -_MAX_LOG_WEIGHT, _MAX_LOG_WEIGHT)) * images_of[0] / images_of[1]


def dev_risk(weights_N: np.ndarray, errors_N: np.ndarray) -> float:
    """Mean of ``weights_N`` · ``errors_N``, with the weights, whose mean should be 1, as control variate."""
    weighted_N = weights_N * errors_N
    if np.ptp(weights_N) == 0.0:  # they control nothing
        return float(weighted_N.mean())
    covariance = np.cov(weighted_N, weights_N)
    eta = -covariance[0, 1] / covariance[1, 1]
    return float(weighted_N.mean() + eta * (weights_N.mean() - 1.0))


CRITERIA: dict[str, Callable[[Evidence], float]] = {
    "source-accuracy": source_accuracy,
    "entropy": entropy,
    "im": information_maximisation,
    "bnm": bnm,
    "snd": snd,
    "dev": dev,
}
LAST = "last"
"""The criterion that always selects the newest step: it has no scores."""


def score_all(evidence: Evidence) -> dict[str, float]:
    """The score by every criterion; NaN where one cannot be told."""
    return {name: criterion(evidence) for name, criterion in CRITERIA.items()}


@dataclass(frozen=True, kw_only=True)
class Offer:
    """One step that could have been selected."""

    step: int
    scores: dict[str, float | None]
    """By criterion; ``None`` for what was not a finite number."""

    def score(self, criterion: str) -> float:
        """−∞ where there is none."""
        score = self.scores.get(criterion)
        return -math.inf if score is None else score

    @property
    def source_accuracy(self) -> float:
        """What the gate goes by; −∞ if unknown."""
        accuracy = self.scores.get("source-accuracy")
        return -math.inf if accuracy is None else accuracy


class Selector:
    """The choice of a step among those offered so far, with every score that led to it.

    The weights of all but two steps are gone: those of the selected and of the last one. So each new step is compared
    with the selected one only, and takes its place unless it is worse. One is worse than the other

    1. if it does not pass the gate and the other does: it has no score, or its source accuracy is more than ``gate``
       below the best that any step had so far. The selected step, too, is held against the best so far;
    2. else by its score, where no score is worst.

    Hence the newest of equals is kept, and the newest of all until there is a score.
    """

    def __init__(self, criterion: str, gate: float = 0.05):
        if criterion not in (LAST, *CRITERIA):
            raise unknown_name("selection criterion", criterion, (LAST, *CRITERIA))
        between("gate", gate, 0.0, 1.0)
        self.criterion, self.gate = criterion, gate
        self.offers: list[Offer] = []

    @property
    def selected(self) -> int | None:
        """The selected step; ``None`` before the first offer."""
        return chosen(self.offers, self.criterion, self.gate) if self.offers else None

    def offer(self, step: int, scores: Mapping[str, float]) -> bool:
        """Whether ``step``, later than all before, is now the selected one; its weights are then to be kept."""
        assert not self.offers or step > self.offers[-1].step, f"step {step} was offered after {self.offers[-1].step}"
        known = {name: float(score) if math.isfinite(score) else None for name, score in scores.items()}
        self.offers.append(Offer(step=step, scores=known))
        return self.selected == step

    def choices(self) -> dict[str, int]:
        """The step that each criterion would have selected by the same rule; without those that never had a score."""
        names = [LAST, *CRITERIA] if self.offers else []
        return {
            name: chosen(self.offers, name, self.gate)
            for name in names
            if name in (LAST, self.criterion) or any(offer.score(name) > -math.inf for offer in self.offers)
        }

    def state(self) -> dict[str, Any]:
        """Plain values for JSON, from which :meth:`from_state` continues."""
        return {"criterion": self.criterion, "gate": self.gate, "offers": [asdict(offer) for offer in self.offers]}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Selector":
        """The selector whose :meth:`state` this is."""
        selector = cls(state["criterion"], state["gate"])
        selector.offers = [Offer(**offer) for offer in state["offers"]]
        return selector


def chosen(offers: Sequence[Offer], criterion: str, gate: float) -> int:
    """The step that ``criterion`` selects when ``offers``, at least one, come one after another."""
    kept, least_accuracy = offers[0], -math.inf

    def rank(offer: Offer) -> tuple[bool, float]:
        score = offer.score(criterion)
        return score > -math.inf and offer.source_accuracy >= least_accuracy, score

    for offer in offers:
        least_accuracy = max(least_accuracy, offer.source_accuracy - gate)
        kept = max(offer, kept, key=rank)  # the newer one, if they are equal
    return kept.step


def _check(name: str, array: np.ndarray, shape: tuple[int, int]) -> None:
    if array.shape != shape or 0 in shape:
        raise UsageError(f"{name} has the shape {array.shape}; expected {shape}, to fit the other arrays, and no zeros")
    if not np.isfinite(array).all():
        what = "logits" if "logits" in name else "features"
        raise Diverged(f"the network's {what} are not finite: it has diverged; train it with a smaller --lr")
