"""Small domains for the training tests: bars on a plain ground, dark in the source, bright and tinted in the target."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import TINY

from dann.train.config import resolve
from dann.train.settings import TrainConfig

CLASSES = np.array(["across", "upright"])
TINT = np.array([0.9, 0.5, 0.2])


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_decoded_cache(monkeypatch: pytest.MonkeyPatch):
    """Tests leave nothing in the user's cache; a set that is not held in memory is decoded at each read."""
    monkeypatch.setenv("DANN_CACHE_GB", "0")


def bars(count: int, seed: int, *, target: bool) -> tuple[np.ndarray, np.ndarray]:
    """``count`` uint8 images (N, 16, 16, 3) of a bar, and whether each is upright (int64)."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = np.zeros((count, 16, 16))
    for image, upright in zip(images, labels, strict=True):
        at = rng.integers(2, 12)
        (image.T if upright else image)[at : at + 3, 2:14] = 1
    coloured = images[..., None] * np.ones(3) * 0.6
    if target:
        coloured = np.clip(0.25 + images[..., None] * TINT * 0.7, 0, 1)
    noisy = coloured + rng.normal(0, 0.05, coloured.shape)
    return (np.clip(noisy, 0, 1) * 255).astype(np.uint8), labels


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Data specs by name: 24 source images, 40 target images (one with labels, one without), 20 for testing."""
    return save_bars(tmp_path_factory.mktemp("bars"), source=24, target=40, test=20)


@pytest.fixture(scope="session")
def large_sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """As ``sets``, with enough images to learn from: 300 in each domain and 200 for testing."""
    return save_bars(tmp_path_factory.mktemp("many-bars"), source=300, target=300, test=200)


def save_bars(folder: Path, **counts: int) -> dict[str, str]:
    found = {}
    for seed, (name, count) in enumerate(counts.items(), start=1):
        images, labels = bars(count, seed, target=name != "source")
        found[name] = str(folder / f"{name}.npz")
        np.savez(found[name], x=images, y=labels, classes=CLASSES)
    found["unlabelled"] = str(folder / "unlabelled.npz")
    with np.load(found["target"]) as stored:
        np.savez(found["unlabelled"], x=stored["x"])
    return found


@pytest.fixture
def configure(sets: dict[str, str]) -> Callable[..., TrainConfig]:
    """A function from settings to the configuration of a run of seconds: 6 steps of 8 images, tiny network, SGD.

    ``configure({"optimiser.lr": 1.0}, mode="source")``; 24 source images make an epoch 3 steps long.
    """

    def build(settings: dict[str, Any] | None = None, **plain: Any) -> TrainConfig:
        base = {
            **TINY,
            "data.source": sets["source"],
            "data.target": sets["unlabelled"],
            "data.test": sets["test"],
            "data.holdout": 0.0,
            "optimiser.name": "sgd",
            "optimiser.lr": 0.05,
            "steps": 6,
        }
        return resolve(overrides={**base, **(settings or {}), **plain})

    return build


@pytest.fixture
def lines() -> Callable[..., list[dict[str, Any]]]:
    """A function that reads ``metrics.jsonl`` without what depends on the clock."""

    def read(path: Path) -> list[dict[str, Any]]:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [{key: value for key, value in row.items() if key != "images_per_second"} for row in rows]

    return read
