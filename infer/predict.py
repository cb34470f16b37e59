"""Classify a stream of images.

    images → decode (threads) → at most LOOK_AHEAD batches waiting → engine → predictions, in the order given

Memory does not grow with the number of images: the decode pool is only ever LOOK_AHEAD batches ahead of the
engine, and keeps images at the network's size. OpenCV releases the interpreter lock, so threads decode in
parallel.

Every batch has the same shape. A slot whose image cannot be read, and the slots after the last image, hold
zeros and their results are dropped. A constant shape is what engines are fastest at, and a row's result then
depends neither on where its batch ended nor on how its neighbours read.

``N`` is the batch size, ``K`` the number of classes, ``D`` the number of features.
"""

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import cv2.utils.logging as log
import numpy as np

from dann.infer.bundle import Bundle, Manifest, read_bundle
from dann.infer.cores import usable_cores
from dann.infer.engine import Engine, open_engine
from dann.infer.errors import ImageError, UsageError
from dann.infer.first_use import check_first_use
from dann.infer.images import ImageFile
from dann.infer.preprocess import fit, load_image

LOOK_AHEAD = 2
"""Batches decoded or being decoded while the engine runs one."""

_MOST_WORKERS = 1024

DEFAULT_BATCH = 32

Image = ImageFile | Path | str | np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What the network says about one image, or why it could not be asked."""

    path: str
    """The image's name; for an array its position among the images, from 0."""
    label: str | None = None
    """The most probable class; ``None`` where there is an error."""
    probability: float | None = None
    """Its probability, 0 to 1."""
    probabilities: np.ndarray | None = None
    """float32 (K,) in the order of the classes."""
    features: np.ndarray | None = None
    """float32 (D,), from bundles that were exported with features."""
    error: str | None = None
    """Why the image could not be read; ``None`` where it could."""


class Classifier:
    """A bundle, opened to classify images.

    >>> with Classifier.load("bundle/") as classifier:                       # doctest: +SKIP
    ...     for prediction in classifier.predict(["a.jpg", "b.jpg"]):
    ...         print(prediction.path, prediction.label, prediction.probability)
    """

    def __init__(self, manifest: Manifest, engine: Engine, *, batch_size: int, workers: int):
        self.manifest = manifest
        self.engine = engine
        self.batch_size = batch_size
        self.workers = workers

    @classmethod
    def load(
        cls,
        bundle: Bundle | Path | str,
        *,
        device: str = "auto",
        batch_size: int | None = None,
        workers: int | None = None,
        threads: int | None = None,
        precision: str | None = None,
        engine: str = "auto",
    ) -> "Classifier":
        """Open ``bundle`` on ``device`` (``auto``, ``cpu``, ``cuda:N``).

        ``batch_size`` ``None`` is the usual one of the model; ``workers`` is how many threads decode,
        ``None`` one per core; ``threads`` how many compute, ``None`` one per physical core; ``precision`` which of
        the exported networks, ``None`` that in float32 where there is one; ``engine`` what runs it. What runs here for
        the first time is compared with what it answered at the export, see :mod:`~dann.infer.first_use`. Raises as
        :func:`~dann.infer.bundle.read_bundle` and :func:`~dann.infer.engine.open_engine` do, :class:`UsageError` for
        numbers that make no sense, and :class:`DannError` for a network that is no longer the exported one.
        """
        bundle = bundle if isinstance(bundle, Bundle) else read_bundle(bundle)
        workers = usable_cores() if workers is None else workers
        if not 1 <= workers <= _MOST_WORKERS:
            raise UsageError(f"{workers} decode workers asked for; expected 1 to {_MOST_WORKERS}")
        opened = open_engine(bundle, device=device, threads=threads, precision=precision, engine=engine)
        try:
            batch_size = _batch_size(batch_size, opened.artefact.batch)
            check_first_use(bundle, opened)
        except BaseException:
            opened.close()
            raise
        return cls(bundle.manifest, opened, batch_size=batch_size, workers=workers)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the probabilities."""
        return self.manifest.classes

    def predict(self, images: Iterable[Image]) -> Iterator[Prediction]:
        """One prediction per image, in the order given, while the images are still being read.

        An image is a path or a uint8 RGB array (H, W, 3) or grey (H, W) of any size. One that cannot be read
        gives a prediction with ``error``; the others are not affected.
        """
        if isinstance(images, str | Path):
            raise UsageError(f"one path was given, {str(images)!r}; expected several, as in [{str(images)!r}]")
        spec = self.manifest.preprocess
        batch_NHWC = np.zeros((self.batch_size, spec.height, spec.width, 3), np.uint8)
        with closing(self._decode(images)) as decoded:
            while group := list(islice(decoded, self.batch_size)):
                yield from self._classify(group, batch_NHWC)

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()

    def __enter__(self) -> "Classifier":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _decode(self, images: Iterable[Image]) -> Generator[tuple[str, np.ndarray | ImageError]]:
        """Name, and pixels at the network's size or the error, in order, read ahead by the pool."""
        waiting: deque[tuple[str, Future[np.ndarray | ImageError]]] = deque()
        with _quiet_single_threaded_opencv(), _pool(self.workers) as pool:
            for position, image in enumerate(images):
                waiting.append((_name(image, position), pool.submit(self._read, image)))
                if len(waiting) > LOOK_AHEAD * self.batch_size:
                    name, pixels = waiting.popleft()
                    yield name, pixels.result()
            while waiting:
                name, pixels = waiting.popleft()
                yield name, pixels.result()

    def _read(self, image: Image) -> np.ndarray | ImageError:
        spec = self.manifest.preprocess
        try:
            if isinstance(image, np.ndarray):
                return fit(image, spec)
            return load_image(image.path if isinstance(image, ImageFile) else Path(image), spec)
        except ImageError as error:
            return error

    def _classify(
        self, group: list[tuple[str, np.ndarray | ImageError]], batch_NHWC: np.ndarray
    ) -> Iterator[Prediction]:
        """The predictions of one group of at most N images; ``batch_NHWC`` is the buffer they are put
        into."""
        batch_NHWC[:] = 0
        for slot, (_, pixels) in enumerate(group):
            if not isinstance(pixels, ImageError):
                batch_NHWC[slot] = pixels
        outputs = self.engine.run(batch_NHWC)
        for slot, (name, pixels) in enumerate(group):
            if isinstance(pixels, ImageError):
                yield Prediction(name, error=str(pixels))
            else:
                yield self._prediction(name, {output: rows[slot] for output, rows in outputs.items()})

    def _prediction(self, name: str, outputs: dict[str, np.ndarray]) -> Prediction:
        """What the network's outputs for one image mean."""
        probabilities_K = outputs["probabilities"]
        if not np.isfinite(probabilities_K).all():
            return Prediction(name, error="the network's answer is not a number")
        best = int(probabilities_K.argmax())
        return Prediction(
            name,
            label=self.classes[best],
            probability=float(probabilities_K[best]),
            probabilities=probabilities_K,
            features=outputs.get("features"),
        )


@contextmanager
def _pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A thread pool that drops what it has not begun when the consumer stops early."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="dann-decode")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _quiet_single_threaded_opencv() -> Iterator[None]:
    """One OpenCV thread per decode thread, else they fight for the cores; and no line on stderr per broken
    image."""
    threads, level = cv2.getNumThreads(), log.getLogLevel()
    cv2.setNumThreads(1)
    log.setLogLevel(log.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
        log.setLogLevel(level)


def _name(image: Image, position: int) -> str:
    if isinstance(image, ImageFile):
        return image.name
    return str(position) if isinstance(image, np.ndarray) else os.fspath(image)


def _batch_size(asked: int | None, limits: dict[str, int | None]) -> int:
    smallest, largest = limits.get("min") or 1, limits.get("max")
    size = asked if asked is not None else limits.get("opt") or min(DEFAULT_BATCH, largest or DEFAULT_BATCH)
    if size < smallest or (largest is not None and size > largest):
        raise UsageError(f"batch size is {size}; this model accepts {smallest} to {largest or 'any number'}")
    return size
