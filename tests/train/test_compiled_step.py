"""Through torch.compile a run learns what it learns without, and is compiled once."""

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._inductor import config as inductor

from dann.infer.errors import UnavailableError, UsageError
from dann.train import fit
from dann.train.settings import TrainConfig

# what older torch warns of while it compiles
pytestmark = [
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]
Configure = Callable[..., TrainConfig]
Lines = Callable[[Path], list[dict[str, Any]]]
DEVICES = [
    pytest.param("cpu", marks=pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")),
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
            pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton"),
        ],
    ),
]
METHODS: dict[str, dict[str, Any]] = {
    "dann": {"model.dropout": 0.3, "accumulate": 2},
    "mcc, mixed styles": {
        "objectives.dann": 0.0,
        "objectives.mcc": 0.5,
        "model.backbone": "conv6",
        "model.mix_style": 2,
        "model.normalise": "local-contrast",
    },
    "mean-teacher": {
        "objectives.mean_teacher": 1.0,
        "objectives.confidence": 0.5,
        "optimiser.ema": 0.9,
        "objectives.warmup": 0.5,
    },
    "adamatch": {"objectives.dann": 0.0, "objectives.adamatch": 1.0, "model.bn": "shared"},
}


@pytest.fixture(autouse=True)
def compile_anew():
    torch.compiler.reset()


def curve(config: TrainConfig, runs: Path, lines: Lines) -> dict[str, float]:
    """Means of the losses over all steps."""
    found = next(line for line in lines(fit(config, runs=runs).run.metrics) if line["kind"] == "step")
    return {name: value for name, value in found.items() if name.endswith("loss")}


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", METHODS)
def test_a_compiled_run_has_the_same_losses(
    method: str, device: str, configure: Configure, lines: Lines, tmp_path: Path
):
    settings = {**METHODS[method], "device": device}
    plain = curve(configure(settings, steps=10), tmp_path, lines)
    compiled = curve(configure({**settings, "compile": True}, steps=10), tmp_path, lines)
    assert compiled.keys() == plain.keys() and len(plain) > 1
    assert compiled == pytest.approx(plain, rel=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_nothing_is_compiled_anew_as_lambda_and_the_learning_rate_move(
    device: str, configure: Configure, tmp_path: Path
):
    said: list[str] = []

    def on_step(done: int, total: int, numbers: dict[str, Any]) -> None:
        if done == 1:
            torch.compiler.set_stance("fail_on_recompile")

    try:
        config = configure({"device": device, "compile": True}, steps=8)
        fit(config, runs=tmp_path, on_step=on_step, on_message=said.append)
    finally:
        torch.compiler.set_stance("default")
    assert any("torch.compile works at the first step" in line for line in said)


@pytest.mark.slow
def test_without_a_compiler_it_says_what_is_needed(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "empty"))
    no_compiler = inductor.patch({"cpp.cxx": ("no-such-compiler",)})
    says = r"needs a C\+\+ compiler on a CPU.*Train without --compile"
    with no_compiler, pytest.raises(UnavailableError, match=says):
        fit(configure({"compile": True}, steps=2), runs=tmp_path)


@pytest.mark.parametrize("objective", ["vat_source", "vat_target"])
def test_gradients_within_the_loss_are_refused(objective: str, configure: Configure):
    with pytest.raises(UsageError, match="torch.compile cannot follow; train without --compile"):
        configure({"compile": True, f"objectives.{objective}": 0.1})
