import struct
import time

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_files import animated, encoded, png_with

from dann.infer.image_header import jpeg_scans, read_header
from dann.infer.preprocess import decode

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


def size_of(data: bytes) -> tuple[int, int] | None:
    header = read_header(data)
    return None if header is None else (header.height, header.width)


# what is not as it seems: the size that is read has to be the one that a decoder takes memory for ----------------


def test_bytes_between_the_segments_of_a_jpeg_are_passed_over_as_decoders_do(encode):
    data = encode(picture(), ".jpg")
    for junk in (b"\0", b"junk", b"\xff\0", b"\xff\xd3", b"\xff"):
        damaged = data[:20] + junk + data[20:]
        assert size_of(damaged) == (17, 31) == decode(damaged).shape[:2]


@pytest.mark.parametrize("fill", [b"\xff", b"\xff\x01", b"\xff\xd0", b"\xff\0", b"\0"])
def test_megabytes_of_fill_bytes_take_no_time(encode, fill):
    """They took a second for every four megabytes."""
    data = encode(picture(), ".jpg")
    filled = data[:2] + fill * (2**24 // len(fill)) + data[2:-2] + b"\xff\xda\0\2" * 200
    began = time.process_time()
    assert size_of(filled) == (17, 31)
    assert jpeg_scans(filled, most=100) == 101
    assert time.process_time() - began < 3


def test_a_jpeg_of_endless_segments_is_given_up(encode):
    data, segments = encode(picture(), ".jpg"), b"\xff\xfe\0\2" * 100_000
    assert size_of(data[:2] + segments + data[2:]) is None
    assert jpeg_scans(data[:-2] + segments + b"\xff\xda\0\2" * 200, most=100) == 101
    assert jpeg_scans(data[:-2] + segments[:4000] + b"\xff\xda\0\2" * 200, most=190) == 191


def test_the_size_of_a_png_stands_in_its_first_chunk():
    data = png_with(encoded(".png", picture()), b"tEXt", struct.pack(">II", 5, 5))
    assert size_of(data) == (17, 31)
    assert size_of(data[:8] + data[33:53] + data[8:33] + data[53:]) is None


def test_a_comment_in_a_pnm_header_ends_where_opencv_ends_it():
    data = b"P5 #\r20 20\n10 10\n255\n" + bytes(400)
    assert size_of(data) == (20, 20) == decode(data).shape[:2]


@pytest.mark.parametrize("order", [(64, 10), (10, 64)])
def test_of_two_sizes_in_a_tiff_the_larger_counts(order):
    header = read_header(tiff("<", *((256, 4, width) for width in order), (257, 4, 17)))
    assert header is not None and header.width == 64


@pytest.mark.parametrize("kind", [1, 3, 4, 6, 8, 9])
def test_a_size_in_a_tiff_may_be_of_any_whole_type(kind):
    entries = struct.pack("<HHIIHHII", 256, kind, 1, 31, 257, kind, 1, 17)
    assert size_of(b"II" + struct.pack("<HIH", 42, 8, 2) + entries) == (17, 31)


def test_a_number_of_64_bits_lies_outside_the_fields_of_a_small_tiff():
    entries = struct.pack("<HHIIHHII", 256, 16, 1, 34, 257, 4, 1, 17)
    assert size_of(b"II" + struct.pack("<HIH", 42, 8, 2) + entries + struct.pack("<Q", 31)) == (17, 31)


@pytest.mark.parametrize("orientation", range(9))
@pytest.mark.parametrize("tile", [16, 31, 64])
def test_tiles_that_are_mirrored_are_known(orientation, tile):
    header = read_header(tiff("<", (256, 4, 31), (257, 4, 17), (274, 3, orientation), (322, 4, tile), (323, 4, 16)))
    assert header is not None and header.mirrored_tiles == (tile == 16 and orientation in (2, 3, 6, 7))


def test_what_looks_like_a_codestream_in_another_box_does_not_count():
    data = encoded(".jp2", picture(64, 48))
    decoy = b"\xff\x4f\xff\x51" + struct.pack(">HHIIII", 47, 0, 5, 5, 0, 0)
    for head in (struct.pack(">I", 8 + len(decoy)) + b"xml ", struct.pack(">I4sQ", 1, b"xml ", 16 + len(decoy))):
        assert size_of(data[:32] + head + decoy + data[32:]) == (64, 48)
    for size in (0, 7):
        assert size_of(data[:32] + struct.pack(">I", size) + b"free" + data[32:]) is None


def test_the_largest_size_in_an_avif_counts():
    """Which box is the picture's is not looked at."""
    data = encoded(".avif", picture(64, 48))
    decoy = struct.pack(">I8sII", 24, b"freeispe", 0, 5) + struct.pack(">I", 5)
    assert size_of(data + decoy) == (64, 48)
    assert size_of(data.replace(b"ispe\0\0\0\0", b"ispe\0\0\0\1") + decoy) == (64, 48)
    assert size_of(data + b"\0" * 2**21 + decoy[:8] + b"ispe\0\0\0\0" + struct.pack(">II", 80, 90)) == (90, 80)
    assert size_of(data + decoy * 60_000) is None


def test_the_size_of_a_film_in_an_avif_counts():
    data = animated(".avif", picture(64, 48), picture(64, 48))
    at = data.index(b"tkhd\1") + 92
    assert data[at : at + 8] == struct.pack(">HHHH", 48, 0, 64, 0)
    assert size_of(data) == (64, 48)
    assert size_of(data[:at] + struct.pack(">HHHH", 500, 0, 600, 0) + data[at + 8 :]) == (600, 500)
    assert size_of(data[:at] + struct.pack(">HHHH", 5, 0, 6, 0) + data[at + 8 :]) == (64, 48)


# anything -------------------------------------------------------------------------------------------------------

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


PIECES = st.sampled_from([b"\xff", b"\0", b"\1", b"\2", b"\3", b"\xda", b"\xd0", b"\xd9", b"\xe1", b"\xff\xda\0\2"])


@given(st.lists(PIECES | st.binary(max_size=3), max_size=60).map(b"".join), st.integers(1, 5))
def test_scans_of_any_bytes_are_counted(data, most):
    """Never too few of them, and where there may be too many, exactly."""
    scans, counted = slowly_counted(b"\xff\xd8" + data), jpeg_scans(b"\xff\xd8" + data, most=most)
    assert min(scans, most + 1) <= counted <= most + 1
    assert data.count(b"\xff\xda") <= most or counted == min(scans, most + 1)


def slowly_counted(data: bytes) -> int:
    """Byte for byte, as the JPEG standard says (B.1.1)."""
    scans, at = 0, 2
    while at + 1 < len(data):
        if data[at] != 0xFF or data[at + 1] == 0xFF:  # of the picture, or a fill byte
            at += 1
        elif data[at + 1] in (0x00, 0x01, *range(0xD0, 0xD9)):  # alone
            at += 2
        elif data[at + 1] == 0xD9:
            break
        else:
            scans += data[at + 1] == 0xDA
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return scans


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
