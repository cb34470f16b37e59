"""The first time that an artefact runs on a device, it is compared with what it answered where it was made.

What passed is remembered in the user's cache; the bundle is never written. Where the cache cannot be written, every
time is the first.
"""

import hashlib
import platform
from contextlib import suppress
from pathlib import Path

from dann.infer import cuda
from dann.infer.bundle import VERIFY, Bundle
from dann.infer.engine import Engine
from dann.infer.errors import DannError
from dann.infer.user_cache import user_cache
from dann.infer.verify import compare_with_stored, stored_answers


def check_first_use(bundle: Bundle, engine: Engine) -> None:
    """Raise :class:`DannError` where ``engine`` does not answer what the artefact did at the export.

    Nothing is checked for a bundle without ``verify.npz``.
    """
    if VERIFY not in bundle.manifest.files:
        return
    mark = _mark(bundle, engine)
    if mark is not None and mark.exists():
        return
    sizes = {engine.artefact.batch.get("min") or 1, engine.artefact.batch.get("opt") or 32}
    verdict = compare_with_stored([engine], stored_answers(bundle), sorted(sizes))
    if not verdict.passed:
        raise DannError(
            f"{engine.artefact.files[0]} does not answer here what it did where it was exported: {verdict}; nothing "
            "was classified. `dann verify` shows what runs rightly here: choose it by engine, precision or device"
        )
    if mark is not None:
        with suppress(OSError):
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()


def _mark(bundle: Bundle, engine: Engine) -> Path | None:
    """The file that stands for this artefact and its images, with this runtime, device and driver."""
    hashes = [bundle.manifest.files[name].sha256 for name in (*engine.artefact.files, VERIFY)]
    machine = [
        platform.machine(),
        platform.node(),
        engine.description,
        *(_gpus() if "cuda" in engine.description else ()),
    ]
    key = hashlib.sha256("\n".join([*hashes, *machine]).encode()).hexdigest()[:32]
    try:
        return user_cache() / "first-use" / key
    except RuntimeError:  # this user has no home
        return None


def _gpus() -> list[str]:
    """Whatever changes with the GPUs and their driver."""
    found = []
    with suppress(DannError):
        found.append(f"{cuda.devices()} {cuda.driver()}")
    with suppress(OSError):
        found.append(Path("/proc/driver/nvidia/version").read_text())
    return found
