"""Classify photos from Python, and sort out what the network is not sure of.

    python examples/classify.py BUNDLE IMAGE...

Needs `pip install "dann[cpu]"`, or `gpu` in its place, and a bundle that `dann export` wrote.
"""

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from dann.infer import Classifier

SURE = 0.8


def frames(paths: Iterable[str]) -> Iterable[np.ndarray]:
    """Images from somewhere else, a camera say, come as arrays: uint8 RGB (H, W, 3) of any size."""
    for path in paths:
        image_HWC = cv2.imread(path, cv2.IMREAD_COLOR_RGB)
        yield np.zeros((1, 1, 3), np.uint8) if image_HWC is None else image_HWC


def main(bundle: str, paths: list[str]) -> None:
    with Classifier.load(bundle, device="auto") as classifier:
        print(f"{classifier.engine.description}; classes: {', '.join(classifier.classes)}")

        labels: Counter[str] = Counter()
        for prediction in classifier.predict(paths):  # while the images are still being read
            if prediction.error is not None:
                print(f"{prediction.path}: {prediction.error}")
            elif prediction.probability is not None and prediction.probability < SURE:
                print(f"{prediction.path}: perhaps {prediction.label} ({prediction.probability:.2f})")
            labels[prediction.label or "unreadable"] += 1
        print(", ".join(f"{count} {label}" for label, count in labels.most_common()))

    # one at a time and at once: all threads compute a single image
    with Classifier.load(bundle, batch_size=1, workers=1) as classifier:
        [first] = classifier.predict(list(frames(paths[:1])))
        print(f"the first one, as an array: {first.label}")


if __name__ == "__main__":
    if len(sys.argv) < 3 or not Path(sys.argv[1]).is_dir():
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
