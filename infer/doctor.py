"""What inference finds on this machine, for people and for programs.

What an engine offers says little of what works: onnxruntime names CUDA where no driver is, TensorRT may end the process
there, a broken driver may hang it. So each runtime is tried in a process of its own (``doctor_attempts``), with a time
limit: it prints a line of JSON before each attempt and after it, and the last word counts.
"""

import json
import platform
import subprocess
import sys
import time
from importlib import metadata
from typing import Any

from dann.infer.cores import usable_cores

_SECONDS = 60.0
_ONE_FOLDER = (  # packages that are installed over each other
    ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino"),
    ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
)
_OTHERS = ("numpy", "cuda-python", "tensorrt", "tensorrt-rtx", "openvino", "torch", "onnx")


def machine() -> str:
    """Version, interpreter, platform and cores."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"dann {metadata.version('dann')}, {python}, {platform.platform()}, {usable_cores()} cores"


def report(*, seconds: float = _SECONDS) -> dict[str, Any]:
    """What ``dann doctor --json`` says of inference; its docstring has the keys. A runtime gets ``seconds``."""
    names = ("cuda", "onnxruntime", "tensorrt", "tensorrt-rtx", "openvino")
    running = {name: _start(name) for name in names}
    deadline = time.monotonic() + seconds
    said = {name: _last_words(name, process, deadline, seconds) for name, process in running.items()}
    [cuda] = said.pop("cuda")
    return {
        "packages": packages(),
        "conflicts": conflicts(),
        "cuda": {"driver": cuda.get("driver"), "devices": cuda.get("devices", []), "reason": cuda["reason"]},
        "engines": [entry for name in said for entry in said[name]],
    }


def entry(engine: str, version: str | None = None, runs_on: str | None = None, **outcome: Any) -> dict[str, Any]:
    """One of the ``engines`` of a report. Neither does it work nor is there a reason: an attempt was begun."""
    return {"engine": engine, "version": version, "runs_on": runs_on, "works": False, "reason": None, **outcome}


def lines(found: dict[str, Any]) -> list[str]:
    """A report, for people."""
    import cv2

    cuda = found["cuda"]
    about = [
        f"cuda:{device['index']}: {device['name']}, {device['memory_bytes'] / 2**30:.0f} GiB, "
        f"compute capability {device['compute_capability']}, driver for CUDA {cuda['driver']}"
        for device in cuda["devices"]
    ]
    engines = map(_line, found["engines"])
    return [f"OpenCV {cv2.__version__}", *(about or [cuda["reason"]]), *engines, *found["conflicts"]]


def _line(tried: dict[str, Any]) -> str:
    name = " ".join(filter(None, (tried["engine"], tried["version"])))
    on = f" on {tried['runs_on']}" if tried["runs_on"] else ""
    return f"{name}{on}: {'works' if tried['works'] else tried['reason']}"


def conflicts() -> list[str]:
    """Packages that are installed over each other, with the lines to type."""
    found = [[name for name in names if _version(name)] for names in _ONE_FOLDER]
    return [
        f"{' and '.join(names)} overwrite each other; run: pip uninstall {' '.join(names)}; then install one of them"
        for names in found
        if len(names) > 1
    ]


def packages() -> dict[str, str]:
    """Versions of those that matter and are installed, by name."""
    names = (*_OTHERS, *(name for names in _ONE_FOLDER for name in names))
    return {name: version for name in sorted(names) if (version := _version(name))}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _start(name: str) -> subprocess.Popen[str]:
    code = f"from dann.infer.doctor_attempts import attempt; attempt({name!r})"
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-P", "-c", code], stdout=pipe, stderr=pipe, text=True, errors="replace")


def _last_words(name: str, process: subprocess.Popen[str], deadline: float, seconds: float) -> list[dict[str, Any]]:
    """The last entry for each place to run on, or one without. What was begun and not ended gets the reason."""
    try:
        stdout, stderr = process.communicate(timeout=max(0.0, deadline - time.monotonic()))
        ended = f"the process ended with code {process.returncode}: {_last_line(stderr)}"
    except subprocess.TimeoutExpired:
        process.kill()
        stdout, _ = process.communicate()
        ended = f"no answer within {seconds:.0f} s"
    said = [json.loads(line) for line in stdout.splitlines() if line.startswith('{"engine": ')]
    last = {tried["runs_on"]: tried for tried in said or [entry(name)]}
    return [tried if tried["works"] or tried["reason"] else {**tried, "reason": ended} for tried in last.values()]


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]
