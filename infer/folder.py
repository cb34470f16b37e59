"""Classify every image of a folder into one file: what ``dann infer`` does."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dann.infer.bundle import Bundle, read_bundle
from dann.infer.images import find_images
from dann.infer.predict import Classifier
from dann.infer.results import CsvRows, WholeFile


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run did."""

    images: int
    """Inputs found, which is the number of rows written."""
    errors: dict[str, int]
    """How many inputs could not be read, by reason; the most frequent reason first."""
    seconds: float
    """From the first image to the last row; loading the model is not counted."""
    engine: str
    """What computed, where, and for ``auto`` why."""

    @property
    def failed(self) -> int:
        """Inputs that could not be read."""
        return sum(self.errors.values())

    @property
    def images_per_second(self) -> float:
        """Decoding, computing and writing included."""
        return self.images / self.seconds

    @property
    def exit_code(self) -> int:
        """0 where every input was classified, 3 where some or all could not be read."""
        return 3 if self.failed else 0


def classify_folder(
    bundle: Bundle | Path | str,
    test_loc: Path | str,
    out_path: Path | str,
    *,
    top_k: int = 1,
    probs: bool = False,
    device: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    threads: int | None = None,
    precision: str | None = None,
    engine: str = "auto",
    on_progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Classify the images at ``test_loc`` and write ``out_path``, whole or not at all.

    ``test_loc`` is what :func:`~dann.infer.images.find_images` takes; columns are those of
    :class:`~dann.infer.results.CsvRows`, the rest goes to :meth:`Classifier.load`. ``on_progress`` is called
    after each row with the rows written and the rows to come in all. Whatever can be refused is refused
    before the first image is read.
    """
    bundle = bundle if isinstance(bundle, Bundle) else read_bundle(bundle)
    rows = CsvRows(bundle.manifest.classes, top_k=top_k, probs=probs)
    images = find_images(test_loc)
    errors: Counter[str] = Counter()
    with (
        WholeFile(out_path) as file,
        Classifier.load(
            bundle,
            device=device,
            engine=engine,
            precision=precision,
            batch_size=batch_size,
            workers=workers,
            threads=threads,
        ) as classifier,
    ):
        start = time.perf_counter()
        file.write(rows.header())
        for done, prediction in enumerate(classifier.predict(images), start=1):
            file.write(rows.row(prediction))
            if prediction.error is not None:
                errors[prediction.error] += 1
            if on_progress is not None:
                on_progress(done, len(images))
        seconds = time.perf_counter() - start
        ran = classifier.engine.description
    return Summary(images=len(images), errors=dict(errors.most_common()), seconds=seconds, engine=ran)
