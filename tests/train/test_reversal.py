"""Gradient reversal: forward is x, the gradient is exactly −λ·g."""

import shutil

import pytest
import torch
from torch.autograd.gradcheck import GradcheckError

from dann.train.reversal import gradient_reversal, reverse_ref

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def reversed_gradient(x: torch.Tensor, lam: float | torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    x = x.detach().requires_grad_()
    (result,) = torch.autograd.grad(gradient_reversal(x, lam), x, grad)
    return result


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lam", [0, 0.0, 1, 1.0, 0.3, 1e-3, 7.5, -0.4])
def test_the_gradient_is_exactly_minus_lam_times_the_incoming_one(dtype: torch.dtype, lam: float):
    x, grad = random(5, 3, dtype=dtype), random(5, 3, dtype=dtype, seed=1)
    result = reversed_gradient(x, lam, grad)
    assert result.dtype == dtype
    assert torch.equal(result, -lam * grad)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lam_dtype", [torch.float16, torch.float32, torch.float64])
def test_a_tensor_lam_keeps_the_dtype_of_the_gradient(dtype: torch.dtype, lam_dtype: torch.dtype):
    lam = torch.tensor(0.25, dtype=lam_dtype)
    for shape in ((5, 3), ()):  # a 0-d gradient would be promoted by the arithmetic
        grad = random(*shape, dtype=dtype, seed=1)
        result = reversed_gradient(random(*shape, dtype=dtype), lam, grad)
        assert result.dtype == dtype
        assert torch.equal(result, -0.25 * grad)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_forward_is_the_same_values_on_the_same_storage(dtype: torch.dtype):
    x = random(4, 2, dtype=dtype).requires_grad_()
    result = gradient_reversal(x, 0.5)
    assert result.dtype == dtype and torch.equal(result, x)
    assert result.data_ptr() == x.data_ptr()
    assert result is not x and result.grad_fn is not None


LAYOUTS = {
    "transposed": lambda: random(3, 5).t(),
    "strided": lambda: random(8, 6)[::2, 1::3],
    "channels_last": lambda: random(2, 3, 4, 4).to(memory_format=torch.channels_last),
    "empty": lambda: random(0, 7),
    "expanded": lambda: random(1, 4).expand(6, 4),
    "0-d": lambda: random(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_of_input_and_gradient_works(layout: str):
    x, grad = LAYOUTS[layout](), LAYOUTS[layout]() + 1
    assert gradient_reversal(x, 0.7).stride() == x.stride()
    for incoming in (grad, grad.contiguous()):
        assert torch.equal(reversed_gradient(x, 0.7, incoming), -0.7 * incoming)


def test_the_gradient_of_the_caller_is_not_changed_in_place():
    grad = random(3)
    reversed_gradient(random(3), 2.0, grad)
    assert torch.equal(grad, random(3))


def test_editing_a_tensor_lam_before_backward_raises():
    x, lam = random(3).requires_grad_(), torch.tensor(0.5)
    result = gradient_reversal(x, lam)
    lam.fill_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.sum().backward()


@pytest.mark.parametrize("shape", [(1,), (3,), (1, 1)])
def test_a_lam_with_dimensions_is_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="expected a number or a 0-d tensor"):
        gradient_reversal(random(3), torch.ones(shape))


def test_two_forwards_use_their_own_lam():
    x = random(3).requires_grad_()
    (gradient_reversal(x, 0.5) + gradient_reversal(x, 2.0)).sum().backward()
    assert x.grad is not None and torch.equal(x.grad, torch.full((3,), -2.5))


def test_under_autocast_the_gradient_stays_in_the_dtype_of_the_features():
    linear, x = torch.nn.Linear(4, 3), random(5, 4)
    with torch.autocast("cpu", torch.bfloat16):
        features = linear(x)
        features.retain_grad()
        result = gradient_reversal(features, 0.3)
    grad = random(5, 3, dtype=torch.bfloat16, seed=1)
    result.backward(grad)
    assert result.dtype == torch.bfloat16
    assert features.grad is not None and torch.equal(features.grad, -0.3 * grad)


def test_gradcheck_fails_because_backward_is_not_the_derivative_of_forward():
    x = random(3, dtype=torch.float64).requires_grad_()
    with pytest.raises(GradcheckError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(lambda x: gradient_reversal(x, 1.0), x)
    assert torch.autograd.gradcheck(lambda x: gradient_reversal(x, -1.0), x)  # −λ = 1: the plain identity


def test_the_reference_says_what_the_layer_sends_back():
    grad = random(4, dtype=torch.bfloat16)
    assert torch.equal(reverse_ref(None, grad, 0.3), reversed_gradient(torch.zeros(4, dtype=torch.bfloat16), 0.3, grad))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_reference_keeps_the_dtype_of_a_0d_gradient(dtype: torch.dtype):
    assert reverse_ref(None, random(dtype=dtype), torch.tensor(0.5, dtype=torch.float64)).dtype == dtype


# torch 2.9 compiles any autograd function by making an instance of it, and warns of that
of_torch_itself = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


def compiled_gradient(backend: str) -> torch.Tensor:
    torch.compiler.reset()
    function = torch.compile(lambda x, lam: gradient_reversal(x * 2, lam).sin(), fullgraph=True, backend=backend)
    x = random(4).requires_grad_()
    function(x, torch.tensor(0.3)).sum().backward()
    assert x.grad is not None
    return x.grad


def expected_gradient() -> torch.Tensor:
    return -0.3 * 2 * (random(4) * 2).cos()


@of_torch_itself
def test_it_compiles_into_one_graph():
    torch.testing.assert_close(compiled_gradient("aot_eager"), expected_gradient())


@of_torch_itself
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler on the CPU")
def test_the_generated_code_gives_the_same_gradient():
    torch.testing.assert_close(compiled_gradient("inductor"), expected_gradient())
