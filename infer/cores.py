"""How many cores there are to work on."""

import os


def usable_cores() -> int:
    """Cores this process may use, which a container or a batch system can make fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
