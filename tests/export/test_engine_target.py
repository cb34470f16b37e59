"""What TensorRT is told of GPUs and versions, with one of RTX in its place: the names are the same."""

from types import SimpleNamespace
from typing import Any

import pytest

from dann.export.engine_target import configure
from dann.export.settings import EngineConfig
from dann.infer import cuda
from dann.infer.errors import UsageError
from dann.infer.tensorrt_names import TensorRT


class Settings:
    """Keeps what it is told."""

    hardware_compatibility_level: Any = None

    def __init__(self) -> None:
        self.flags: list[str] = []
        self.pools: list[tuple[str, int]] = []

    def set_flag(self, flag: str) -> None:
        self.flags.append(flag)

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self.pools.append((pool, size))


TRT = TensorRT(
    "tensorrt",
    SimpleNamespace(  # pyright: ignore[reportArgumentType]
        __version__="10.13.3.9",
        MemoryPoolType=SimpleNamespace(WORKSPACE="workspace"),
        HardwareCompatibilityLevel=SimpleNamespace(AMPERE_PLUS="ampere+"),
        BuilderFlag=SimpleNamespace(VERSION_COMPATIBLE="version"),
    ),
)


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    device = cuda.Device(index=0, name="NVIDIA RTX A2000", compute_capability="8.6", memory_bytes=1)
    monkeypatch.setattr(cuda, "devices", lambda: [device])


def test_an_engine_is_for_this_gpu_and_this_version():
    settings = Settings()
    needs = configure(TRT, settings, EngineConfig())
    assert needs == {"tensorrt": "10.13.3.9", "compute_capability": "8.6"}
    assert (settings.flags, settings.pools, settings.hardware_compatibility_level) == ([], [], None)


def test_an_engine_for_more_gpus_and_versions_says_so():
    settings = Settings()
    config = EngineConfig(hardware_compatible=True, version_compatible=True, workspace_mib=3)
    assert configure(TRT, settings, config) == {"tensorrt": ">=10.13.3.9", "compute_capability": "8.0+"}
    assert settings.flags == ["version"] and settings.hardware_compatibility_level == "ampere+"
    assert settings.pools == [("workspace", 3 * 2**20)]


def test_gpus_cannot_be_named_to_tensorrt():
    with pytest.raises(UsageError, match="sm86, sm89 asked for; TensorRT builds for the GPU of this machine alone"):
        configure(TRT, Settings(), EngineConfig(gpus=("sm86", "sm89")))
