"""Signs that adaptation goes wrong, seen without target labels while a run goes on; each with what to try.

The measures are those of trap-ridden reports: the classes that target predictions use, source accuracy, and a domain
classifier that is always right or always wrong.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import entr

from dann.train.selection import Evidence

_FEWEST_CLASSES = 0.6  # of the source's effective number; above one half, or one of two classes would be enough
_LARGEST_FALL = 0.1  # of source accuracy
_STUCK = 0.99  # of images whose domain is told
_STUCK_EVALUATIONS = 3


@dataclass(frozen=True, kw_only=True)
class RunWarning:
    """Something that a person should know of a run."""

    step: int
    name: str
    message: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def effective_classes(probabilities_K: np.ndarray) -> float:
    """exp(entropy) of class shares: K if all are used alike, 1 if only one is."""
    return float(np.exp(entr(probabilities_K).sum()))


def collapse(evidence: Evidence, step: int) -> RunWarning | None:
    """Target predictions that use far fewer classes than the source has."""
    used = effective_classes(evidence.target_probabilities_NK.mean(axis=0))
    shares_K = np.bincount(evidence.source_labels_N, minlength=evidence.source_logits_NK.shape[1])
    expected = effective_classes(shares_K / shares_K.sum())
    if used >= _FEWEST_CLASSES * expected:
        return None
    return RunWarning(
        step=step,
        name="collapse",
        message=f"the target's predictions use {used:.1f} classes, the source's labels {expected:.1f} (effective "
        "numbers): they collapse. Try a smaller --lam-max or --lr, --set objectives.class_balance=0.1, or --method bnm",
    )


def source_lost(accuracies: Sequence[float], step: int) -> RunWarning | None:
    """Source accuracy, over all evaluations so far, that ended well below its best."""
    if not accuracies or accuracies[-1] >= max(accuracies) - _LARGEST_FALL:
        return None
    return RunWarning(
        step=step,
        name="source-lost",
        message=f"source accuracy fell from {max(accuracies):.3f} to {accuracies[-1]:.3f}: adaptation destroys what "
        "was learnt. Try a smaller --lam-max, a smaller --lr, or --bn domain",
    )


def domains_stuck(accuracies: Sequence[float], step: int) -> RunWarning | None:
    """A domain classifier that was always right, or always wrong, in the newest evaluations."""
    newest = accuracies[-_STUCK_EVALUATIONS:]
    if len(newest) < _STUCK_EVALUATIONS:
        return None
    if min(newest) >= _STUCK:
        message = (
            f"the domain classifier is right on {newest[-1]:.1%} of the images, evaluation after evaluation: the "
            "features do not adapt. Try a larger --lam-max, --set 'model.domain_hidden=[32]', or --method cdan"
        )
    elif max(newest) <= 1 - _STUCK:
        message = (
            f"the domain classifier is wrong on {1 - newest[-1]:.1%} of the images, evaluation after evaluation: it "
            "cannot follow the features. Try a smaller --lam-max or --lr"
        )
    else:
        return None
    return RunWarning(step=step, name="domains-stuck", message=message)
