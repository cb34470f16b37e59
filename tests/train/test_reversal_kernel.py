"""The CUDA source of the gradient reversal, as far as that goes without a GPU; test_reversal_gpu.py is the rest."""

import io
import itertools
import os
import random
import re
import shutil
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path

import kernel_on_cpu
import pytest
import torch

from dann.infer.errors import DannError, UnavailableError
from dann.train import reversal_kernel
from dann.train.reversal import gradient_reversal, gradient_reversal_fork, reverse_ref

CPU = torch.device("cpu")
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
PAIRS = [(dtype, dtype) for dtype in DTYPES] + [
    pair for half in DTYPES[:2] for pair in ((half, torch.float32), (torch.float32, half))
]
SIZES = (0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 255, 256, 257, 1000, 4097)

# ---- the machine code ----


@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"])
def test_it_compiles_without_a_warning(architecture: str):
    said = io.StringIO()
    code = reversal_kernel.program(architecture).compile("cubin", logs=said)
    assert len(bytes(code.code)) > 10_000
    assert said.getvalue().strip("\0\n") == ""


def test_a_warning_would_be_seen():
    said = io.StringIO()
    source = 'extern "C" __global__ void kernel(int *x) { int unused; x[0] = 1; }'
    import_module("cuda.core").Program(source, "c++", reversal_kernel.options("sm_90")).compile("cubin", logs=said)
    assert "unused" in said.getvalue()


def test_the_code_is_kept_and_found_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = bytes(reversal_kernel.compile_source("sm_80").code)
    (kept,) = files(tmp_path)
    assert kept.read_bytes() == first
    kept.write_bytes(b"not compiled anew")
    assert bytes(reversal_kernel.compile_source("sm_80").code) == b"not compiled anew"
    assert bytes(reversal_kernel.compile_source("sm_75").code) != first
    assert len(files(tmp_path)) == 2


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]


@pytest.mark.slow
def test_several_processes_may_compile_at_once(tmp_path: Path):
    script = "from dann.train import reversal_kernel as kernel; print(len(kernel.compile_source('sm_80').code))"
    command = [sys.executable, "-c", script]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) for _ in range(3)]
    printed = {process.communicate()[0] for process in running}
    assert len(printed) == 1 and int(printed.pop()) > 10_000
    assert [process.returncode for process in running] == [0, 0, 0]


def test_a_cache_that_cannot_be_written_costs_only_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(bytes(reversal_kernel.compile_source("sm_80").code)) > 10_000


# ---- the arithmetic, on the CPU ----


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[torch.dtype, torch.dtype], kernel_on_cpu.Kernel]:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    return kernel_on_cpu.build(tmp_path_factory.mktemp("kernel"))


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return (
        found.dtype == expected.dtype
        and torch.equal(found.isnan(), expected.isnan())
        and bool(((found == expected) | found.isnan()).all())
    )


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: "-".join(str(dtype).removeprefix("torch.") for dtype in pair))
def test_the_source_gives_what_the_reference_says(kernels, pair: tuple[torch.dtype, torch.dtype]):
    rng, (dtype, domain_dtype) = random.Random(0), pair
    draw = torch.Generator().manual_seed(0)
    compute = torch.promote_types(dtype, torch.float32)
    for size, shifts, by_tensor, plain in itertools.product(
        SIZES, [(0, 0, 0), (1, 1, 1), (0, 8, 0), (3, 0, 1)], [False, True], [False, True]
    ):
        if plain and dtype != domain_dtype:
            continue
        label, domain = (
            torch.randn(size + 8, generator=draw).to(kind)[shift : shift + size]
            for kind, shift in zip(pair, shifts[:2], strict=True)
        )
        for value in (float("inf"), float("nan"), -6e4, 1e-40):
            if size:
                domain[rng.randrange(size)] = value
        around = torch.full((size + 16,), 7, dtype=dtype)
        result = around[shifts[2] : shifts[2] + size]
        lam = rng.choice([0.0, 1.0, 0.3, -2.0, rng.random()])
        factor = torch.tensor(lam, dtype=compute) if by_tensor else lam
        count = torch.tensor(5)
        kernels[pair](None if plain else label, domain, result, factor, count, blocks=1 + size // 2048)
        expected = reverse_ref(None if plain else label, domain, lam)
        assert same(result, expected), (size, shifts, lam)
        assert count == 5 + (~expected.isfinite()).sum()
        around[shifts[2] : shifts[2] + size] = 7
        assert (around == 7).all(), "written outside"


def test_nothing_is_counted_unless_asked_for(kernels):
    domain = torch.full((100,), float("nan"))
    result = torch.empty(100)
    kernels[torch.float32, torch.float32](None, domain, result, 1.0, None, blocks=1)
    assert result.isnan().all()


# ---- who computes ----


@pytest.fixture(autouse=True)
def not_chosen_by_hand(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("DANN_REVERSAL", raising=False)


def test_the_cpu_has_the_reference():
    assert reversal_kernel.choice(CPU) == reversal_kernel.Choice(False, "that is no CUDA device but cpu")


def test_it_can_be_turned_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DANN_REVERSAL", "torch")
    assert reversal_kernel.choice(torch.device("cuda", 0)) == reversal_kernel.Choice(False, "DANN_REVERSAL=torch")


@pytest.mark.parametrize("layer", [gradient_reversal, lambda x, lam: sum(gradient_reversal_fork(x, lam))])
def test_a_kernel_forced_on_a_cpu_tensor_says_so(monkeypatch: pytest.MonkeyPatch, layer):
    monkeypatch.setenv("DANN_REVERSAL", "kernel")
    x = torch.ones(3, requires_grad=True)
    with pytest.raises(UnavailableError, match="asks for the CUDA kernel on cpu, and that is no CUDA device"):
        layer(x, 1.0).sum().backward()


def test_a_misspelt_choice_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DANN_REVERSAL", "kernle")
    with pytest.raises(DannError, match="kernle.*kernel"):
        reversal_kernel.choice(CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is for machines without CUDA")
def test_without_a_driver_it_says_what_is_missing():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = reversal_kernel.choice(torch.device("cuda", 0))
    assert not found.kernel and "cannot be compiled or loaded" in found.reason


@pytest.mark.parametrize(
    ("index", "error", "reason"),  # devices that no other test has chosen for
    [
        (6, ImportError("No module named 'cuda'"), r"No module named 'cuda'; run: pip install .cuda-core\[cu"),
        (7, RuntimeError("Failed to dlopen libnvrtc.so.13"), "cannot be compiled or loaded: Failed to dlopen libnvrtc"),
    ],
)
def test_without_nvrtc_torch_computes_and_it_says_why(
    index: int, error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
):
    def kernel(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(reversal_kernel, "_kernel", kernel)
    monkeypatch.delenv("DANN_REVERSAL", raising=False)
    device = torch.device("cuda", index)
    found = reversal_kernel.choice(device)
    assert not found.kernel and re.search(reason, found.reason)
    monkeypatch.setenv("DANN_REVERSAL", "kernel")
    with pytest.raises(UnavailableError, match="asks for the CUDA kernel on cuda:\\d, and .*" + reason):
        reversal_kernel.choice(device)
