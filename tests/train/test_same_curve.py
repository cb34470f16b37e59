"""What makes training faster does not change what is learnt: the loss at each step, with each switch on and off.

What needs a GPU is in ``test_loop_gpu.py``, the step through ``torch.compile`` in ``test_compiled_step.py``.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from dann.train import domains, fit, image_set, loop
from dann.train.model import DomainAdversarialNetwork
from dann.train.optimiser import build_optimiser
from dann.train.settings import TrainConfig
from dann.train.training_step import StepOutput, TrainingStep

Configure = Callable[..., TrainConfig]
STEPS = 20
ADAM = {"optimiser.name": "adam", "optimiser.lr": 1e-3, "optimiser.weight_decay": 0.01}
SGD = {"optimiser.name": "sgd", "optimiser.lr": 0.01, "optimiser.weight_decay": 0.01}


@pytest.fixture
def curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[TrainConfig], list[float]]:
    """Trains, and gives the loss of each step."""
    losses: list[float] = []
    forward = TrainingStep.forward

    def noted(*arguments: Any) -> StepOutput:
        output = forward(*arguments)
        losses.append(output.total.item())
        return output

    monkeypatch.setattr(TrainingStep, "forward", noted)

    def train(config: TrainConfig) -> list[float]:
        losses.clear()
        fit(config, runs=tmp_path / "runs")
        assert len(losses) == STEPS and losses[-1] < losses[0]
        return losses.copy()

    return train


@pytest.mark.parametrize("settings", [ADAM, SGD], ids=["adam", "sgd"])
def test_a_fused_optimiser(settings: dict[str, Any], configure: Configure, curve: Any, monkeypatch: pytest.MonkeyPatch):
    config = configure(settings, steps=STEPS)
    fused = curve(config)

    def one_by_one(*arguments: Any) -> torch.optim.Optimizer:
        optimiser = build_optimiser(*arguments)
        assert all(group["fused"] for group in optimiser.param_groups)
        unblocked = {"found_inf": property(lambda self: None, lambda self, value: None)}
        kind = type("OneByOne", (type(optimiser),), unblocked)
        groups = [{**group, "fused": False, "foreach": False} for group in optimiser.param_groups]
        plain = kind(groups, lr=config.optimiser.lr)  # type: ignore[call-arg]
        plain.state.update(optimiser.state)
        return plain

    monkeypatch.setattr(loop, "build_optimiser", one_by_one)
    assert curve(config) == pytest.approx(fused, rel=1e-5)


def test_channels_last(configure: Configure, curve: Any, monkeypatch: pytest.MonkeyPatch):
    config = configure(SGD, steps=STEPS)
    last = curve(config)
    begin = loop._begin
    strides: list[tuple[int, ...]] = []

    def channels_first(*arguments: Any) -> DomainAdversarialNetwork:
        network = begin(*arguments)
        strides.extend(weight.stride() for weight in network.parameters() if weight.dim() == 4)
        return network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    monkeypatch.setattr(loop, "_begin", channels_first)
    assert curve(config) == pytest.approx(last, rel=1e-4)
    assert any(stride[1] == 1 for stride in strides)


def test_bfloat16_within_its_precision(configure: Configure, curve: Any):
    full, mixed = (curve(configure(SGD, steps=STEPS, amp=amp)) for amp in ("off", "bf16"))
    assert mixed != full
    assert mixed == pytest.approx(full, rel=0.03)


def test_the_cache_of_decoded_images(
    configure: Configure, curve: Any, sets: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("source", "unlabelled"):
        with np.load(sets[name]) as stored:
            labels = stored["y"].tolist() if "y" in stored else [""] * len(stored["x"])
            for number, (image_HWC, label) in enumerate(zip(stored["x"], labels, strict=True)):
                file = tmp_path / name / str(label) / f"{number:02}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                assert cv2.imwrite(str(file), image_HWC)
    folders = {"data.source": str(tmp_path / "source"), "data.target": str(tmp_path / "unlabelled"), "data.test": None}
    config = configure({**SGD, **folders}, steps=STEPS)
    in_memory = curve(config)

    monkeypatch.setenv("DANN_CACHE_GB", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("open_labelled", "open_unlabelled"):
        monkeypatch.setattr(domains, name, partial(getattr(domains, name), memory_budget_bytes=0))
    decoded = curve(config)
    monkeypatch.setattr(image_set, "load_image", None)  # from here on the pixels come from the cache, or not at all
    assert decoded == in_memory == curve(config)
