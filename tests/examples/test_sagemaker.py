"""``examples/sagemaker/train.py`` in the environment of a job with one host, here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from project import ROOT

ENTRY = ROOT / "examples" / "sagemaker" / "train.py"


@pytest.fixture
def job(tmp_path: Path) -> dict[str, str]:
    """The variables of a job on 8 noisy images of two classes in each channel."""
    rng = np.random.default_rng(0)
    images = {channel: tmp_path / f"{channel}.npz" for channel in ("source", "target", "test")}
    for file in images.values():
        np.savez(file, x=rng.integers(0, 256, (8, 16, 16), np.uint8), y=np.arange(8) % 2)
    network = {"backbone": "conv6", "size": "16", "model.width": 0.1}
    hyperparameters = {**network, "steps": "3", "batch_size": 4, "name": "job", "device": "cpu", "quiet": True}
    return {
        **{f"SM_CHANNEL_{channel.upper()}": str(file) for channel, file in images.items()},
        "SM_MODEL_DIR": str(tmp_path / "model"),
        "SM_HOSTS": '["localhost"]',
        "SM_CURRENT_HOST": "localhost",
        "SM_NUM_GPUS": "0",
        "SM_HPS": json.dumps(hyperparameters),
    }


def run(job: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, ENTRY], env={**os.environ, **job}, capture_output=True, text=True)


@pytest.mark.slow
def test_the_entry_point_trains_and_leaves_the_run_in_the_model_folder(job: dict[str, str]):
    ran = run(job)
    assert ran.returncode == 0, ran.stderr
    result = json.loads((Path(job["SM_MODEL_DIR"]) / "job" / "result.json").read_text(encoding="utf-8"))
    assert (result["mode"], result["last"]["step"], result["target"]["images"]) == ("dann", 3, 8)


def test_a_missing_channel_ends_the_job_with_its_name(job: dict[str, str]):
    del job["SM_CHANNEL_TARGET"]
    ran = run(job)
    assert ran.returncode == 1 and ran.stderr.startswith("error: SM_CHANNEL_TARGET is not set"), ran.stderr
