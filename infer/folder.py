"""Classify every image of a folder into one file: what ``dann infer`` does."""

import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

import numpy as np

from dann.infer.bundle import MANIFEST, Bundle, read_bundle, sha256_of
from dann.infer.errors import DannError, UsageError, unknown_name
from dann.infer.images import find_images
from dann.infer.journal import Segment
from dann.infer.labels import labels_from
from dann.infer.output import check_output, open_output
from dann.infer.pipeline import Batch, Pipeline
from dann.infer.predict import Classifier, Prediction
from dann.infer.preprocess import LIMITS, Limits
from dann.infer.results import Rows, row_format
from dann.infer.summary import Stage, Stages, Summary
from dann.infer.tally import Tally

ON_ERROR = ("row", "stop")


def classify_folder(
    bundle: Bundle | Path | str,
    test_loc: Path | str,
    out_path: Path | str,
    *,
    recursive: bool = True,
    format: str | None = None,
    top_k: int = 1,
    probs: bool = False,
    min_probability: float = 0.0,
    features: Path | str | None = None,
    labels: Path | str | None = None,
    resume: bool = False,
    on_error: str = "row",
    max_errors: int | None = None,
    device: str = "auto",
    engine: str = "auto",
    precision: str | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    threads: int | None = None,
    limits: Limits = LIMITS,
    on_message: Callable[[str], None] = lambda message: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """Classify the images at ``test_loc`` and write ``out_path``, whole or not at all.

    ``test_loc`` and ``recursive`` are what :func:`~dann.infer.images.find_images` takes; ``out_path`` may be ``-``,
    standard output, where rows come in order while the images are read. Rows are those of
    :class:`~dann.infer.results.Rows`. ``features`` is an ``.npy`` file for the features, float32 (N, D) in the order of
    the rows, NaN for an image that could not be read. With ``labels`` (see :func:`~dann.infer.labels.labels_from`) the
    summary has a score.

    What is finished is recorded beside ``out_path`` (:mod:`~dann.infer.journal`); with ``resume`` an interrupted run
    goes on from there. An image that cannot be read gives a row with the reason; where ``on_error`` is ``stop``, or
    there are more of them than ``max_errors``, a :class:`DannError` ends the run. The rest goes to
    :meth:`Classifier.load`.

    ``on_message`` is called with lines for people, before the first image; ``on_progress`` with the rows that are done,
    at first those of the interrupted run, and those to come in all. Whatever can be refused is refused before the first
    image is read.
    """
    bundle = bundle if isinstance(bundle, Bundle) else read_bundle(bundle)
    classes = bundle.manifest.classes
    options = {"format": row_format(format, out_path), "top_k": top_k, "probs": probs}
    rows = Rows(classes, min_probability=min_probability, **options)
    tolerance = _Tolerance(on_error, max_errors)
    label_of = None if labels is None else labels_from(labels, classes)
    check_output(out_path, features, resume=resume)
    images = find_images(test_loc, recursive=recursive)
    with Classifier.load(
        bundle,
        device=device,
        engine=engine,
        precision=precision,
        batch_size=batch_size,
        workers=workers,
        threads=threads,
        limits=limits,
    ) as classifier:
        tally = Tally(images, classes, label_of)
        of = {
            "bundle": sha256_of(bundle.root / MANIFEST),
            "engine": classifier.engine.description,
            **options,
            "min_probability": min_probability,
            "features": features is not None,
            "limits": asdict(limits),
        }
        shape = (len(images), *(classifier.feature_shape() if features is not None else ()))
        with open_output(
            out_path, features, header=rows.header(), shape=shape, images=images, of=of, tally=tally, resume=resume
        ) as output:
            todo = _missing(output.done, len(images))
            done = resumed = len(images) - len(todo)
            on_message(f"{classifier.engine.description}, {classifier.batch_size} images at once")
            if resumed:
                on_message(f"{resumed} of {len(images)} rows are there already")
            if output.forgotten:
                on_message("an interrupted run had left rows; this one begins anew, as it is not told to --resume")
            on_progress(done, len(images))
            start, writing = time.perf_counter(), 0.0
            pipeline = classifier.pipeline()
            for batch in pipeline.run((images[position] for position in todo), in_order=output.in_order):
                began = time.perf_counter()
                positions = todo[batch.start : batch.start + len(batch.images)]
                for segment in _segments(classifier, batch, positions, rows, tolerance, features is not None):
                    output.add(segment)
                done += len(batch.images)
                on_progress(done, len(images))
                writing += time.perf_counter() - began
            began = time.perf_counter()
            output.finish()
            end = time.perf_counter()
    return Summary(
        images=len(images),
        resumed=resumed,
        errors=dict(tally.errors.most_common()),
        seconds=end - start,
        engine=classifier.engine.description,
        batch_size=classifier.batch_size,
        stages=_stages(pipeline, classifier, writing + end - began, end - start),
        score=tally.score,
    )


class _Tolerance:
    """Ends a run at an error, or after too many of them."""

    def __init__(self, on_error: str, most: int | None):
        if on_error not in ON_ERROR:
            raise unknown_name("way to treat errors", on_error, ON_ERROR)
        if most is not None and most < 0:
            raise UsageError(f"at most {most} errors are allowed; expected 0 or more")
        self._left = 0 if on_error == "stop" else most
        self._advice = "leave --on-error stop out" if on_error == "stop" else "allow more with --max-errors"

    def check(self, prediction: Prediction) -> None:
        if prediction.error is None or self._left is None:
            return
        if self._left == 0:
            raise DannError(f"stopped at {prediction.path!r}, which {prediction.error}; repair it, or {self._advice}")
        self._left -= 1


def _missing(done: list[tuple[int, int]], count: int) -> Sequence[int]:
    """The positions that are not done yet."""
    if not done:
        return range(count)
    missing, reached = array("q"), 0
    for start, length in [*done, (count, 0)]:
        missing.extend(range(reached, start))
        reached = start + length
    return missing


def _segments(
    classifier: Classifier,
    batch: Batch,
    positions: Sequence[int],
    rows: Rows,
    tolerance: _Tolerance,
    with_features: bool,
) -> Iterator[Segment]:
    """The results of a batch; more than one segment where images that were done before lie between."""
    predictions = list(classifier.predictions(batch))
    for prediction in predictions:
        tolerance.check(prediction)
    size = classifier.feature_shape() if with_features else ()
    by_position = list(enumerate(zip(positions, predictions, strict=True)))
    for _, group in groupby(by_position, lambda item: item[1][0] - item[0]):
        start, _ = (found := [entry for _, entry in group])[0]
        together = [prediction for _, prediction in found]
        yield Segment(
            start=start,
            answers=[rows.answer(prediction) for prediction in together],
            rows=b"".join(rows.row(prediction) for prediction in together),
            features=b"".join(_features(prediction, size) for prediction in together) if with_features else b"",
            errors=dict(Counter(prediction.error_kind for prediction in together if prediction.error_kind)),
        )


def _features(prediction: Prediction, size: tuple[int, ...]) -> bytes:
    found = np.full(size, np.nan) if prediction.features is None else prediction.features
    return found.astype("<f4").tobytes()


def _stages(pipeline: Pipeline, classifier: Classifier, writing: float, seconds: float) -> Stages:
    busy, threads = pipeline.seconds, pipeline.threads
    computing = classifier.engine.lanes if classifier.engine.elsewhere else threads

    def stage(spent: float, by: int) -> Stage:
        return Stage(seconds=spent, share=spent / (by * seconds))

    return Stages(
        reading=stage(busy.read, classifier.workers),
        decoding=stage(busy.decode, classifier.workers),
        network=stage(busy.compute, computing),
        writing=stage(writing, 1),
        threads=threads,
    )
