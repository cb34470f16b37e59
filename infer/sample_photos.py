"""Images that cost as much to decode as photos do, for measurements where there are none at hand."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from dann.infer.cores import usable_cores

_SCALES_PX = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_QUALITY = 85


def sample_photo(rng: np.random.Generator, *, height: int, width: int) -> np.ndarray:
    """Noise that is smooth at several scales, as photos are: uint8 (height, width, 3)."""
    image_HWC = np.zeros((height, width, 3), np.float32)
    for scale in _SCALES_PX:
        size = max(2, height // scale), max(2, width // scale), 3
        noise_HWC = rng.standard_normal(size, np.float32)
        image_HWC += scale**0.35 * cv2.resize(noise_HWC, (width, height), interpolation=cv2.INTER_CUBIC)
    return (128 + 50 * image_HWC / image_HWC.std()).clip(0, 255).astype(np.uint8)


def write_sample_photos(
    folder: Path, count: int, *, height: int = 480, width: int = 640, spread: float = 0.0
) -> list[Path]:
    """Write ``count`` JPEGs, the same ones every time, and give their paths.

    Each side is that number of pixels, more or less by up to ``spread`` of it. A photo of 640 × 480 has about 75 KB.
    """

    def write(index: int) -> Path:
        rng = np.random.default_rng(index)
        tall, wide = (round(side * rng.uniform(1 - spread, 1 + spread)) for side in (height, width))
        photo_HWC = sample_photo(rng, height=tall, width=wide)
        path = folder / f"{index:06d}.jpg"
        path.write_bytes(cv2.imencode(".jpg", photo_HWC, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes())
        return path

    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(write, range(count)))
