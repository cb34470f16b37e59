"""What can be said of a trained network beyond its scores: where its features lie, and where it errs.

Legend: N images, D features, K classes. Functions of arrays; the features and logits that they take are those of
evaluation (:mod:`dann.train.evaluate`), never of shuffled or augmented training batches.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

_PERPLEXITY = 30.0
_FEWEST_FOR_TSNE = 6
_START_SPREAD = 1e-4  # the standard deviation that scikit-learn gives a start of its own


def tsne(features_ND: np.ndarray) -> np.ndarray:
    """Where t-SNE (van der Maaten & Hinton, JMLR 2008) puts each image in the plane: (N, 2). Nothing is drawn.

    Features are standardised; the start is their two principal components, and is all that fewer than 6 images get.
    """
    scaled_ND = StandardScaler().fit_transform(features_ND.astype(np.float64))
    start_N2 = _principal_components(scaled_ND)
    spread = start_N2[:, 0].std()
    if len(features_ND) < _FEWEST_FOR_TSNE or spread == 0:
        return start_N2
    return TSNE(
        perplexity=min(_PERPLEXITY, (len(features_ND) - 1) / 3),
        init=(start_N2 / spread * _START_SPREAD).astype(np.float32),
    ).fit_transform(scaled_ND.astype(np.float32))


def _principal_components(centred_ND: np.ndarray) -> np.ndarray:
    """The first two, (N, 2); zeros where there are fewer. scikit-learn's PCA refuses one image or one feature."""
    left, values, _ = np.linalg.svd(centred_ND, full_matrices=False)
    components_N2 = np.zeros((len(centred_ND), 2))
    components_N2[:, : len(values)] = (left * values)[:, :2]
    return components_N2


@dataclass(frozen=True, kw_only=True)
class ADistance:
    """How well a linear classifier tells the domains apart by their features."""

    error: float
    """Its error on images that it was not trained on; 0.5 is chance."""
    distance: float
    """2 (1 − 2 · error), from 0 (not to be told apart) to 2; an error above chance counts as chance."""


def proxy_a_distance(source_ND: np.ndarray, target_ND: np.ndarray, seed: int) -> ADistance | None:
    """The proxy A-distance between two domains (Ben-David et al., NIPS 2006; as in arXiv 1505.07818, section 3.2).

    Of both domains equally many images, drawn with ``seed``: one half trains a logistic regression on standardised
    features, the other measures it. The paper reports the lowest error over many regularisations, which flatters the
    classifier; here there is one. ``None`` with fewer than two images of a domain.
    """
    half = min(len(source_ND), len(target_ND)) // 2
    if half == 0:
        return None
    random = np.random.default_rng(seed)
    halves = [side[random.permutation(len(side))[: 2 * half]].reshape(2, half, -1) for side in (source_ND, target_ND)]
    (train_ND, test_ND), domain_N = np.concatenate(halves, axis=1), np.repeat([0, 1], half)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # nearly the best line tells the domains nearly as well
        classifier.fit(train_ND, domain_N)
    error = float(np.mean(classifier.predict(test_ND) != domain_N))
    return ADistance(error=error, distance=2 * (1 - 2 * min(error, 0.5)))


def class_change(
    recall_before: Mapping[str, float | None], recall_after: Mapping[str, float | None]
) -> dict[str, float | None]:
    """By how much the recall of each class of ``recall_after`` rose; ``None`` where a side has no images of it."""
    changes: dict[str, float | None] = {}
    for name, after in recall_after.items():
        before = recall_before.get(name)
        changes[name] = None if before is None or after is None else after - before
    return changes


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a network says of one image."""

    index: int
    """Which image of the set."""
    true: int | None
    """Its class; ``None`` where labels are unknown."""
    predicted: int
    probability: float
    """Of the predicted class."""


def worst_mistakes(logits_NK: np.ndarray, labels_N: np.ndarray, count: int) -> list[Prediction]:
    """At most ``count`` wrong predictions, those first of which the network was most sure."""
    wrong = np.flatnonzero(logits_NK.argmax(axis=1) != labels_N)
    confidence = softmax(logits_NK[wrong].astype(np.float64), axis=1).max(axis=1)
    return _predictions(logits_NK, labels_N, wrong[np.argsort(-confidence, kind="stable")[:count]])


def samples(logits_NK: np.ndarray, labels_N: np.ndarray | None, count: int) -> list[Prediction]:
    """At most ``count`` predictions, spread evenly over the predicted classes and from doubtful to sure in each."""
    confidence = softmax(logits_NK.astype(np.float64), axis=1).max(axis=1)
    order = np.lexsort((confidence, logits_NK.argmax(axis=1)))
    spread = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
    return _predictions(logits_NK, labels_N, order[spread])


def _predictions(logits_NK: np.ndarray, labels_N: np.ndarray | None, indices: np.ndarray) -> list[Prediction]:
    probabilities_NK = softmax(logits_NK[indices].astype(np.float64), axis=1)
    return [
        Prediction(
            index=int(index),
            true=None if labels_N is None else int(labels_N[index]),
            predicted=int(row.argmax()),
            probability=float(row.max()),
        )
        for index, row in zip(indices, probabilities_NK, strict=True)
    ]
