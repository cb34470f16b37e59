"""`dann doctor`: what of the machine can be used, and why not."""

import json
import os
import re
from importlib import metadata
from pathlib import Path

import cv2
import onnxruntime
import pytest
import torch
from command import dann, done, refused

from dann.infer import doctor
from dann.train.device import cuda_obstacle


@pytest.fixture(autouse=True)
def not_chosen_by_hand(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("DANN_REVERSAL", raising=False)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose packages come before those that are installed, here and in other processes."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def engines(**options: float) -> dict[tuple[str, str | None], str]:
    """By engine and what it runs on: ``works``, or the reason."""
    found = doctor.report(**options)["engines"]
    assert all(tried["works"] is (tried["reason"] is None) for tried in found)
    return {(tried["engine"], tried["runs_on"]): tried["reason"] or "works" for tried in found}


def test_it_says_what_is_here():
    said = done("doctor").stdout
    assert re.match(r"dann \d+\.\d+\.\S+, CPython 3\.\d+\.\d+, .+, \d+ cores\n", said)
    assert f"torch {torch.__version__}, built for" in said
    assert f"OpenCV {cv2.__version__}" in said
    assert f"onnxruntime {onnxruntime.__version__} on CPUExecutionProvider: works\n" in said
    assert "cpu: gradient reversal by torch (that is no CUDA device but cpu)" in said


def test_the_same_as_json():
    found = json.loads(done("doctor", "--json").stdout)
    assert list(found) == ["dann", "train", "packages", "conflicts", "cuda", "engines"]
    assert found["packages"]["numpy"] == metadata.version("numpy")
    assert list(found["cuda"]) == ["driver", "devices", "reason"]
    assert (found["cuda"]["reason"] is None) is bool(found["cuda"]["devices"])
    keys = {"engine", "version", "runs_on", "works", "reason"}
    assert all(tried.keys() == keys for tried in found["engines"])
    assert {tried["engine"] for tried in found["engines"]} == {"onnxruntime", "tensorrt", "tensorrt-rtx", "openvino"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="is for machines without CUDA")
def test_without_cuda_it_says_why():
    reason = cuda_obstacle()
    said = done("doctor").stdout
    assert reason and reason in said
    assert "  infer  CUDA does not work here: " in said or "using CUDA without torch needs cuda-python" in said


def test_an_engine_that_is_offered_is_tried():
    """The build of onnxruntime for CPUs offers Azure, too, which asks a server and computes nothing."""
    offered = [name for name in onnxruntime.get_available_providers() if name != "AzureExecutionProvider"]
    found = {runs_on: said for (engine, runs_on), said in engines().items() if engine == "onnxruntime"}
    assert list(found) == offered and found["CPUExecutionProvider"] == "works"


def test_a_runtime_that_is_broken_is_said_and_hides_no_other(site: Path):
    (site / "tensorrt.py").write_text("print('no line end', end='')\nimport os; os.abort()")
    (site / "tensorrt_rtx.py").write_text("raise OSError('libtensorrt_rtx.so is damaged')")
    found = engines()
    assert found["tensorrt", None].startswith("the process ended with code -6: ")
    damaged = 'tensorrt-rtx does not load (libtensorrt_rtx.so is damaged); run: pip install "dann[trt-rtx]"'
    assert found["tensorrt-rtx", None] == damaged
    assert found["onnxruntime", "CPUExecutionProvider"] == "works"


@pytest.mark.slow
def test_a_runtime_that_hangs_is_given_up(site: Path):
    (site / "tensorrt.py").write_text("import time; time.sleep(600)")
    found = engines(seconds=20)
    assert found["tensorrt", None] == "no answer within 20 s"
    assert found["onnxruntime", "CPUExecutionProvider"] == "works"


@pytest.mark.skipif(torch.cuda.is_available(), reason="is for machines without CUDA")
def test_tensorrt_is_loaded_but_not_started_without_cuda(site: Path):
    (site / "tensorrt.py").write_text("print('no line end', end='')\n__version__ = '10.0.1'")
    [tried] = [tried for tried in doctor.report()["engines"] if tried["engine"] == "tensorrt"]
    assert tried["version"] == "10.0.1" and tried["reason"].startswith("it loads, but ")


def test_what_is_not_installed_is_named_with_the_line_to_type(site: Path):
    for package in ("onnxruntime", "tensorrt", "tensorrt_rtx", "openvino"):
        (site / f"{package}.py").write_text(f"raise ModuleNotFoundError('no', name={package!r})")
    assert {engine: re.findall(r'pip install "dann\[(.+)\]"', said) for (engine, _), said in engines().items()} == {
        "onnxruntime": ["cpu"],
        "tensorrt": ["trt"],
        "tensorrt-rtx": ["trt-rtx"],
        "openvino": ["openvino"],
    }


def test_packages_that_overwrite_each_other_are_named(site: Path):
    assert not any("onnxruntime-gpu" in text for text in doctor.conflicts())
    for package in ("onnxruntime", "onnxruntime_gpu"):
        (site / f"{package}-9.dist-info").mkdir()
        (site / f"{package}-9.dist-info" / "METADATA").write_text(f"Name: {package}\nVersion: 9\n")
    [line] = [line for line in doctor.conflicts() if "onnxruntime" in line]
    assert line.startswith("onnxruntime and onnxruntime-gpu overwrite each other; run: pip uninstall onnxruntime onnxr")


def test_devices_are_told():
    device = {"index": 0, "name": "Fast", "compute_capability": "8.6", "memory_bytes": 8 * 2**30}
    cuda = {"driver": "13.0", "devices": [device], "reason": None}
    _, told, *rest = doctor.lines({"cuda": cuda, "engines": [], "conflicts": ["a and b"]})
    assert told == "cuda:0: Fast, 8 GiB, compute capability 8.6, driver for CUDA 13.0" and rest == ["a and b"]


def test_a_choice_that_cannot_be_met_is_said_and_is_no_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DANN_REVERSAL", "kernel")
    said = done("doctor").stdout
    assert "cpu: gradient reversal fails: DANN_REVERSAL=kernel asks for the CUDA kernel on cpu" in said
    assert "onnxruntime" in said


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_it_names_the_kernel():
    said = done("doctor").stdout
    assert re.search(r"cuda:0: .+ GiB, compute capability \d+\.\d; gradient reversal by the CUDA kernel", said)


def test_a_driver_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch):
    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040). Please update it")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)
    assert "The NVIDIA driver on your system is too old (found version 11040)\n" in done("doctor").stdout
    refused(dann("train", "--device", "cuda"), 4, "is too old (found version 11040); use cpu or auto")
