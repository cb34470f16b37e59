"""Real timing caches, of TensorRT for RTX: it times nothing, but makes, takes and gives them as TensorRT does."""

from pathlib import Path
from typing import Any

import pytest

from dann.export.timing_cache import timing_cache
from dann.infer import cuda
from dann.infer.tensorrt_names import TensorRT, logger

rtx = pytest.importorskip("tensorrt_rtx", reason='needs TensorRT for RTX: pip install "dann[trt-rtx]"')
TRT = TensorRT("tensorrt-rtx", rtx)
pytestmark = pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")


@pytest.fixture
def settings() -> Any:
    return rtx.Builder(logger(rtx)).create_builder_config()


def test_what_was_timed_is_kept_and_given_to_the_next_build(settings: Any, tmp_path: Path):
    path = tmp_path / "deeper" / "timing.cache"
    with timing_cache(TRT, settings, path):
        assert not path.exists()
    first = path.read_bytes()
    assert first
    with timing_cache(TRT, settings, path):
        pass
    assert path.read_bytes() == first and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"hello world"])
def test_a_file_that_is_no_timing_cache_is_replaced(settings: Any, tmp_path: Path, content: bytes):
    path = tmp_path / "timing.cache"
    path.write_bytes(content)
    with timing_cache(TRT, settings, path):
        pass
    assert path.read_bytes() not in (b"hello world", b"")


def test_where_none_can_be_written_nothing_is_kept(settings: Any, tmp_path: Path):
    (tmp_path / "file").touch()
    with timing_cache(TRT, settings, tmp_path / "file" / "timing.cache"):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_the_users_cache_has_one_for_each_gpu_and_version(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    device = cuda.Device(index=0, name="NVIDIA RTX A2000", compute_capability="8.6", memory_bytes=1)
    monkeypatch.setattr(cuda, "devices", lambda: [device])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with timing_cache(TRT, settings, None):
        pass
    [file] = (tmp_path / "dann" / "timing").iterdir()
    assert file.name == f"NVIDIA-RTX-A2000-tensorrt-rtx-{rtx.__version__}.cache"
