"""How fast this machine runs the engines of a bundle, and how much of that ``dann infer`` makes use of.

Three things are measured by themselves, on the same images: decoding, each engine, and the pipeline of both. Each is
given a moment to warm up, and then time. Image files are read once before, so they come from memory, not from the disk.

``N`` is the batch size.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from threading import Lock

import numpy as np

from dann.infer import cuda, doctor
from dann.infer.bench_images import BenchImages, bench_images
from dann.infer.bench_result import Bench, DecodeTime, EngineTime, Limit, NotRun, Place
from dann.infer.bundle import Artefact, Bundle
from dann.infer.cores import cpu_name, usable_cores
from dann.infer.engine import DEVICES, FORMATS, Engine, open_artefact
from dann.infer.errors import DannError, UnavailableError, UsageError, unknown_name
from dann.infer.images import ImageFile
from dann.infer.pipeline import quiet_single_threaded_opencv
from dann.infer.predict import Classifier, fitting_batch
from dann.infer.preprocess import PreprocessSpec, load_image
from dann.infer.timing import timed

BATCH_SIZES = (1, 8, 32)
_FEWEST_BATCHES = 12  # of the pipeline: the first and the last one count in part


def bench_bundle(
    bundle: Bundle,
    *,
    images: Path | str | None = None,
    engine: str | None = None,
    precision: str | None = None,
    batch_sizes: Sequence[int] | None = None,
    threads: Sequence[int] | None = None,
    seconds: float = 1.0,
    on_progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> Bench:
    """Measure every classifier of ``bundle`` on every device that can run it.

    ``images`` is what :func:`~dann.infer.images.find_images` takes, of which up to 512 are used; ``None`` draws some.
    ``engine`` and ``precision`` choose among the artefacts, ``None`` takes all. ``batch_sizes`` are 1, 8 and 32 by
    default, as far as an artefact takes them; ``threads``, as in :meth:`Classifier.load`, one and as many as there are
    cores. The limits are those with the most of these threads. A measurement lasts ``seconds``. ``on_progress`` is
    called with how many are done, how many there are, and the next one's name.

    Raises :class:`UsageError` for values that make no sense, images that are not there and what the bundle has not,
    :class:`UnavailableError` where nothing of it can run here, :class:`DannError` where no image can be read.
    """
    threads = sorted(set(threads if threads is not None else (1, usable_cores())))
    _check(seconds, threads, batch_sizes or ())
    artefacts = _chosen(bundle, engine, precision)
    places = [(artefact, device) for artefact in artefacts for device in DEVICES[artefact.format]]
    spec = bundle.manifest.preprocess
    with bench_images(images, spec) as sample, quiet_single_threaded_opencv():
        steps = _Steps(on_progress, len(threads) + len(places))
        decode = []
        for count in threads:
            steps.next(f"decoding, threads: {count}")
            decode.append(DecodeTime(threads=count, images_per_second=_decode_rate(sample, spec, count, seconds)))
        setting = _Setting(
            bundle=bundle,
            sample=sample,
            threads=threads,
            batch_sizes=batch_sizes,
            seconds=seconds,
            decode_rate=max(time.images_per_second for time in decode),
        )
        found: list[EngineTime | Limit | NotRun] = []
        for artefact, device in places:
            steps.next(f"{artefact.files[0]} on {device}")
            found += _measured(setting, artefact, device)
        steps.next("")
    not_run = tuple(entry for entry in found if isinstance(entry, NotRun))
    if len(not_run) == len(found) and not any(entry.broken for entry in not_run):
        raise UnavailableError(f"nothing of what was asked for can run here: {'; '.join(map(str, not_run))}")
    return Bench(
        machine=doctor.machine(),
        cpu=cpu_name(),
        gpus=_gpus(),
        packages=doctor.packages(),
        date=time.strftime("%Y-%m-%d"),
        seconds=seconds,
        images=sample.about,
        decode=tuple(decode),
        engines=tuple(entry for entry in found if isinstance(entry, EngineTime)),
        limits=tuple(entry for entry in found if isinstance(entry, Limit)),
        not_run=not_run,
    )


class _Steps:
    """Progress, a step before each measurement."""

    def __init__(self, on_progress: Callable[[int, int, str], None], total: int):
        self._on_progress, self._total = on_progress, total
        self._done = 0

    def next(self, what: str) -> None:
        self._on_progress(self._done, self._total, what)
        self._done += 1


@dataclass(frozen=True, kw_only=True)
class _Setting:
    """What all artefacts are measured with."""

    bundle: Bundle
    sample: BenchImages
    threads: Sequence[int]
    """The fewest first."""
    batch_sizes: Sequence[int] | None
    seconds: float
    decode_rate: float
    """Images a second."""


def _measured(setting: _Setting, artefact: Artefact, device: str) -> Iterator[EngineTime | Limit | NotRun]:
    """The times of an artefact and its limit, or why there are none."""
    place = Place(
        engine=next(name for name, format in FORMATS.items() if format == artefact.format),
        precision=artefact.precision,
        device=device,
        file=artefact.files[0],
    )
    smallest, largest = artefact.batch.get("min") or 1, artefact.batch.get("max") or float("inf")
    asked = setting.batch_sizes or {int(min(max(size, smallest), largest)) for size in BATCH_SIZES}
    sizes = [size for size in sorted(set(asked)) if smallest <= size <= largest]
    for size in sorted(set(asked) - set(sizes)):
        yield NotRun(place=place, batch=size, reason=f"it takes {smallest} to {largest}", broken=False)
    if not sizes:
        return
    try:
        yield from _measured_at(setting, place, artefact, sizes)
    except DannError as error:
        broken = not isinstance(error, UnavailableError)
        yield NotRun(place=place, batch=None, reason=str(error), broken=broken)


def _measured_at(
    setting: _Setting, place: Place, artefact: Artefact, sizes: Sequence[int]
) -> Iterator[EngineTime | Limit]:
    on_cpu = place.device == "cpu"
    best = 0.0
    for count in setting.threads if on_cpu else setting.threads[-1:]:
        threads = None if count == usable_cores() else count  # as where nothing is said
        with closing(
            open_artefact(setting.bundle, artefact, device=place.device, threads=threads, lanes=usable_cores())
        ) as engine:
            for size in sizes:
                time = _engine_time(setting, place, engine, count if on_cpu else None, size)
                best = max(best, time.images_per_second)
                yield time
            if count == setting.threads[-1]:
                yield _limit(setting, place, engine, count, best)


def _engine_time(setting: _Setting, place: Place, engine: Engine, threads: int | None, size: int) -> EngineTime:
    batch_NHWC = setting.sample.batch(size)
    timing = timed(lambda: engine.run(batch_NHWC), at_once=engine.lanes, seconds=setting.seconds)
    p50, p95, p99 = 1000 * np.percentile(timing.calls_s, (50, 95, 99))
    return EngineTime(
        place=place,
        threads=threads,
        batch=size,
        at_once=engine.lanes,
        batches=len(timing.calls_s),
        p50_ms=float(p50),
        p95_ms=float(p95),
        p99_ms=float(p99),
        images_per_second=size * timing.per_second,
    )


def _limit(setting: _Setting, place: Place, engine: Engine, workers: int, engine_rate: float) -> Limit:
    decode_rate = setting.decode_rate
    together = 1 / (1 / decode_rate + 1 / engine_rate)
    batch_size = fitting_batch(None, engine)
    classifier = Classifier(setting.bundle.manifest, engine, batch_size=batch_size, workers=workers)
    return Limit(
        place=place,
        decode=decode_rate,
        engine=engine_rate,
        joint=together if place.device == "cpu" else min(decode_rate, engine_rate),
        end_to_end=_end_to_end(classifier, setting.sample.files, setting.seconds),
        batch=batch_size,
        workers=workers,
    )


def _decode_rate(sample: BenchImages, spec: PreprocessSpec, threads: int, seconds: float) -> float:
    images, lock = cycle(sample.files), Lock()

    def decode_next() -> None:
        with lock:
            image = next(images)
        load_image(image.path, spec)

    return timed(decode_next, at_once=threads, seconds=seconds).per_second


def _end_to_end(classifier: Classifier, images: Sequence[ImageFile], seconds: float) -> float:
    """Images a second, from the first batch that is finished to the last."""
    done = batches = 0
    began = now = float("inf")
    with closing(classifier.pipeline().run(cycle(images))) as finished:
        for batch in finished:
            list(classifier.predictions(batch))
            failed = [error for error in batch.errors if error is not None]
            if failed:
                raise DannError(f"an image {failed[0]}, which was not so before")
            now = time.perf_counter()
            if batches == 0:
                began = now
            else:
                done += len(batch.images)
            batches += 1
            if batches >= _FEWEST_BATCHES and now - began >= seconds:
                break
    return done / (now - began)


def _chosen(bundle: Bundle, engine: str | None, precision: str | None) -> list[Artefact]:
    """The classifiers that dann runs itself; :class:`UsageError` where there is none that was asked for."""
    if engine is not None and engine not in FORMATS:
        raise unknown_name("engine", engine, FORMATS)
    if engine is not None:
        bundle.manifest.artefact(format=FORMATS[engine], precision=precision)
    whole = [a for a in bundle.manifest.artefacts if a.format in DEVICES and a.role == "classifier"]
    chosen = [
        artefact
        for artefact in whole
        if (engine is None or artefact.format == FORMATS[engine]) and precision in (None, artefact.precision)
    ]
    if not chosen:
        raise unknown_name("precision", str(precision), {artefact.precision for artefact in whole})
    return chosen


def _check(seconds: float, threads: Sequence[int], batch_sizes: Sequence[int]) -> None:
    if not 0 < seconds <= 3600:
        raise UsageError(f"a measurement is to last {seconds} seconds; expected more than 0, and at most 3600")
    for name, values in (("threads", threads), ("batch sizes", batch_sizes)):
        if any(not 1 <= value <= 1024 for value in values):
            raise UsageError(f"{name} to measure with are {', '.join(map(str, values))}; expected 1 to 1024 each")


def _gpus() -> tuple[str, ...]:
    with suppress(DannError):
        return tuple(f"cuda:{index} {device.name}" for index, device in enumerate(cuda.devices()))
    return ()
