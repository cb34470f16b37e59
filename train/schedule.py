"""λ and the learning rate as pure functions of ``progress``, the share of training done: global step / total steps.

The forms of the papers (arXiv 1505.07818, section 5.2.2) and the usual others. Nothing here counts calls.
"""

import math
from collections.abc import Callable

Schedule = Callable[[float], float]
"""From progress in [0, 1] to a factor."""


def dann_lam(progress: float) -> float:
    """2 / (1 + exp(−10 p)) − 1: from 0 at the start to 0.9999 at the end."""
    return 2.0 / (1.0 + math.exp(-10.0 * progress)) - 1.0


def dann_lr(progress: float) -> float:
    """(1 + 10 p)^−0.75: from 1 at the start to 0.166 at the end."""
    return (1.0 + 10.0 * progress) ** -0.75


def constant(progress: float) -> float:
    """1 throughout."""
    return 1.0


def linear(progress: float) -> float:
    """p itself, for λ."""
    return progress


def cosine(progress: float) -> float:
    """Half a cosine from 1 to 0, for the learning rate."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


LAM_SCHEDULES: dict[str, Schedule] = {"dann": dann_lam, "constant": constant, "linear": linear}
LR_SCHEDULES: dict[str, Schedule] = {"dann": dann_lr, "constant": constant, "cosine": cosine}


def linear_warmup(progress: float, share: float) -> float:
    """A straight line from 0 to 1 over the first ``share`` of training, then 1: a factor on the learning rate."""
    return min(1.0, progress / share) if share else 1.0


def adamatch_warmup(progress: float, share: float) -> float:
    """Half a cosine from 0 to 1 over the first ``share`` of training, then 1 (arXiv 2106.04732, section 3.5)."""
    return 0.5 * (1.0 - math.cos(math.pi * min(1.0, progress / share))) if share else 1.0
