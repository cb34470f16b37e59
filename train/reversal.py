"""The gradient reversal layer of Ganin & Lempitsky (arXiv 1409.7495, section 3.1).

Three names: the user function :func:`gradient_reversal`, the autograd class behind it, and the slow reference
:func:`gradient_reversal_ref`, which says in plain tensor arithmetic what the gradient must be.

λ is an argument of every call. The layer keeps no state, so an extra forward, an evaluation or a resumed run cannot
shift the schedule, which lives in :mod:`dann.train.schedule`.
"""

from typing import Any

import torch
from torch import Tensor


def gradient_reversal(x: Tensor, lam: float | Tensor) -> Tensor:
    """``x`` unchanged; its gradient is multiplied by ``-lam`` on the way back.

    ``x`` has any shape and any floating dtype; the result shares its storage. ``lam`` is a Python number, or a 0-d
    tensor (then it is saved for backward, and editing it in place in between raises instead of lying). The gradient
    keeps the dtype of the incoming one. ``gradcheck`` fails by design: this backward is not the forward's derivative.

    Raises ``ValueError`` where ``lam`` is a tensor with dimensions, which would promote or broadcast the gradient.
    """
    if isinstance(lam, Tensor) and lam.dim() != 0:
        raise ValueError(f"lam has shape {tuple(lam.shape)}; expected a number or a 0-d tensor")
    return _GradientReversal.apply(x, lam)


def gradient_reversal_ref(grad: Tensor, lam: float | Tensor) -> Tensor:
    """What :func:`gradient_reversal` sends back for the incoming ``grad``: ``-lam * grad`` in the dtype of ``grad``."""
    return (-lam * grad).to(grad.dtype)


class _GradientReversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, lam: float | Tensor) -> Tensor:
        if isinstance(lam, Tensor):
            ctx.save_for_backward(lam)
        else:
            ctx.lam = lam
        return x.view_as(x)  # a new tensor, as autograd needs, on the same storage, as memory likes

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (grad,) = grad_outputs
        lam = ctx.saved_tensors[0] if ctx.saved_tensors else ctx.lam
        return gradient_reversal_ref(grad, lam), None
