"""Classify a stream of images: a bundle, its engine, and what the engine's numbers mean.

``N`` is the batch size, ``K`` the number of classes, ``D`` the number of features.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dann.infer.bundle import Bundle, Manifest, read_bundle
from dann.infer.cores import usable_cores
from dann.infer.engine import Engine, open_engine
from dann.infer.errors import ImageError, UsageError
from dann.infer.first_use import check_first_use
from dann.infer.pipeline import Batch, Image, Pipeline, name_of
from dann.infer.preprocess import LIMITS, Limits

_MOST_WORKERS = 1024
_CPU_BATCH = 8
"""Its activations stay near the core; larger ones are no faster (docs/performance.md)."""
_DEVICE_BATCH = 32


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
    """Why there is no answer, in words; ``None`` where there is one."""
    error_kind: str | None = None
    """The same in a word or two, alike for many images: :attr:`~dann.infer.errors.ImageError.kind`."""


class Classifier:
    """A bundle, opened to classify images. Several threads may use one.

    >>> with Classifier.load("bundle/") as classifier:                       # doctest: +SKIP
    ...     for prediction in classifier.predict(["a.jpg", "b.jpg"]):
    ...         print(prediction.path, prediction.label, prediction.probability)
    """

    def __init__(self, manifest: Manifest, engine: Engine, *, batch_size: int, workers: int, limits: Limits = LIMITS):
        self.manifest = manifest
        self.engine = engine
        self.batch_size = batch_size
        self.workers = workers
        self.limits = limits

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
        limits: Limits = LIMITS,
    ) -> "Classifier":
        """Open ``bundle`` on ``device`` (``auto``, ``cpu``, ``cuda:N``).

        ``batch_size`` is how many images are computed at once, ``None`` 8 on a CPU and elsewhere the usual batch of
        the model. ``workers`` is how many threads decode, ``None`` one per core. ``threads`` is how many compute on a
        CPU, ``None`` one per core: each a batch of its own, so long as there are as many workers. ``precision`` says
        which of the exported networks, ``None`` that in float32 where there is one; ``engine`` what runs it; ``limits``
        what is not decoded. What runs here for the first time is compared with what it answered at the export, see
        :mod:`~dann.infer.first_use`. Raises as :func:`~dann.infer.bundle.read_bundle` and
        :func:`~dann.infer.engine.open_engine` do, :class:`UsageError` for numbers that make no sense, and
        :class:`DannError` for a network that is no longer the exported one.

        For single images without delay: ``batch_size=1, workers=1``.
        """
        bundle = bundle if isinstance(bundle, Bundle) else read_bundle(bundle)
        workers = usable_cores() if workers is None else workers
        if not 1 <= workers <= _MOST_WORKERS:
            raise UsageError(f"{workers} decode workers asked for; expected 1 to {_MOST_WORKERS}")
        opened = open_engine(bundle, device=device, threads=threads, precision=precision, engine=engine, lanes=workers)
        try:
            batch_size = fitting_batch(batch_size, opened)
            check_first_use(bundle, opened)
        except BaseException:
            opened.close()
            raise
        return cls(bundle.manifest, opened, batch_size=batch_size, workers=workers, limits=limits)

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
        for batch in self.pipeline().run(images, in_order=True):
            yield from self.predictions(batch)

    def embed(self, images: Iterable[Image]) -> np.ndarray:
        """The features of all images, float32 (N, D), in the order given; an image that cannot be read has NaN.

        Raises :class:`UsageError` for a bundle that was exported without features.
        """
        [size] = self.feature_shape()
        rows = [prediction.features for prediction in self.predict(images)]
        nothing = np.full(size, np.nan, np.float32)
        return np.array([nothing if row is None else row for row in rows], np.float32).reshape(-1, size)

    def feature_shape(self) -> tuple[int]:
        """``(D,)``; :class:`UsageError` for a bundle that was exported without features."""
        for tensor in self.engine.artefact.outputs:
            if tensor.name == "features":
                return (int(tensor.shape[1]),)
        raise UsageError("this bundle gives no features; export it anew: dann export --with-features")

    def pipeline(self) -> Pipeline:
        """Threads and buffers for one stream of images."""
        return Pipeline(
            self.engine,
            self.manifest.preprocess,
            batch_size=self.batch_size,
            workers=self.workers,
            limits=self.limits,
        )

    def predictions(self, batch: Batch) -> Iterator[Prediction]:
        """What the engine's outputs for a batch mean, image by image."""
        for slot, (image, error) in enumerate(zip(batch.images, batch.errors, strict=True)):
            name = name_of(image, batch.start + slot)
            if error is not None:
                yield Prediction(name, error=str(error), error_kind=error.kind)
            else:
                yield self._prediction(name, {output: rows[slot] for output, rows in batch.outputs.items()})

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()

    def __enter__(self) -> "Classifier":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prediction(self, name: str, outputs: dict[str, np.ndarray]) -> Prediction:
        """What the network's outputs for one image mean."""
        probabilities_K = outputs["probabilities"]
        if not np.isfinite(probabilities_K).all():
            error = ImageError("the network's answer is not a number", "not a number")
            return Prediction(name, error=str(error), error_kind=error.kind)
        best = int(probabilities_K.argmax())
        return Prediction(
            name,
            label=self.classes[best],
            probability=float(probabilities_K[best]),
            probabilities=probabilities_K,
            features=outputs.get("features"),
        )


def fitting_batch(asked: int | None, engine: Engine) -> int:
    """How many images are computed at once; ``None`` asks for the usual. Raises :class:`UsageError` for too many."""
    limits = engine.artefact.batch
    smallest, largest = limits.get("min") or 1, limits.get("max")
    usual = (limits.get("opt") or _DEVICE_BATCH) if "cuda" in engine.description else _CPU_BATCH
    size = min(max(usual, smallest), largest or usual) if asked is None else asked
    if size < smallest or (largest is not None and size > largest):
        raise UsageError(f"batch size is {size}; this model accepts {smallest} to {largest or 'any number'}")
    return size
