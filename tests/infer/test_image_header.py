import struct

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dann.infer.image_header import jpeg_scans, read_header

SUFFIXES = {
    ".jpg": "JPEG",
    ".png": "PNG",
    ".gif": "GIF",
    ".webp": "WebP",
    ".bmp": "BMP",
    ".tiff": "TIFF",
    ".ppm": "PNM",
    ".jp2": "JPEG 2000",
    ".avif": "AVIF",
}
"""What OpenCV writes."""


def picture(height=17, width=31):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("suffix", "name"), SUFFIXES.items())
@pytest.mark.parametrize("size", [(37, 53), (300, 2), (1, 1)])
def test_the_header_has_format_and_size(encode, suffix, name, size):
    if suffix == ".jp2":
        size = tuple(max(side, 32) for side in size)  # OpenJPEG writes no smaller ones
    header = read_header(encode(picture(*size), suffix))
    assert header is not None
    assert (header.format, header.height, header.width, header.pixels) == (name, *size, size[0] * size[1])


@pytest.mark.parametrize("options", [[], [cv2.IMWRITE_WEBP_QUALITY, 101]], ids=["lossy", "lossless"])
def test_both_kinds_of_webp_are_known(options):
    data = cv2.imencode(".webp", picture(), options)[1].tobytes()
    header = read_header(data)
    assert header is not None and (header.height, header.width) == (17, 31)


def test_the_canvas_of_an_extended_webp_counts():
    data = b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X" + struct.pack("<II", 10, 0) + b"\x1e\0\0" + b"\x10\0\0"
    header = read_header(data)
    assert header is not None and (header.height, header.width) == (17, 31)


def test_a_bmp_from_top_to_bottom_has_a_negative_height(encode):
    data = bytearray(encode(picture(), ".bmp"))
    data[22:26] = struct.pack("<i", -17)
    header = read_header(bytes(data))
    assert header is not None and (header.height, header.width) == (17, 31)


def tiff(order: str, *fields: tuple[int, int, int], big: bool = False) -> bytes:
    """A TIFF file of one directory, of fields (tag, type, value), without an image."""
    mark = {"<": b"II", ">": b"MM"}[order]
    if big:
        entries = b"".join(struct.pack(f"{order}HHQQ", tag, kind, 1, value) for tag, kind, value in fields)
        return mark + struct.pack(f"{order}HHHQQ", 43, 8, 0, 16, len(fields)) + entries
    entries = b""
    for tag, kind, value in fields:
        size = {3: "HH", 4: "I"}[kind]
        entries += struct.pack(f"{order}HHI{size}", tag, kind, 1, value, *([0] if kind == 3 else []))
    return mark + struct.pack(f"{order}HIH", 42, 8, len(fields)) + entries


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", [3, 4])
def test_tiff_of_either_byte_order(order, kind):
    header = read_header(tiff(order, (254, 4, 0), (256, kind, 31), (257, kind, 17)))
    assert header is not None and (header.height, header.width, header.pixels) == (17, 31, 17 * 31)


@pytest.mark.parametrize("order", "<>")
def test_a_tiff_for_large_files(order):
    header = read_header(tiff(order, (256, 16, 31), (257, 16, 17), big=True))
    assert header is not None and (header.height, header.width) == (17, 31)


def test_tiles_that_are_larger_than_the_image_count():
    header = read_header(tiff("<", (256, 4, 31), (257, 4, 17), (322, 4, 20_000), (323, 4, 10_000)))
    assert header is not None and header.pixels == 200_000_000


def test_comments_in_a_pnm_header_are_passed_over():
    header = read_header(b"P5 # of an old tool\n# 9 9\n31 #\n17\n255\n")
    assert header is not None and (header.height, header.width) == (17, 31)


def test_the_size_of_a_jpeg_stands_behind_other_segments_and_fill_bytes(encode):
    data = encode(picture(), ".jpg")
    comment = b"\xff\xff\xff\xfe\x00\x05abc\xff\x01"
    header = read_header(data[:2] + comment + data[2:])
    assert header is not None and (header.height, header.width) == (17, 31)


HEADS = [
    b"",
    b"\xff\xd8",
    b"\xff\xd8\xff\xc0",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"RIFF\0\0\0\0WEBPVP8 ",
    b"RIFF\0\0\0\0WEBPVP8L",
    b"RIFF\0\0\0\0WEBPVP8X",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"P6 ",
    b"\0\0\0\x0cjP  \r\n\x87\n",
    b"\xff\x4f\xff\x51",
    b"\0\0\0\x20ftypavif",
]


@given(st.sampled_from(HEADS), st.binary(max_size=80))
def test_any_bytes_have_a_header_or_none(head, tail):
    header = read_header(head + tail)
    assert header is None or (header.height > 0 and header.width > 0 and header.pixels >= header.height * header.width)


@given(st.binary(max_size=200), st.integers(1, 5))
def test_scans_of_any_bytes_are_counted(data, most):
    assert 0 <= jpeg_scans(data, most=most) <= most + 1


# scans ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def progressive() -> bytes:
    return cv2.imencode(".jpg", picture(64, 64), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()


def test_each_scan_counts(encode, progressive):
    assert jpeg_scans(encode(picture(), ".jpg"), most=100) == 1
    assert jpeg_scans(progressive, most=100) == 10


def test_counting_ends_above_the_most(progressive):
    assert jpeg_scans(progressive, most=4) == 5


def test_what_follows_the_picture_does_not_count(encode):
    """Phones append films, whose bytes look like anything."""
    assert jpeg_scans(encode(picture(), ".jpg") + b"\xff\xda" * 500, most=100) == 1


def test_thumbnails_within_a_segment_do_not_count(encode):
    data = encode(picture(), ".jpg")
    payload = b"\xff\xda" * 500
    segment = b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload
    assert jpeg_scans(data[:2] + segment + data[2:], most=100) == 1


def test_restart_markers_are_no_scans():
    data = cv2.imencode(".jpg", picture(64, 64), [cv2.IMWRITE_JPEG_RST_INTERVAL, 1])[1].tobytes()
    assert data.count(b"\xff\xd0") > 1
    assert jpeg_scans(data + b"\xff\xda" * 500, most=100) == 1
