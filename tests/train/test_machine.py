"""The line that says what a measurement was made on."""

from pathlib import Path

import pytest
import torch

from dann.infer.cores import usable_cores
from dann.train import machine


def test_processor_cores_threads_and_torch_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: Fast CPU: 2 GHz\n\nprocessor\t: 1\nmodel name\t: Fast CPU: 2 GHz\n")
    monkeypatch.setattr(machine, "_CPU_INFO", info)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    said = machine.describe_machine()
    assert said.startswith(f"Fast CPU: 2 GHz, {usable_cores()} core") and "(OMP_NUM_THREADS=7)" in said
    assert said.endswith(f"torch {torch.__version__}")
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert "OMP_NUM_THREADS" not in machine.describe_machine()


@pytest.mark.parametrize("content", [None, "CPU implementer\t: 0x41\n"])
def test_a_system_that_does_not_name_its_processor_has_an_architecture(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(machine, "_CPU_INFO", tmp_path / "cpuinfo")
    if content:
        (tmp_path / "cpuinfo").write_text(content)
    assert machine.processor()
