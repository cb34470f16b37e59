"""What came of the images of a run, counted as it is written."""

from collections import Counter
from collections.abc import Sequence

from dann.infer.images import ImageFile
from dann.infer.journal import Segment
from dann.infer.labels import LabelOf, Score


class Tally:
    """Errors by kind and, where labels are known, how many answers are right."""

    def __init__(self, images: Sequence[ImageFile], classes: Sequence[str], label_of: LabelOf | None):
        self._images = images
        self._label_of = label_of
        self.errors: Counter[str] = Counter()
        self.score = None if label_of is None else Score(classes)

    def add(self, segment: Segment) -> None:
        self.errors.update(segment.errors)
        if self.score is not None and self._label_of is not None:
            images = self._images[segment.start : segment.start + len(segment.answers)]
            for image, answer in zip(images, segment.answers, strict=True):
                self.score.add(self._label_of(image), answer)
