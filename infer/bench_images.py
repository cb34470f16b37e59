"""Images to measure with: some of a person's own, or drawn ones that cost as much to decode as photos do."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np

from dann.infer.cores import usable_cores
from dann.infer.errors import DannError, ImageError
from dann.infer.images import ImageFile, find_images
from dann.infer.preprocess import PreprocessSpec, load_image

_MOST_IMAGES = 512
_DRAWN_IMAGES = 64
_MOST_PIXELS = 32  # images that engines are given, again and again
_SCALES_PX = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_QUALITY = 85


@dataclass(frozen=True, kw_only=True)
class BenchImages:
    """Images that can be read."""

    files: list[ImageFile]
    about: str
    """Which they are, for people."""
    pixels_NHWC: np.ndarray
    """Some of them as the network sees them, uint8 RGB."""

    def batch(self, size: int) -> np.ndarray:
        """As many images as the network sees them, uint8 (N, height, width, 3); some of them more than once."""
        return self.pixels_NHWC.take(range(size), axis=0, mode="wrap")


@contextmanager
def bench_images(location: Path | str | None, spec: PreprocessSpec) -> Iterator[BenchImages]:
    """Images for the duration of the block, each of them read once before.

    ``location`` is what :func:`~dann.infer.images.find_images` takes, of which up to 512 are used, from all over;
    ``None`` draws some. Raises :class:`DannError` where none of them can be read.
    """
    with TemporaryDirectory(prefix="dann-bench-") as folder:
        if location is None:
            write_photo_like(Path(folder), _DRAWN_IMAGES)
            found, name = find_images(folder), "drawn JPEGs of 640 x 480, as no --images were named"
        else:
            found, name = find_images(location), f"images at {str(location)!r}"
        readable, pixels, unreadable = [], [], []
        for image in found[:: -(-len(found) // _MOST_IMAGES)]:
            try:
                pixels_HWC = load_image(image.path, spec)
            except ImageError as error:
                unreadable.append(f"{image.name!r} {error}")
                continue
            readable.append(image)
            if len(pixels) < _MOST_PIXELS:
                pixels.append(pixels_HWC)
        if not readable:
            raise DannError(f"none of {len(unreadable)} images can be read; the first: {unreadable[0]}")
        count = f"{len(readable)}" + (f" of {len(found)}" if len(readable) < len(found) else "")
        kilobytes = sum(image.path.stat().st_size for image in readable) / len(readable) / 1000
        about = f"{count} {name}, {kilobytes:.0f} kB each, in the system's cache of files"
        yield BenchImages(files=readable, about=about, pixels_NHWC=np.stack(pixels))


def write_photo_like(folder: Path, count: int, *, height: int = 480, width: int = 640, spread: float = 0.0) -> None:
    """Write ``count`` JPEGs into ``folder``, the same ones every time.

    Each side has that number of pixels, more or less by up to ``spread`` of it. One of 640 × 480 has about 70 kB.
    """

    def write(index: int) -> None:
        rng = np.random.default_rng(index)
        tall, wide = (round(side * rng.uniform(1 - spread, 1 + spread)) for side in (height, width))
        image_HWC = photo_like(rng, height=tall, width=wide)
        encoded = cv2.imencode(".jpg", image_HWC, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1]
        (folder / f"{index:06d}.jpg").write_bytes(encoded.tobytes())

    with ThreadPoolExecutor(usable_cores()) as pool:
        list(pool.map(write, range(count)))


def photo_like(rng: np.random.Generator, *, height: int, width: int) -> np.ndarray:
    """Noise that is smooth at several scales, as photos are: uint8 (height, width, 3)."""
    image_HWC = np.zeros((height, width, 3), np.float32)
    for scale in _SCALES_PX:
        noise_HWC = rng.standard_normal((max(2, height // scale), max(2, width // scale), 3), np.float32)
        image_HWC += scale**0.35 * cv2.resize(noise_HWC, (width, height), interpolation=cv2.INTER_CUBIC)
    return (128 + 50 * image_HWC / image_HWC.std()).clip(0, 255).astype(np.uint8)
