"""What a measurement was made on, in one line, as every published number needs beside it."""

import os
import platform
from pathlib import Path

import torch

from dann.infer.cores import usable_cores

_CPU_INFO = Path("/proc/cpuinfo")


def describe_machine() -> str:
    """Processor, cores that this process may use and threads that it does, GPU if there is one, version of torch.

    >>> describe_machine()  # doctest: +SKIP
    'AMD EPYC, 2 cores (OMP_NUM_THREADS=1), torch 2.15.0'
    """
    cores = usable_cores()
    threads = os.environ.get("OMP_NUM_THREADS")
    parts = [processor(), f"{cores} core{'s' * (cores > 1)}" + (f" (OMP_NUM_THREADS={threads})" if threads else "")]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join([*parts, f"torch {torch.__version__}"])


def processor() -> str:
    """The name of the CPU model where the system tells it, else of the architecture."""
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
