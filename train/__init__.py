"""Training: domain-adversarial networks on labelled renders and unlabelled photos.

Public names, imported on first use so that ``dann data …`` and configuration work without torch:

    TrainConfig, resolve                    what a run is made of
    fit, resume, TrainResult                run it
    evaluate_run                            scores of a finished run
    gradient_reversal, …_fork               the layer itself, and with the branching before it
    DomainAdversarialNetwork                the three networks
    open_labelled, open_unlabelled          data specs
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dann.train.config import resolve as resolve
    from dann.train.data import open_labelled as open_labelled
    from dann.train.data import open_unlabelled as open_unlabelled
    from dann.train.loop import TrainResult as TrainResult
    from dann.train.loop import fit as fit
    from dann.train.loop import resume as resume
    from dann.train.model import DomainAdversarialNetwork as DomainAdversarialNetwork
    from dann.train.reversal import gradient_reversal as gradient_reversal
    from dann.train.reversal import gradient_reversal_fork as gradient_reversal_fork
    from dann.train.run_evaluation import evaluate_run as evaluate_run
    from dann.train.settings import TrainConfig as TrainConfig

_HOME = {
    "TrainConfig": "config",
    "resolve": "config",
    "open_labelled": "data",
    "open_unlabelled": "data",
    "evaluate_run": "run_evaluation",
    "gradient_reversal": "reversal",
    "gradient_reversal_fork": "reversal",
    "TrainResult": "loop",
    "fit": "loop",
    "resume": "loop",
    "DomainAdversarialNetwork": "model",
}
__all__ = [
    "DomainAdversarialNetwork",
    "TrainConfig",
    "TrainResult",
    "evaluate_run",
    "fit",
    "gradient_reversal",
    "gradient_reversal_fork",
    "open_labelled",
    "open_unlabelled",
    "resolve",
    "resume",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dann.train' has no attribute {name!r}")
    return getattr(import_module(f"dann.train.{_HOME[name]}"), name)
