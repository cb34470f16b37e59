"""`dann doctor`: what of the machine can be used, and why not."""

import re

import cv2
import onnxruntime
import pytest
import torch
from command import dann, done, refused

from dann.train.device import cuda_obstacle


@pytest.fixture(autouse=True)
def not_chosen_by_hand(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("DANN_REVERSAL", raising=False)


def test_it_says_what_is_here():
    said = done("doctor").stdout
    assert re.match(r"dann \d+\.\d+\.\S+, CPython 3\.\d+\.\d+, .+, \d+ cores\n", said)
    assert f"torch {torch.__version__}, built for" in said
    assert f"OpenCV {cv2.__version__}" in said
    assert f"onnxruntime {onnxruntime.__version__} with" in said and "CPUExecutionProvider" in said
    assert "cpu: gradient reversal by torch (that is no CUDA device but cpu)" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="is for machines without CUDA")
def test_without_cuda_it_says_why():
    reason = cuda_obstacle()
    assert reason and reason in done("doctor").stdout


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
