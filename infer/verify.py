"""Is a bundle on this machine still what it was where it was made?

``verify.npz`` holds images, and what each precision answered for them there. Whatever can run here is asked again.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from zipfile import BadZipFile

import numpy as np

from dann.infer.bundle import VERIFY, Artefact, Bundle, BundleError
from dann.infer.engine import DEVICES, Chain, Engine, open_artefact
from dann.infer.errors import DannError, UnavailableError
from dann.infer.verdict import ELSEWHERE, Verdict, compare

_SECONDS_TO_TIME = 0.5


@dataclass(frozen=True, kw_only=True)
class Checked:
    """The whole classifier, or its two halves one after the other, on one device."""

    artefacts: tuple[Artefact, ...]
    device: str
    verdict: Verdict | None
    """``None`` where it did not run."""
    milliseconds: float | None
    """The median time of a batch of the usual size; ``None`` where it did not run."""
    reason: str | None
    """Why it did not run; :class:`UnavailableError`'s message, or that of what went wrong."""
    broken: bool
    """Whether it should have run, or gives other numbers."""

    def __str__(self) -> str:
        if self.verdict is None:
            return f"{'BROKEN' if self.broken else 'not run'}: {self.reason}"
        return f"{self.verdict}, {self.milliseconds:.1f} ms a batch of {self.artefacts[0].batch['opt']}"

    @property
    def name(self) -> str:
        """Of its first files: ``model.onnx``."""
        return " + ".join(artefact.files[0] for artefact in self.artefacts)


def verify_bundle(bundle: Bundle, *, threads: int | None = None) -> Iterator[Checked]:
    """Every artefact on every device that may run it, one after the other.

    Raises :class:`BundleError` where the bundle has no images to compare with.
    """
    stored = stored_answers(bundle)
    runnable = [artefact for artefact in bundle.manifest.artefacts if artefact.format in DEVICES]
    for (format, _), group in groupby(runnable, lambda artefact: (artefact.format, artefact.precision)):
        same = list(group)
        wholes = [[artefact] for artefact in same if artefact.role == "classifier"]
        halves = [artefact for artefact in same if artefact.role != "classifier"]
        for artefacts in [*wholes, halves] if halves else wholes:
            for device in DEVICES[format]:
                yield _check(bundle, artefacts, device, stored, threads)


def stored_answers(bundle: Bundle) -> dict[str, np.ndarray]:
    """``images``, uint8 RGB (N, H, W, 3), and by precision the logits, float32 (N, K), that they gave."""
    if VERIFY not in bundle.manifest.files:
        raise BundleError(f"the bundle {str(bundle.root)!r} has no {VERIFY} to compare with; re-export")
    path = bundle.checked(VERIFY)
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {"fp32": stored["fp32"], **stored}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise BundleError(f"{path} cannot be read ({error}); re-export") from error


def compare_with_stored(
    engines: Sequence[Engine], stored: dict[str, np.ndarray], batch_sizes: Sequence[int]
) -> Verdict:
    """The verdict on engines of which each feeds the next, beside what their precision answered before."""
    precision = engines[0].artefact.precision
    chain = Chain(engines)
    # bfloat16 may not have run where the bundle was made
    logits_NK = stored.get(precision, stored["fp32"])
    return compare(
        {"logits": logits_NK},
        chain,
        stored["images"],
        executor=chain.description,
        standard=ELSEWHERE[precision],
        batch_sizes=batch_sizes,
    )


def batch_sizes(artefact: Artefact) -> tuple[int, ...]:
    """1, 2, 3, the usual and the largest batch, as far as the artefact takes them."""
    smallest, largest = artefact.batch.get("min") or 1, artefact.batch.get("max")
    sizes = {1, 2, 3, artefact.batch.get("opt") or 32, largest or 64}
    return tuple(sorted(size for size in sizes if smallest <= size <= (largest or size)))


def _check(
    bundle: Bundle, artefacts: Sequence[Artefact], device: str, stored: dict[str, np.ndarray], threads: int | None
) -> Checked:
    engines: list[Engine] = []
    verdict = milliseconds = reason = None
    broken = False
    try:
        engines += (open_artefact(bundle, artefact, device=device, threads=threads) for artefact in artefacts)
        verdict = compare_with_stored(engines, stored, batch_sizes(artefacts[0]))
        broken = not verdict.passed
        milliseconds = _milliseconds(Chain(engines), stored["images"], artefacts[0].batch.get("opt") or 32)
    except UnavailableError as error:
        reason = str(error)
    except DannError as error:
        reason, broken = str(error), True
    finally:
        for engine in engines:
            engine.close()
    return Checked(
        artefacts=tuple(artefacts),
        device=device,
        verdict=verdict,
        milliseconds=milliseconds,
        reason=reason,
        broken=broken,
    )


def _milliseconds(run: Chain, images_NHWC: np.ndarray, batch_size: int) -> float:
    batch_NHWC = images_NHWC.take(range(batch_size), axis=0, mode="wrap")
    times = []
    began = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - began < _SECONDS_TO_TIME:
        start = time.perf_counter()
        run(batch_NHWC)
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))
