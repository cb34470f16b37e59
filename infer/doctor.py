"""What inference finds on this machine, in lines for people."""

import platform
from importlib.metadata import version

from dann.infer.cores import usable_cores


def machine() -> str:
    """Version, interpreter, platform and cores."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"dann {version('dann')}, {python}, {platform.platform()}, {usable_cores()} cores"


def lines() -> list[str]:
    """OpenCV, and the engine with what it can run on."""
    import cv2

    found = [f"OpenCV {cv2.__version__}"]
    try:
        from dann.infer.ort_engine import about
    except ModuleNotFoundError:
        return [*found, 'onnxruntime is not installed; run: pip install "dann[cpu]", or "dann[gpu]" for CUDA']
    return [*found, about()]
