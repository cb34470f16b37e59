"""The CUDA source of the gradient reversal, built by g++ and run thread by thread: arithmetic, tails and alignment can
be checked where there is no GPU. What it cannot show are races, and how a GPU rounds.
"""

import ctypes
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from dann.train.reversal_kernel import SOURCE

_CUDA = """
#include <cmath>
#include <cstring>
using std::isfinite;
using std::isnan;
#define __device__ inline
#define __global__
#define __launch_bounds__(threads)
#define __CUDA_ARCH__ 750
static struct { long long x; } blockIdx, threadIdx, gridDim;
template <class To, class From> To bits_as(From from) { To to; memcpy(&to, &from, sizeof to); return to; }
inline float __uint_as_float(unsigned bits) { return bits_as<float>(bits); }
inline unsigned __float_as_uint(float value) { return bits_as<unsigned>(value); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline unsigned __shfl_down_sync(unsigned, unsigned value, int) { return 0; }
inline void atomicAdd(unsigned long long *to, unsigned long long by) { *to += by; }
"""
_PTX = {
    'asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));': "value = bits_as<_Float16>(bits);",
    'asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));': "bits = bits_as<unsigned short>(_Float16(value));",
    "threadIdx.x % 32 == 0 && found": "found",  # no warp: each thread adds its own
}
_RUN = """
extern "C" void run_{name}(
    const void *label, const void *domain, void *result, long long size, double number, const void *lam,
    unsigned long long *nonfinite, int blocks) {{
    gridDim.x = blocks;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < BLOCK; ++threadIdx.x)
            {name}(label, domain, result, size, number, lam, nonfinite);
}}
"""

Kernel = Callable[..., None]


def build(folder: Path) -> dict[tuple[torch.dtype, torch.dtype], Kernel]:
    """By (result dtype, domain dtype): a function of label (or None), domain, result, λ, count (or None), blocks."""
    source = SOURCE.read_text(encoding="utf-8")
    for cuda, plain in _PTX.items():
        assert cuda in source
        source = source.replace(cuda, plain)
    names = re.findall(r"^KERNEL\((\w+),", source, re.MULTILINE)
    assert len(names) == 8
    (folder / "kernel.cpp").write_text(_CUDA + source + "".join(_RUN.format(name=name) for name in names))
    flags = ["-O1", "-std=c++17", "-ffp-contract=off", "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]
    subprocess.run(
        ["g++", *flags, "-w", "-shared", "-fPIC", folder / "kernel.cpp", "-o", folder / "kernel.so"], check=True
    )
    library = ctypes.CDLL(str(folder / "kernel.so"))
    return {_dtypes(name): _call(getattr(library, f"run_{name}")) for name in names}


def _dtypes(name: str) -> tuple[torch.dtype, torch.dtype]:
    _, result, domain = name.split("_")
    return getattr(torch, result), getattr(torch, domain)


def _call(function: Callable[..., None]) -> Kernel:
    def call(
        label: Tensor | None, domain: Tensor, result: Tensor, lam: float | Tensor, count: Tensor | None, blocks: int
    ) -> None:
        number, tensor = (0.0, lam) if isinstance(lam, Tensor) else (lam, None)
        function(
            _pointer(label),
            _pointer(domain),
            _pointer(result),
            ctypes.c_longlong(result.numel()),
            ctypes.c_double(number),
            _pointer(tensor),
            _pointer(count),
            blocks,
        )

    return call


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(0 if tensor is None else tensor.data_ptr())
