"""The CUDA kernel of the gradient reversal on a GPU, against the reference on the CPU.

python -m pytest -m gpu tests/train/test_reversal_gpu.py
"""

import os
import random
import shutil
import subprocess
import sys
import threading

import pytest
import torch
from gpu import nothing_waits
from torch import Tensor

from dann.train import gradient_reversal_fork
from dann.train.reversal import reverse, reverse_and_count, reverse_ref

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
PAIRS = [(dtype, dtype) for dtype in DTYPES] + [
    pair for half in DTYPES[:2] for pair in ((half, torch.float32), (torch.float32, half))
]
GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def forced(monkeypatch: pytest.MonkeyPatch):
    """The kernel or an error: nothing falls back to torch here."""
    monkeypatch.setenv("DANN_REVERSAL", "kernel")


def same(found: Tensor, expected: Tensor) -> bool:
    """Equal to the last bit, but for what a NaN looks like."""
    found = found.cpu()
    return found.dtype == expected.dtype and bool(((found == expected) | (found.isnan() & expected.isnan())).all())


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: "-".join(str(dtype).removeprefix("torch.") for dtype in pair))
def test_ten_thousand_random_inputs_give_what_the_reference_says(pair: tuple[torch.dtype, torch.dtype]):
    rng, draw = random.Random(str(pair)), torch.Generator().manual_seed(0)
    for trial in range(10_000 // len(PAIRS)):
        shape = [rng.choice([0, 1, 2, 3, 5, 8, 17, 64, 129]) for _ in range(rng.randrange(4))]
        grads = [_laid_out(torch.randn(shape, generator=draw).to(dtype), rng) for dtype in pair]
        label = None if pair[0] == pair[1] and rng.random() < 0.3 else grads[0]
        domain = grads[1].mul(10.0 ** rng.randrange(-30, 30)) if rng.random() < 0.2 else grads[1]
        lam = rng.choice([0.0, 1.0, 0.3, -2.0, rng.random()])
        expected = reverse_ref(label, domain, lam)
        on_gpu = [None if grad is None else _copied_with_layout(grad) for grad in (label, domain)]
        factor = (lam, None) if rng.random() < 0.5 else (None, torch.tensor(lam, device=GPU, dtype=torch.float64))
        count = torch.tensor(7, device=GPU)
        assert on_gpu[1] is not None
        for found in (
            reverse(on_gpu[0], on_gpu[1], *factor),
            reverse_and_count(on_gpu[0], on_gpu[1], *factor, count),
        ):
            assert same(found, expected), (trial, shape, lam)
        assert count == 7 + (~expected.isfinite()).sum()


def _laid_out(tensor: Tensor, rng: random.Random) -> Tensor:
    """The values of ``tensor`` in memory that is shifted, strided, permuted, expanded or plain."""
    how = rng.choice(["plain", "shifted", "strided", "permuted", "expanded"])
    if how == "shifted":
        return (
            torch.cat([tensor.new_zeros(rng.randrange(1, 9)), tensor.flatten()])[-tensor.numel() or None :].view(
                tensor.shape
            )
            if tensor.numel()
            else tensor
        )
    if tensor.dim() == 0:
        return tensor
    if how == "strided":
        return tensor.repeat_interleave(2, dim=-1)[..., ::2]
    if how == "permuted":
        return tensor.movedim(0, -1).contiguous().movedim(-1, 0)
    if how == "expanded" and len(tensor):
        return tensor[:1].expand(tensor.shape)
    return tensor


def _copied_with_layout(tensor: Tensor) -> Tensor:
    """On the GPU, at the same offset of a storage and with the same strides."""
    storage = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage()).to(GPU)
    return storage.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def test_channels_last_stays_channels_last():
    label, domain = (torch.randn(4, 8, 6, 6, device=GPU).to(memory_format=torch.channels_last) for _ in range(2))
    found = reverse(label, domain, 0.3, None)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert same(found, reverse_ref(label.cpu(), domain.cpu(), 0.3))


@pytest.mark.slow
def test_more_elements_than_32_bits_can_count():
    size = 2**31 + 4097
    if torch.cuda.mem_get_info(GPU)[0] < 5 * 2 * size:
        pytest.skip("needs 22 GB of free GPU memory")
    label = torch.zeros(size, dtype=torch.bfloat16, device=GPU)
    domain = torch.zeros(size, dtype=torch.bfloat16, device=GPU)
    for place in (0, 2**31 - 1, 2**31, size - 1):
        label[place], domain[place] = 3.0, 2.0
    count = torch.tensor(0, device=GPU)
    found = reverse_and_count(label, domain, 0.5, None, count)
    assert all(found[place] == 2.0 for place in (0, 2**31 - 1, 2**31, size - 1))
    assert int(found.count_nonzero()) == 4 and count == 0
    domain.fill_(float("inf"))
    reverse_and_count(None, domain, 0.5, None, count)
    assert count == size


def test_a_captured_graph_replays_with_another_lam():
    lam = torch.tensor(0.0, device=GPU)
    count = torch.tensor(0, device=GPU)
    x = torch.randn(64, 512, device=GPU, requires_grad=True)

    def step() -> Tensor:
        label, domain = gradient_reversal_fork(x, lam, count)
        (grad,) = torch.autograd.grad((label.sin() + domain.cos()).sum(), x)
        return grad

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    for value in (0.25, 1.0, 0.7):
        lam.fill_(value)
        graph.replay()
        torch.testing.assert_close(found, (x.cos() + value * x.sin()).detach())
    x.detach()[0, 0] = float("nan")
    graph.replay()
    assert count == 1


def test_a_thread_of_the_user_may_call_it_first():
    domain, found = torch.ones(8, device=GPU), []
    thread = threading.Thread(target=lambda: found.append(reverse(None, domain, 0.5, None)))
    thread.start()
    thread.join()
    assert (found[0] == -0.5).all()


def test_it_may_be_the_first_node_of_a_backward_pass():
    x = torch.ones(8, device=GPU, requires_grad=True)
    (found,) = torch.autograd.grad(gradient_reversal_fork(x, 0.5), x, (torch.ones_like(x), torch.ones_like(x)))
    assert (found == 0.5).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch itself
def test_a_compiled_step_replays_with_another_lam():
    torch.compiler.reset()

    def loss(x: Tensor, lam: Tensor) -> Tensor:
        label, domain = gradient_reversal_fork(x * 2, lam)
        return label.sin().sum() + domain.cos().sum()

    compiled = torch.compile(loss, fullgraph=True, mode="reduce-overhead")
    for value in (0.25, 1.0, 0.7, 0.1):
        x = torch.randn(64, 512, device=GPU, requires_grad=True)
        compiled(x, torch.tensor(value, device=GPU)).backward()
        torch.testing.assert_close(x.grad, 2 * ((2 * x).cos() + value * (2 * x).sin()).detach())


def test_it_runs_on_the_current_stream():
    domain, stream = torch.zeros(2**24, device=GPU), torch.cuda.Stream()
    reverse(None, domain.fill_(0.0), 0.5, None)  # loads the kernels
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # about 50 ms: a kernel on another stream would overtake
        domain.fill_(2.0)
        found = reverse(None, domain, 0.5, None)
    stream.synchronize()
    assert (found == -1.0).all()


@pytest.mark.parametrize("lam", ["number", "tensor"])
def test_nothing_waits_for_the_gpu(lam: str):
    label, domain = torch.randn(1000, device=GPU), torch.randn(1000, device=GPU)
    factor = (0.3, None) if lam == "number" else (None, torch.tensor(0.3, device=GPU))
    count = torch.tensor(0, device=GPU)
    reverse(label, domain, *factor)
    reverse_and_count(label, domain, *factor, count)
    with nothing_waits():
        reverse(label, domain, *factor)
        reverse_and_count(label, domain, *factor, count)


@pytest.mark.parametrize("amp", [torch.float16, torch.bfloat16])
def test_under_autocast_it_gives_what_the_reference_gives(amp: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    def gradient() -> Tensor:
        torch.manual_seed(0)
        linear = torch.nn.Linear(16, 32, device=GPU)
        with torch.autocast("cuda", amp):
            label, domain = gradient_reversal_fork(linear(torch.randn(8, 16, device=GPU)), 0.3)
        (label.float().sin() + domain.float().exp()).sum().backward()
        assert linear.weight.grad is not None
        return linear.weight.grad

    by_kernel = gradient()
    monkeypatch.setenv("DANN_REVERSAL", "torch")
    assert torch.equal(by_kernel, gradient())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_each_gpu_has_its_own_kernel():
    for index in range(torch.cuda.device_count()):
        domain = torch.randn(1000)
        found = reverse(None, domain.to(f"cuda:{index}"), 0.3, None)
        assert found.device.index == index and same(found, reverse_ref(None, domain, 0.3))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="compute-sanitizer is not installed")
def test_compute_sanitizer_finds_nothing():
    script = (
        "import torch; from dann.train.reversal import reverse_and_count\n"
        "for size in (1, 7, 8, 4097):\n"
        "    grads = [torch.randn(size + 1, device='cuda').bfloat16()[1:] for _ in range(2)]\n"
        "    reverse_and_count(*grads, 0.3, None, torch.tensor(0, device='cuda'))\n"
    )
    done = subprocess.run(
        ["compute-sanitizer", "--report-api-errors", "no", "--error-exitcode", "9", sys.executable, "-c", script],
        # without torch's cache each tensor is an allocation of its own, past whose end nothing may be read
        env={**os.environ, "DANN_REVERSAL": "kernel", "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]
