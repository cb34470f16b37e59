"""Pictures of two classes in two domains, and a run trained on them and exported."""

import shutil
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from command import DATA, NETWORK, done


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Named sets are looked for in a place of the test's own, whatever the machine has."""
    root = tmp_path / "named sets"
    monkeypatch.setenv("DANN_DATA", str(root))
    return root


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``renders``, ``photos`` and ``labelled``: 8 PNGs of 16×16 in each of two class folders."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for domain, tint in (("renders", 0), ("photos", 30), ("labelled", 30)):
        for name, brightness in (("night", 40), ("noon", 140)):
            folder = root / domain / name
            folder.mkdir(parents=True)
            for index in range(8):
                image_HWC = rng.normal(brightness + tint, 40, (16, 16, 3)) + rng.normal(0, 40)
                assert cv2.imwrite(str(folder / f"{index}.png"), image_HWC.clip(0, 255).astype(np.uint8))
    return root


@pytest.fixture
def place(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a copy of the pictures and nothing else."""
    root = shutil.copytree(pictures, tmp_path / "a place")
    monkeypatch.chdir(root)
    return root


@pytest.fixture(scope="session")
def trained(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``runs/tiny``, trained on the pictures and exported. Tests must not write to it."""
    root = tmp_path_factory.mktemp("trained")
    with chdir(pictures):
        done("train", *DATA, *NETWORK, "--steps", "60", "--lr", "0.02", "--name", "tiny", "--runs", root / "runs")
    done("export", "--runs", root / "runs")
    return root


@pytest.fixture
def finished(trained: Path, place: Path) -> Path:
    """The working folder: the pictures, and a run ``tiny`` that is trained and exported."""
    return shutil.copytree(trained, place, dirs_exist_ok=True)


@pytest.fixture
def spoil() -> Callable[[Path], list[str]]:
    """``spoil(folder)`` adds four files that are named like images and cannot be read; gives their names."""

    def add(folder: Path) -> list[str]:
        noise_HWC = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
        whole = cv2.imencode(".jpg", noise_HWC)[1].tobytes()
        contents = {"empty.png": b"", "half.jpg": whole[: len(whole) // 2], "junk.bmp": b"BM", "text.jpg": b"hello"}
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        return list(contents)

    return add


@pytest.fixture
def without_cuda() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
