"""Logits to test on: float64, so that references agree to rounding and ``gradcheck`` works."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

SHAPES = [(1, 2), (5, 3), (3, 7), (16, 10)]


@pytest.fixture
def random() -> Callable[..., Tensor]:
    """A function from a shape and a seed to standard normal numbers, float64."""

    def draw(*shape: int, seed: int = 0) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    return draw


@pytest.fixture(params=[1.0, 8.0], ids="scale {}".format)
def scale(request: pytest.FixtureRequest) -> float:
    return request.param


@pytest.fixture(params=SHAPES, ids="{0[0]}x{0[1]}".format)
def logits_NK(request: pytest.FixtureRequest, random: Callable[..., Tensor], scale: float) -> Tensor:
    """Logits of many shapes, undecided and nearly certain."""
    return scale * random(*request.param)


@pytest.fixture
def other_logits_NK(logits_NK: Tensor, random: Callable[..., Tensor], scale: float) -> Tensor:
    """Logits of the same shape, near enough that both often agree."""
    return logits_NK + 0.5 * scale * random(*logits_NK.shape, seed=1)
