"""How many cores there are to work on, and of what kind."""

import os
import platform
from contextlib import suppress
from pathlib import Path

_INSTRUCTIONS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx_vnni": "VNNI",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "amx_tile": "AMX",
}
"""By flag of Linux."""


def usable_cores() -> int:
    """Cores this process may use, which a container or a batch system can make fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """The processor and the widest of its instructions that networks are computed with: ``AMD EPYC (AVX2)``."""
    about: dict[str, str] = {}
    with suppress(OSError):  # Linux has it
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        about = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    flags = set(about.get("flags", "").split())
    known = [name for flag, name in _INSTRUCTIONS.items() if flag in flags]
    name = about.get("model name") or platform.processor() or platform.machine()
    return f"{name} ({', '.join(known)})" if known else name
