"""The loss of the label classifier."""

import math

import numpy as np
import pytest
import torch
from scipy import special
from torch import Tensor

from dann.train.objectives.supervised import label_loss


def test_label_loss_is_the_mean_cross_entropy():
    logits_NK = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    expected = (math.log(2) + math.log1p(math.exp(2.0))) / 2
    assert label_loss(logits_NK, torch.tensor([0, 1])).item() == pytest.approx(expected, rel=1e-6)


def test_label_loss_against_scipy(logits_NK: Tensor):
    labels_N = torch.arange(len(logits_NK)) % logits_NK.shape[1]
    chosen_N = special.log_softmax(logits_NK.numpy(), axis=1)[np.arange(len(labels_N)), labels_N]
    assert label_loss(logits_NK, labels_N).item() == pytest.approx(-chosen_N.mean())
