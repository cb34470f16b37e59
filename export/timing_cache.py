"""What TensorRT has timed on a GPU, kept from one build to the next: they take seconds in place of minutes.

TensorRT for RTX times nothing when it builds.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dann.infer import cuda
from dann.infer.errors import DannError
from dann.infer.tensorrt_names import TensorRT
from dann.infer.user_cache import user_cache
from dann.infer.whole_file import WholeFile


@contextmanager
def timing_cache(trt: TensorRT, settings: Any, path: Path | None) -> Iterator[None]:
    """Inside, ``settings`` know what was timed before; afterwards ``path`` holds that and what is new.

    ``path`` ``None`` is a file of the user's cache for this GPU and version. A file that TensorRT refuses is replaced;
    where none can be written, nothing is kept. Two builds at once leave the cache of one of them.
    """
    path = path or user_cache() / "timing" / _file_name(trt)
    known = path.read_bytes() if path.is_file() else b""
    if not settings.set_timing_cache(settings.create_timing_cache(known), ignore_mismatch=False):
        settings.set_timing_cache(settings.create_timing_cache(b""), ignore_mismatch=False)
    yield
    timed = bytes(memoryview(settings.get_timing_cache().serialize()))
    with suppress(OSError, DannError):  # the engine is what counts
        path.parent.mkdir(parents=True, exist_ok=True)
        with WholeFile(path) as file:
            file.write(timed)


def _file_name(trt: TensorRT) -> str:
    return re.sub(r"[^\w.]+", "-", f"{cuda.devices()[0].name} {trt}") + ".cache"
