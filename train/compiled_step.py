"""The training step through ``torch.compile``: fewer and larger kernels, and on a GPU a CUDA graph that is replayed.

What changes from step to step, λ and the warm-up, goes in as tensors, so that nothing is compiled anew for them. Random
numbers stay those of the step as it is, so a run learns the same with and without.
"""

import torch
from torch import Tensor, nn

from dann.infer.errors import UnavailableError
from dann.train.adaptation_state import AdaptationState
from dann.train.training_step import Pace, StepInput, StepOutput, TrainingStep


class CompiledStep(nn.Module):
    """``step``, compiled at its first call; call :meth:`begin` before the first pass of each step.

    Raises :class:`UnavailableError` at that call where torch cannot compile it here.
    """

    def __init__(self, step: TrainingStep, device: torch.device):
        super().__init__()
        self._device = device
        self._compiled = torch.compile(
            step,
            dynamic=False,
            options={"fallback_random": True, "triton.cudagraphs": device.type == "cuda"},
        )

    def begin(self) -> None:
        """What earlier steps gave may be overwritten from here on."""
        if self._device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()

    def forward(self, batch: StepInput, state: AdaptationState, pace: Pace) -> StepOutput:
        warmup = self._tensor(pace.warmup) if pace.warmup else 0.0  # a number, as what has no weight is left out
        pace = Pace(lam=self._tensor(pace.lam), warmup=warmup, refining=pace.refining)
        try:
            output: StepOutput = self._compiled(batch, state, pace)
        except Exception as error:
            if _is_of_the_compiler(error):
                raise UnavailableError(
                    f"torch.compile cannot compile the training step on {self._device} ({_first_line(error)}); it "
                    "needs a C++ compiler on a CPU, Triton on a GPU. Train without --compile"
                ) from error
            raise
        return StepOutput(  # in memory of their own: the rest of the run reads them while the next step is replayed
            total=output.total,
            values={name: value.clone() for name, value in output.values.items()},
            marginals={name: value.clone() for name, value in output.marginals.items()},
        )

    def _tensor(self, number: float | Tensor) -> Tensor:
        """0-d on the device, without waiting for it."""
        return torch.full((), float(number), device=self._device)


def _is_of_the_compiler(error: Exception) -> bool:
    return any(kind.__module__.startswith(("torch._dynamo", "torch._inductor")) for kind in type(error).__mro__)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
