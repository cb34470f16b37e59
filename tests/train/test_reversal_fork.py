"""The fork before the two classifiers: both get x, and its gradient is label − λ·domain, rounded once."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.utils.checkpoint import checkpoint

from dann.train import gradient_reversal, gradient_reversal_fork
from dann.train.reversal import reverse, reverse_and_count, reverse_ref

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
LAYOUTS = {
    "dense": lambda: random(5, 7),
    "transposed": lambda: random(5, 7).t(),
    "strided": lambda: random(8, 6)[::2, 1::3],
    "channels_last": lambda: random(2, 3, 4, 4).to(memory_format=torch.channels_last),
    "empty": lambda: random(0, 7),
    "expanded": lambda: random(1, 4).expand(6, 4),
    "shifted": lambda: random(9)[1:],
    "0-d": lambda: random(),
}


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def forked_gradient(x: Tensor, lam: float | Tensor, label: Tensor, domain: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    (result,) = torch.autograd.grad(gradient_reversal_fork(x, lam), x, (label, domain))
    return result


def once_rounded(label: Tensor, domain: Tensor, lam: float) -> Tensor:
    """In NumPy's 80-bit numbers, where only the sum is rounded, to float32; then to the dtype of ``label``."""
    wide = label.to(torch.float32).numpy().astype(np.longdouble)
    product = np.longdouble(np.float32(lam)) * domain.to(torch.float32).numpy().astype(np.longdouble)
    return torch.from_numpy((wide - product).astype(np.float32)).to(label.dtype)


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("lam", [0.0, 1.0, 0.3, 7.5, -0.4])
def test_the_gradient_is_rounded_once(dtype: torch.dtype, lam: float):
    label, domain = random(40_000, dtype=dtype), random(40_000, dtype=dtype, seed=1)
    expected = once_rounded(label, domain, lam)
    for factor in (lam, torch.tensor(lam), torch.tensor(lam, dtype=torch.float64)):
        result = forked_gradient(random(40_000, dtype=dtype), factor, label, domain)
        assert result.dtype == dtype and torch.equal(result, expected)


def test_one_rounding_is_not_two():
    label, domain = random(40_000), random(40_000, seed=1)
    assert not torch.equal(once_rounded(label, domain, 0.3), label - 0.3 * domain)


@pytest.mark.parametrize("lam", [0.3, torch.tensor(0.3, dtype=torch.float64)], ids=["number", "tensor"])
def test_float64_is_computed_in_float64(lam: float | Tensor):
    label, domain = random(1000, dtype=torch.float64), random(1000, dtype=torch.float64, seed=1)
    assert torch.equal(forked_gradient(label, lam, label, domain), label - 0.3 * domain)


@pytest.mark.parametrize("half", DTYPES[:2], ids=str)
def test_the_gradients_may_be_of_different_dtypes(half: torch.dtype):
    label, domain = random(1000), random(1000, dtype=half, seed=1)
    assert torch.equal(reverse(label, domain, 0.3, None), once_rounded(label, domain, 0.3))
    assert torch.equal(reverse(domain, label, 0.3, None), once_rounded(domain, label, 0.3))


def test_both_classifiers_get_x_itself():
    x = random(4, 2).requires_grad_()
    for result in gradient_reversal_fork(x, 0.5):
        assert torch.equal(result, x) and result.data_ptr() == x.data_ptr()
        assert result is not x and result.grad_fn is not None


def test_it_is_the_layer_after_a_branching():
    x = random(4, 3).requires_grad_()
    label, domain = gradient_reversal_fork(x, 0.7)
    (forked,) = torch.autograd.grad((label.sin() + domain.exp()).sum(), x)
    (apart,) = torch.autograd.grad((x.sin() + gradient_reversal(x, 0.7).exp()).sum(), x)
    torch.testing.assert_close(forked, apart)


@pytest.mark.parametrize("used", [(True, False), (False, True), (False, False)])
def test_a_classifier_that_is_not_used_sends_nothing_back(used: tuple[bool, bool]):
    x = random(4, 3).requires_grad_()
    both = gradient_reversal_fork(x, 0.7)
    total = sum((result.sum() for result, wanted in zip(both, used, strict=True) if wanted), start=x.sum() * 0)
    total.backward()
    assert x.grad is not None and torch.equal(x.grad, torch.full((4, 3), used[0] - (0.7 if used[1] else 0.0)))


@pytest.mark.parametrize("x", LAYOUTS)
@pytest.mark.parametrize("label", ["same", "dense"])
@pytest.mark.parametrize("domain", ["same", "dense"])
def test_any_layout_works(x: str, label: str, domain: str):
    value = LAYOUTS[x]()
    of_label, of_domain = (LAYOUTS[x]() + 1 if given == "same" else value.contiguous() - 2 for given in (label, domain))
    expected = reverse_ref(of_label, of_domain, 0.7)
    assert torch.equal(forked_gradient(value, 0.7, of_label, of_domain), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layer", [gradient_reversal, gradient_reversal_fork])
def test_what_is_not_finite_is_counted(layer, dtype: torch.dtype):
    x, count = random(3, 5, dtype=dtype).requires_grad_(), torch.tensor(2)
    for _ in range(2):
        result = layer(x, 2.0, count)
        reversed_x = result if isinstance(result, Tensor) else result[1]
        grad = torch.ones(3, 5, dtype=dtype)
        grad[0, 1], grad[1, 2], grad[2, 2] = float("nan"), float("inf"), -torch.finfo(dtype).max  # doubled: overflows
        reversed_x.backward(grad)
    assert count == 8


@pytest.mark.parametrize(
    "count", [torch.zeros(1, dtype=torch.int64), torch.tensor(0.0), torch.tensor(0, dtype=torch.int32)]
)
@pytest.mark.parametrize("layer", [gradient_reversal, gradient_reversal_fork])
def test_what_cannot_count_is_refused(layer, count: Tensor):
    with pytest.raises(ValueError, match="expected a 0-d tensor of int64"):
        layer(random(3), 1.0, count)


def test_a_lam_with_dimensions_is_refused():
    with pytest.raises(ValueError, match="expected a number or a 0-d tensor"):
        gradient_reversal_fork(random(3), torch.ones(1))


def test_editing_a_tensor_lam_before_backward_raises():
    x, lam = random(3).requires_grad_(), torch.tensor(0.5)
    results = gradient_reversal_fork(x, lam)
    lam.fill_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (results[0] + results[1]).sum().backward()


def test_the_gradients_of_the_caller_are_not_changed_in_place():
    label, domain = random(3), random(3, seed=1)
    forked_gradient(random(3), 2.0, label, domain)
    assert torch.equal(label, random(3)) and torch.equal(domain, random(3, seed=1))


@pytest.mark.parametrize("layer", [gradient_reversal, lambda x, lam: sum(gradient_reversal_fork(x, lam))])
def test_a_second_derivative_is_refused(layer):
    x = random(3).requires_grad_()
    (grad,) = torch.autograd.grad(layer(x**2, 0.5).sin().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_under_autocast_the_gradient_stays_in_the_dtype_of_the_features():
    linear, x = torch.nn.Linear(4, 3), random(5, 4)
    with torch.autocast("cpu", torch.bfloat16):
        features = linear(x)
        features.retain_grad()
        label, domain = gradient_reversal_fork(features, 0.3)
        loss = linear.weight.sum() * label.sum() + domain.float().exp().sum()
    loss.backward()
    assert label.dtype == domain.dtype == torch.bfloat16
    assert features.grad is not None and features.grad.dtype == torch.bfloat16


def test_under_checkpointing_the_gradient_is_the_same():
    def loss(x: Tensor) -> Tensor:
        label, domain = gradient_reversal_fork(x.sin(), 0.4)
        return (label.exp() + domain.cos()).sum()

    x = random(6).requires_grad_()
    loss(x).backward()
    for reentrant in (False, True):
        again = random(6).requires_grad_()
        checkpoint(loss, again, use_reentrant=reentrant).backward()
        assert x.grad is not None and again.grad is not None and torch.equal(again.grad, x.grad)


# ---- torch.compile ----

# torch 2.9 compiles any autograd function by making an instance of it, and warns of that
of_torch_itself = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


def loss(x: Tensor, lam: float | Tensor, count: Tensor | None) -> Tensor:
    label, domain = gradient_reversal_fork(x * 2, lam, count)
    return label.sin().sum() + domain.cos().sum()


@of_torch_itself
@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_it_compiles_into_one_graph(backend: str, counted: bool):
    torch.compiler.reset()
    count = torch.tensor(0) if counted else None
    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    for lam in (0.3, 0.5, 0.7):
        x, again = random(4).requires_grad_(), random(4).requires_grad_()
        compiled(x, torch.tensor(lam), count).backward()
        loss(again, lam, None).backward()
        torch.testing.assert_close(x.grad, again.grad)
    compiled(torch.full((4,), float("nan"), requires_grad=True), torch.tensor(0.1), count).backward()
    assert count is None or count == 4


@of_torch_itself
@pytest.mark.parametrize(("kind", "compilations"), [(torch.tensor, 1), (float, 3)])
def test_a_tensor_lam_compiles_once_and_a_number_each_time(kind, compilations: int):
    torch.compiler.reset()
    counter = CompileCounter()
    compiled = torch.compile(loss, fullgraph=True, backend=counter, dynamic=False)
    for lam in (0.3, 0.5, 0.7):
        compiled(random(4).requires_grad_(), kind(lam), None)
    assert counter.frame_count == compilations


@pytest.mark.parametrize("lam", [(0.3, None), (None, torch.tensor(0.3))], ids=["number", "tensor"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_operators_keep_the_rules_of_torch(layout: str, lam: tuple[float | None, Tensor | None]):
    for label in (LAYOUTS[layout](), LAYOUTS[layout]().contiguous(), None):
        torch.library.opcheck(reverse, (label, LAYOUTS[layout](), *lam))
        torch.library.opcheck(reverse_and_count, (label, LAYOUTS[layout](), *lam, torch.tensor(0)))
