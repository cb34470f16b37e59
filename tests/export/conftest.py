"""A trained run of two classes, small enough to make in a second, and its export."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from dann.export.run_export import Exported, export_run
from dann.export.settings import ExportConfig
from dann.train.loop import fit
from dann.train.run_dir import RunDir
from dann.train.settings import DataConfig, ModelConfig, TrainConfig

SIZE = 16
CLASSES = ("bus", "car")
PHOTOS = 16


def write_images(folder: Path, count: int, *, seed: int) -> None:
    """PNGs of random content and of several sizes."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        image = rng.integers(0, 256, (14 + index, 20, 3), np.uint8)
        assert cv2.imwrite(str(folder / f"{index}.png"), image)


def tiny_config(root: Path, **changes: object) -> TrainConfig:
    settings = {
        "steps": 2,
        "batch_size": 4,
        "device": "cpu",
        "data": DataConfig(source=str(root / "renders"), target=str(root / "photos"), height=SIZE, width=SIZE),
        "model": ModelConfig(backbone="conv6", width=0.25, label_hidden=(8,), domain_hidden=(8,)),
    }
    return TrainConfig(**{**settings, **changes})  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for number, name in enumerate(CLASSES):
        write_images(root / "renders" / name, 8, seed=number)
    write_images(root / "photos", PHOTOS, seed=9)
    return root


@pytest.fixture
def configure(data: Path) -> Callable[..., TrainConfig]:
    """A function from changed settings to the configuration of a training of two steps on ``data``."""
    return partial(tiny_config, data)


@pytest.fixture(scope="session")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A finished run. Tests must not write to it."""
    return fit(tiny_config(data), runs=tmp_path_factory.mktemp("runs"), name="tiny").run


@pytest.fixture(scope="session")
def exported(run: RunDir, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The run's export with features and halves. Tests must not write to it."""
    out = tmp_path_factory.mktemp("exported") / "bundle"
    return export_run(run, ExportConfig(with_features=True, split=True), out=out)
