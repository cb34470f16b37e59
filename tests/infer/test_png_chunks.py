import struct

import cv2
import numpy as np
import pytest
from image_files import PNG_START, animated, chunk, encoded, exif, picture, png_with

from dann.infer.errors import ImageError
from dann.infer.png_chunks import still_png
from dann.infer.preprocess import decode

ANIMATED = animated(".png", picture(), picture(seed=1))


def test_a_still_picture_stays_as_it_is():
    data = png_with(encoded(".png", picture()), b"eXIf", exif())
    assert still_png(data) is data
    assert still_png(data + b"what follows") is not None


def test_what_announces_an_animation_is_left_out():
    assert b"acTL" in ANIMATED and b"fcTL" in ANIMATED
    still = still_png(png_with(ANIMATED, b"eXIf", exif()))
    assert still is not None and still.startswith(PNG_START)
    before = still[: still.index(b"IDAT")]
    assert b"acTL" not in before and b"fcTL" not in before and b"eXIf" in before
    shown = cv2.imdecode(np.frombuffer(still, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert shown is not None and np.array_equal(shown, np.rot90(picture(), -1))


@pytest.mark.parametrize("length", [3452, 2**31 - 1, 2**31, 2**32 - 12, 2**32 - 1])
@pytest.mark.parametrize("kind", [b"IDAT", b"tEXt"])
def test_a_chunk_longer_than_the_file_is_an_error_at_once(kind, length):
    """OpenCV would take as much memory as the length claims."""
    data = encoded(".png", picture())
    data = data[:33] + struct.pack(">I", length) + kind + data[41:]
    assert still_png(data) is None
    with pytest.raises(ImageError, match="damaged or truncated"):
        decode(data)


def test_a_picture_is_looked_for_in_so_many_chunks():
    data = encoded(".png", picture())
    empty = chunk(b"tEXt", b"")
    assert still_png(data[:33] + empty * 1000 + data[33:]) is not None
    assert still_png(data[:33] + empty * 60_000 + data[33:]) is None
    assert still_png(data[:33]) is None


@pytest.mark.parametrize("damage", ["out of order", "of another size", "without its end"])
def test_damage_to_later_frames_does_not_matter(damage):
    """OpenCV would show what was in memory before, or end the process."""
    at = ANIMATED.index(b"fdAT")
    data = {
        "out of order": ANIMATED.replace(b"fcTL", b"fXTL"),
        "of another size": ANIMATED[: at - 30] + struct.pack(">II", 5000, 5000) + ANIMATED[at - 22 :],
        "without its end": ANIMATED[: at - 4] + chunk(b"fdAT", ANIMATED[at + 4 : at + 100]) + chunk(b"IEND", b""),
    }[damage]
    assert np.array_equal(decode(data), picture())
