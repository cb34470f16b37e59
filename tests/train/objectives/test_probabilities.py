"""Probabilities, entropies and divergences against SciPy."""

import numpy as np
import torch
from scipy import special, stats
from torch import Tensor

from dann.train.objectives.probabilities import entropies, full_precision, kl_divergences, log_probabilities


def test_log_probabilities(logits_NK: Tensor):
    np.testing.assert_allclose(log_probabilities(logits_NK), special.log_softmax(logits_NK.numpy(), axis=1))


def test_entropies(logits_NK: Tensor):
    expected = stats.entropy(special.softmax(logits_NK.numpy(), axis=1), axis=1)
    np.testing.assert_allclose(entropies(logits_NK), expected, atol=1e-15)


def test_kl_divergences(logits_NK: Tensor, other_logits_NK: Tensor):
    p_NK, q_NK = (special.softmax(x.numpy(), axis=1) for x in (logits_NK, other_logits_NK))
    np.testing.assert_allclose(
        kl_divergences(logits_NK, other_logits_NK), special.rel_entr(p_NK, q_NK).sum(1), rtol=1e-6, atol=1e-14
    )


def test_precision_is_raised_to_float32_and_never_lowered():
    dtypes = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.float64: torch.float64}
    assert {dtype: full_precision(torch.ones(1, dtype=dtype)).dtype for dtype in dtypes} == dtypes
