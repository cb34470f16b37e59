"""The gradient reversal layer of Ganin & Lempitsky (arXiv 1409.7495, section 3.1).

Two user functions: :func:`gradient_reversal`, the layer itself, and :func:`gradient_reversal_fork`, the layer together
with the branching before it, whose backward adds both gradients in the same pass. Behind each is an autograd function
whose outputs share the storage of the input. Only the backward is a registered operator, since one may not return an
alias of its input; it runs the CUDA kernel of :mod:`dann.train.reversal_kernel`, or else :func:`reverse_ref`, which
says in tensor arithmetic what the gradient must be.

λ is an argument of every call. The layer keeps no state, so an extra forward, an evaluation or a resumed run cannot
shift the schedule, which lives in :mod:`dann.train.schedule`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dann.train import reversal_kernel


def gradient_reversal(x: Tensor, lam: float | Tensor, nonfinite: Tensor | None = None) -> Tensor:
    """``x`` unchanged; its gradient is multiplied by ``-lam`` on the way back.

    ``x`` has any shape, layout and floating dtype; the result shares its storage. ``lam`` is a Python number, or a 0-d
    tensor (then it is saved for backward, and editing it in place in between raises instead of lying; a compiled step
    reads it anew each time, a captured CUDA graph if it is on the device). The gradient keeps the dtype of the incoming
    one. ``nonfinite``, a 0-d int64 tensor on the device of ``x``, is raised in backward by the number of gradient
    elements that are not finite. ``gradcheck`` fails by design: this backward is not the forward's derivative.

    Raises ``ValueError`` where ``lam`` is a tensor with dimensions, or ``nonfinite`` cannot count.
    """
    _check(lam, nonfinite)
    return _Reversal.apply(x, lam, nonfinite)


def gradient_reversal_fork(x: Tensor, lam: float | Tensor, nonfinite: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``x`` for the label classifier, and ``x`` for the domain classifier, behind the gradient reversal.

    The same as ``x, gradient_reversal(x, lam)``, but that the gradient of ``x``, ``label - lam * domain``, is computed
    in one pass, with one rounding. Arguments and errors are those of :func:`gradient_reversal`.
    """
    _check(lam, nonfinite)
    return _Fork.apply(x, lam, nonfinite)


def reverse_ref(label: Tensor | None, domain: Tensor, lam: float | Tensor) -> Tensor:
    """``label - lam * domain``, or ``-lam * domain``, in the dtype of ``label``, or of ``domain``.

    Computed in float32, λ included, as one fused multiply-add, and rounded once more to the dtype of the result;
    in float64, for float64, as a product and a sum.
    """
    dtype = domain.dtype if label is None else label.dtype
    compute = _compute_dtype(dtype)
    lam = lam.to(domain.device, compute) if isinstance(lam, Tensor) else torch.tensor(lam, dtype=compute).item()
    if label is None:
        return (-lam * domain.to(compute)).to(dtype)
    # float64 holds the product of two float32 numbers, so that only the sum is rounded
    return (label.double() - lam * domain.double()).to(compute).to(dtype)


def _check(lam: float | Tensor, nonfinite: Tensor | None) -> None:
    if isinstance(lam, Tensor) and lam.dim() != 0:
        raise ValueError(f"lam has shape {tuple(lam.shape)}; expected a number or a 0-d tensor")
    if nonfinite is not None and (nonfinite.dim() or nonfinite.dtype != torch.int64):
        raise ValueError(
            f"nonfinite is {nonfinite.dtype} of shape {tuple(nonfinite.shape)}; expected a 0-d tensor of int64"
        )


def _compute_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


# ---- autograd ----


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, lam: float | Tensor, nonfinite: Tensor | None) -> Tensor:
        _remember(ctx, lam, nonfinite)
        return x.view_as(x)  # a new tensor, as autograd needs, on the same storage, as memory likes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return _reverse(ctx, None, grads[0]), None, None


class _Fork(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, lam: float | Tensor, nonfinite: Tensor | None) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        _remember(ctx, lam, nonfinite)
        return x.view_as(x), x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None, None]:  # type: ignore[override]
        label, domain = grads
        return (label if domain is None else _reverse(ctx, label, domain)), None, None


def _remember(ctx: Any, lam: float | Tensor, nonfinite: Tensor | None) -> None:
    ctx.lam, saved = (None, lam) if isinstance(lam, Tensor) else (float(lam), None)
    ctx.save_for_backward(saved)
    ctx.nonfinite = nonfinite


def _reverse(ctx: Any, label: Tensor | None, domain: Tensor) -> Tensor:
    lam_tensor = ctx.saved_tensors[0]
    if ctx.nonfinite is None:
        return reverse(label, domain, ctx.lam, lam_tensor)
    return reverse_and_count(label, domain, ctx.lam, lam_tensor, ctx.nonfinite)


# ---- the operators, without and with a count ----


@torch.library.custom_op("dann::reverse", mutates_args=())
def reverse(label: Tensor | None, domain: Tensor, lam: float | None, lam_tensor: Tensor | None) -> Tensor:
    """:func:`reverse_ref` by whichever is chosen for the device; λ is ``lam``, or ``lam_tensor`` where that is None.

    The result is dense, and laid out as the first gradient where that is.
    """
    return _compute(label, domain, lam, lam_tensor, None)


@torch.library.custom_op("dann::reverse_and_count", mutates_args=("nonfinite",))
def reverse_and_count(
    label: Tensor | None, domain: Tensor, lam: float | None, lam_tensor: Tensor | None, nonfinite: Tensor
) -> Tensor:
    """:func:`reverse`, adding the number of elements that are not finite to ``nonfinite`` in the same pass."""
    return _compute(label, domain, lam, lam_tensor, nonfinite)


@reverse.register_fake
def _(label: Tensor | None, domain: Tensor, *_: Any) -> Tensor:
    return _result_like(label, domain)


@reverse_and_count.register_fake
def _(label: Tensor | None, domain: Tensor, *_: Any) -> Tensor:
    return _result_like(label, domain)


def _compute(
    label: Tensor | None, domain: Tensor, lam: float | None, lam_tensor: Tensor | None, nonfinite: Tensor | None
) -> Tensor:
    result = _result_like(label, domain)
    factor = lam if lam_tensor is None else lam_tensor
    assert factor is not None
    if isinstance(factor, Tensor) and factor.device.type == "cpu":
        factor = factor.item()
    if reversal_kernel.choice(domain.device).kernel:
        if isinstance(factor, Tensor):
            factor = factor.to(domain.device, _compute_dtype(result.dtype))
        label = None if label is None else _laid_out_as(result, label)
        reversal_kernel.launch(label, _laid_out_as(result, domain), result, factor, nonfinite)
    else:
        result.copy_(_by_torch(label, domain, factor))
        if nonfinite is not None:
            nonfinite += result.isfinite().logical_not().sum()
    return result


def _by_torch(label: Tensor | None, domain: Tensor, lam: float | Tensor) -> Tensor:
    """:func:`reverse_ref`, in float32 by torch's own fused multiply-add where λ is at hand as a number."""
    if label is None or label.dtype == torch.float64 or isinstance(lam, Tensor):
        return reverse_ref(label, domain, lam)
    return torch.add(label.float(), domain.float(), alpha=-lam).to(label.dtype)


def _result_like(label: Tensor | None, domain: Tensor) -> Tensor:
    return torch.empty_like(domain if label is None else label)


def _laid_out_as(result: Tensor, grad: Tensor) -> Tensor:
    if grad.stride() == result.stride():
        return grad
    return torch.empty_like(result, dtype=grad.dtype).copy_(grad)
