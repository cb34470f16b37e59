"""A loss that is not finite blocks updates from its step on, and is heard of."""

import pytest
import torch
from gpu import nothing_waits

from dann.train.distributed import World
from dann.train.finite_watch import FiniteWatch

NAN = float("nan")


def watch(device: str = "cpu") -> FiniteWatch[str]:
    return FiniteWatch(torch.device(device), World())


@pytest.mark.parametrize("bad", [NAN, float("inf"), -float("inf")])
def test_the_first_bad_step_is_named_and_blocks(bad: float):
    watched = watch()
    watched.note(torch.tensor([1.0, 2.0]), "first")
    assert watched.first_bad() is None and not watched.blocked
    watched.note(torch.tensor([1.0, bad]), "second")
    watched.note(torch.tensor(bad), "third")
    assert watched.blocked and watched.first_bad() == "second"


def test_it_stays_blocked():
    watched = watch()
    watched.note(torch.tensor(NAN), "first")
    watched.note(torch.tensor(1.0), "second")
    assert watched.blocked


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
@pytest.mark.parametrize("steps_before", [0, 3])
def test_an_optimiser_that_is_blocked_changes_nothing(name: str, steps_before: int):
    watched, weights = watch(), torch.nn.Parameter(torch.ones(5))
    optimiser = getattr(torch.optim, name)([weights], lr=0.1, fused=True)
    optimiser.found_inf = watched.blocked

    def step(loss: torch.Tensor) -> None:
        optimiser.zero_grad()
        loss.backward()
        watched.note(loss, "")
        optimiser.step()

    for _ in range(steps_before):
        step((weights**2).sum())
    before = weights.detach().clone()
    assert (steps_before > 0) == bool((before != 1).any())
    step((weights * NAN).sum())
    step((weights**2).sum())
    assert torch.equal(weights, before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_host_does_not_wait_but_hears_of_it():
    watched = watch("cuda")
    losses = [torch.tensor(value, device="cuda") for value in (1.0, NAN, 1.0)]
    warm = watch("cuda")  # loads the kernels, and pins memory for three
    for loss in losses:
        warm.note(loss, "")
    torch.cuda.synchronize()
    torch.cuda._sleep(500_000_000)  # a quarter of a second
    with nothing_waits():
        for number, loss in enumerate(losses):
            watched.note(loss, str(number))
            assert watched.first_bad() is None
    assert watched.first_bad(wait=True) == "1" and watched.blocked
