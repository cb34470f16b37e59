"""What is logged of some steps: the mean of each loss over the steps that had it."""

import pytest
import torch
from gpu import nothing_waits

from dann.train.distributed import World
from dann.train.loss_window import LossWindow


def filled(device: str = "cpu") -> LossWindow:
    window = LossWindow(torch.device(device))
    window.add({"loss": torch.tensor(1.0, device=device)}, images=8)
    window.add({"loss": torch.tensor(4.0, device=device), "late": torch.tensor(3.0, device=device)}, images=8)
    return window


def test_each_mean_is_over_the_steps_that_had_the_loss():
    numbers = filled().take(World()).read()
    assert numbers.pop("images_per_second") > 0
    assert numbers == {"loss": 2.5, "late": 3.0}


def test_what_was_taken_does_not_count_again():
    window = filled()
    first = window.take(World())
    window.add({"loss": torch.tensor(7.0)}, images=8)
    assert window.take(World()).read().keys() == {"loss", "images_per_second"}
    assert first.read()["loss"] == 2.5


def test_a_window_goes_on_from_its_state():
    whole, before, after = filled(), filled(), LossWindow(torch.device("cpu"))
    after.restore(before.state(World()))
    for window in (whole, after):
        window.add({"loss": torch.tensor(4.0)}, images=8)
    found, expected = (window.take(World()).read() for window in (after, whole))
    assert found.pop("images_per_second") and expected.pop("images_per_second")
    assert found == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_means_come_late_and_nothing_waits():
    kept = [filled("cuda").take(World()) for _ in range(2)]  # loads the kernels, and pins memory for more than one
    window = filled("cuda")
    torch.cuda.synchronize()
    del kept
    with nothing_waits():
        torch.cuda._sleep(10**8)
        means = window.take(World())
        assert not means.is_here()
    assert means.read()["loss"] == 2.5 and means.is_here()
