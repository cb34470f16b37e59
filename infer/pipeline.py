"""Images through a pool of threads: read, decoded, and computed a batch at a time.

    images ──▶ tasks ──▶ threads: read, decode ──▶ the last image of a batch: engine ──▶ finished batches

Each thread takes the next image, and the one that decodes the last image of a batch hands that to the engine. So on a
CPU the same threads decode and compute, as many as there are cores, and none of them waits for another while there are
images: a batch is computed beside the decoding of those that follow it. An engine that computes elsewhere
(:attr:`~dann.infer.engine.Engine.elsewhere`) leaves its callers waiting, so there are that many more threads.

Memory does not grow with the number of images: there are as many buffers as batches that may be under way, and no image
is taken before there is room for it. OpenCV and the engines release the interpreter lock.

Every batch has the same shape. A slot whose image cannot be read, and the slots after the last image, hold zeros and
their results are dropped. A constant shape is what engines on GPUs are fastest at, and a row's result then depends
neither on where its batch ended nor on how its neighbours read.
"""

import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from time import perf_counter

import cv2
import cv2.utils.logging as log
import numpy as np

from dann.infer.engine import Engine
from dann.infer.errors import ImageError
from dann.infer.images import ImageFile
from dann.infer.preprocess import Limits, PreprocessSpec, fit, image_of, read_bytes

Image = ImageFile | Path | str | np.ndarray

_WAITING = 2
"""Batches that are decoded, or wait for their turn, beside those that the engine computes."""


@dataclass(eq=False)
class Batch:
    """Images that are computed at once."""

    start: int
    """How many images came before its first one."""
    images: list[Image]
    pixels_NHWC: np.ndarray = field(repr=False)
    """Its buffer; other images' once the batch is finished."""
    errors: list[ImageError | None] = field(default_factory=list)
    """For each image why there is no result, if so."""
    outputs: dict[str, np.ndarray] = field(default_factory=dict)
    """The engine's, float32 (N, …) by name, with rows for all slots; nothing where it failed."""
    waiting: int = 0
    """How many of its images are still to be decoded."""


@dataclass
class StageSeconds:
    """How long threads were busy in each stage, all of them added up."""

    read: float = 0.0
    decode: float = 0.0
    compute: float = 0.0

    def add(self, other: "StageSeconds") -> None:
        self.read += other.read
        self.decode += other.decode
        self.compute += other.compute


class Pipeline:
    """An engine and the threads that feed it, for one stream of images."""

    def __init__(self, engine: Engine, spec: PreprocessSpec, *, batch_size: int, workers: int, limits: Limits):
        self._engine = engine
        self._spec = spec
        self._limits = limits
        self._batch_size = batch_size
        self._threads = workers + (engine.lanes if engine.elsewhere else 0)
        self.seconds = StageSeconds()
        """Of the threads that have ended."""
        self._tasks: SimpleQueue[tuple[Batch, int] | None] = SimpleQueue()
        self._finished: SimpleQueue[Batch] = SimpleQueue()
        self._lock = Lock()
        self._stopped = False

    @property
    def threads(self) -> int:
        """How many there are while it runs."""
        return self._threads

    def run(self, images: Iterable[Image], *, in_order: bool = False) -> Generator[Batch]:
        """The batches, each as soon as it is finished, or ``in_order`` as soon as those before it are.

        ``images`` is iterated here, in the caller's thread, only as far as there is room. A batch's pixels are gone
        when the next one is asked for.
        """
        shape = (self._batch_size, self._spec.height, self._spec.width, 3)
        buffers = [np.zeros(shape, np.uint8) for _ in range(self._engine.lanes + _WAITING)]
        images, position = iter(images), 0
        under_way, early, due = 0, {}, 0
        with quiet_single_threaded_opencv(), self._pool():
            while True:
                while buffers and (group := list(islice(images, self._batch_size))):
                    self._begin(Batch(position, group, buffers.pop()))
                    position += len(group)
                    under_way += 1
                if not under_way:
                    return
                finished = self._finished.get()
                early[finished.start] = finished
                while batch := early.pop(due if in_order else finished.start, None):
                    under_way -= 1
                    due += len(batch.images)
                    yield batch
                    buffers.append(batch.pixels_NHWC)

    def _begin(self, batch: Batch) -> None:
        batch.errors = [None] * len(batch.images)
        batch.waiting = len(batch.images)
        batch.pixels_NHWC[len(batch.images) :] = 0
        for slot in range(len(batch.images)):
            self._tasks.put((batch, slot))

    @contextmanager
    def _pool(self) -> Iterator[None]:
        """The threads; they drop what they have not begun when the block ends."""
        threads = [Thread(target=self._work, name=f"dann-infer-{index}", daemon=True) for index in range(self._threads)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stopped = True
            for _ in threads:
                self._tasks.put(None)
            for thread in threads:
                thread.join()

    def _work(self) -> None:
        seconds = StageSeconds()
        for batch, slot in iter(self._tasks.get, None):
            if self._stopped:
                continue
            self._decode(batch, slot, seconds)
            with self._lock:
                batch.waiting -= 1
                last = batch.waiting == 0
            if last:
                self._compute(batch, seconds)
                self._finished.put(batch)
        with self._lock:
            self.seconds.add(seconds)

    def _decode(self, batch: Batch, slot: int, seconds: StageSeconds) -> None:
        """Put one image into its slot; no exception leaves this, or the batch would never be finished."""
        began = read = perf_counter()
        image = batch.images[slot]
        try:
            if isinstance(image, np.ndarray):
                pixels_HWC = fit(image, self._spec)
            else:
                data = read_bytes(image.path if isinstance(image, ImageFile) else image, self._limits)
                read = perf_counter()
                pixels_HWC = image_of(data, self._spec, self._limits)
            batch.pixels_NHWC[slot] = pixels_HWC
        except Exception as error:
            batch.errors[slot] = error if isinstance(error, ImageError) else _unexpected(error)
            batch.pixels_NHWC[slot] = 0
        seconds.read += read - began
        seconds.decode += perf_counter() - read

    def _compute(self, batch: Batch, seconds: StageSeconds) -> None:
        """Run the engine, once more where it fails, as a GPU may be short of memory for a moment."""
        began = perf_counter()
        failure = None
        if None in batch.errors:
            for _ in range(2):
                try:
                    batch.outputs = self._engine.run(batch.pixels_NHWC)
                    break
                except Exception as error:
                    failure = error
        if failure is not None and not batch.outputs:
            lost = ImageError(f"was not computed: {failure}", "not computed")
            batch.errors = [error or lost for error in batch.errors]
        seconds.compute += perf_counter() - began


def _unexpected(error: Exception) -> ImageError:
    """What no image should cause: memory that is not there, or a mistake of ours."""
    return ImageError(f"cannot be read: {type(error).__name__}: {error}", "unexpected")


def name_of(image: Image, position: int) -> str:
    """What an image is called in results: an array by its position."""
    if isinstance(image, ImageFile):
        return image.name
    return str(position) if isinstance(image, np.ndarray) else os.fspath(image)


_opencv = Lock()
_opencv_users: list[tuple[int, int]] = []
"""One for each pipeline that runs: what to put back after the last one."""


@contextmanager
def quiet_single_threaded_opencv() -> Iterator[None]:
    """One OpenCV thread per decode thread, else they fight for the cores; and no line on stderr per broken image."""
    with _opencv:
        before = _opencv_users[-1] if _opencv_users else (cv2.getNumThreads(), log.getLogLevel())
        _opencv_users.append(before)
        cv2.setNumThreads(1)
        log.setLogLevel(log.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        with _opencv:
            threads, level = _opencv_users.pop()
            if not _opencv_users:
                cv2.setNumThreads(threads)
                log.setLogLevel(level)
