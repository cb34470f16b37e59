"""Whole runs on a GPU: the same curve as on the CPU, the same in both regimes, and no step that waits.

python -m pytest -m gpu tests/train/test_loop_gpu.py
"""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu import nothing_waits
from torch import Tensor

from dann.infer.errors import Diverged
from dann.train import checkpoint, device_batches, fit, loop, training_step
from dann.train.settings import TrainConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
Configure = Callable[..., TrainConfig]
Lines = Callable[[Path], list[dict[str, Any]]]
METHODS: dict[str, dict[str, Any]] = {
    "dann": {},
    "cdan": {"objectives.dann": 0.0, "objectives.cdan": 1.0},
    "mcc": {"objectives.dann": 0.0, "objectives.mcc": 0.5},
    "mean-teacher": {"objectives.mean_teacher": 1.0, "objectives.confidence": 0.5, "optimiser.ema": 0.9},
    "mixed styles": {"model.backbone": "conv6", "model.mix_style": 2},
    "bfloat16": {"amp": "bf16"},
    "clipped": {"optimiser.clip_norm": 1.0, "accumulate": 2},
    "adamatch": {"objectives.dann": 0.0, "objectives.adamatch": 1.0},
    "augmented": {"augment.flip": True, "augment.rotate_deg": 10.0, "augment.colour": 0.2, "augment.noise": 0.05},
}
LONG = {"device": "cuda", "eval_every": 0, "save_every": 10**6}


@pytest.fixture(autouse=True)
def the_same_sums_each_time():
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


def losses(lines: list[dict[str, Any]]) -> list[float]:
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("method", METHODS)
def test_no_step_waits_for_the_gpu(method: str, configure: Configure, tmp_path: Path):
    with ExitStack() as waiting:

        def on_step(done: int, total: int, numbers: dict[str, Any]) -> None:
            if done == 5:
                waiting.enter_context(nothing_waits())
            if done == 108:  # the last step waits; the lines of the log, after 50 and 100 steps, do not
                waiting.close()

        fit(configure({**LONG, **METHODS[method]}, steps=110), runs=tmp_path, on_step=on_step)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "bfloat16"])
def test_the_curve_is_that_of_the_cpu(method: str, configure: Configure, lines: Lines, tmp_path: Path):
    curves = [
        losses(lines(fit(configure({**METHODS[method], "device": device}, steps=6), runs=tmp_path).run.metrics))
        for device in ("cpu", "cuda")
    ]
    assert curves[1] == pytest.approx(curves[0], rel=1e-3)


def test_resident_and_streaming_sets_give_the_same_curve(
    configure: Configure, lines: Lines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = configure({**LONG, **METHODS["augmented"]}, steps=50)
    resident_sets, found = device_batches._resident_sets, []

    def noted(*arguments: Any) -> list[Tensor | None]:
        found.append(resident_sets(*arguments))
        return found[-1]

    monkeypatch.setattr(device_batches, "_resident_sets", noted)
    resident = losses(lines(fit(config, runs=tmp_path).run.metrics))
    monkeypatch.setattr(device_batches, "_RESIDENT_SHARE", 0.0)
    assert losses(lines(fit(config, runs=tmp_path).run.metrics)) == resident
    assert [[each is None for each in sets] for sets in found] == [[False, False], [True, True]]


def test_the_kernel_and_torch_give_the_same_curve(
    configure: Configure, lines: Lines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = configure(LONG, steps=50)
    curves = []
    for choice in ("kernel", "torch"):
        monkeypatch.setenv("DANN_REVERSAL", choice)
        curves.append(losses(lines(fit(config, runs=tmp_path).run.metrics)))
    assert curves[0] == curves[1]


def test_a_loss_that_is_not_finite_is_named_with_its_step_and_moves_no_weight(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plain, calls = training_step.label_loss, 0

    def broken(logits: Tensor, labels: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return plain(logits, labels) * (float("nan") if calls == 20 else 1.0)

    live: list[dict[str, Tensor]] = []
    refuse = loop._Training._not_finite

    def noted(self: Any, *about: Any) -> Diverged:
        live.append({name: value.detach().cpu() for name, value in self.network.named_parameters()})
        return refuse(self, *about)

    monkeypatch.setattr(loop._Training, "_not_finite", noted)
    monkeypatch.setattr(training_step, "label_loss", broken)
    done: list[int] = []
    with pytest.raises(Diverged, match="the loss is not finite at step 20 "):
        fit(
            configure({**LONG, "save_every": 19}, steps=100),
            runs=tmp_path,
            name="mine",
            on_step=lambda step, total, numbers: done.append(step),
        )
    assert 19 <= done[-1] <= 30
    about, kept = checkpoint.read(tmp_path / "mine" / "checkpoints" / "last.safetensors")
    assert about["step"] == 19
    assert all(torch.equal(value, kept[f"network.{name}"]) for name, value in live[0].items())


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_learns_what_float32_learns(amp: str, configure: Configure, lines: Lines, tmp_path: Path):
    full, mixed = (
        losses(lines(fit(configure({**LONG, "amp": given}, steps=50), runs=tmp_path).run.metrics))
        for given in ("off", amp)
    )
    assert mixed == pytest.approx(full, rel=0.1)


@pytest.mark.slow
def test_a_step_that_does_not_fit_goes_through_in_passes(configure: Configure, tmp_path: Path):
    settings = {**LONG, "model.backbone": "resnet18", "data.height": 224, "data.width": 224, "batch_size": 24}
    said: list[str] = []

    def run() -> None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        fit(configure(settings, steps=3), runs=tmp_path, on_message=said.append)

    run()
    assert not any("too little memory" in line for line in said)
    share = torch.cuda.max_memory_allocated() / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(0.75 * share)
    try:
        run()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert any("in 2 passes from now on" in line for line in said)
