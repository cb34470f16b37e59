"""What the header of an image file says, without decoding it: its format, its size, and how many scans a JPEG has.

A decoder takes memory and time for what a header claims: 46 bytes can ask for gigabytes. So files are looked at before
they are decoded, and what is none of these formats is not handed to a decoder at all.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)
"""With a segment, or the end. Not a byte of the picture (FF00), a restart or another marker without a segment, a fill
byte: there may be millions of them, so the search passes over them."""
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9
_TIFF_WHOLE_NUMBERS = {1: 1, 3: 2, 4: 4, 6: 1, 8: 2, 9: 4, 16: 8, 17: 8}  # bytes, by type of field
_TIFF_NUMBERS = {256: "width", 257: "height", 274: "orientation", 322: "tile_width", 323: "tile_height"}
_TIFF_MIRRORED = {2, 3, 6, 7}
_MOST_TIFF_FIELDS = 4096
_AVIF_SIZES = re.compile(rb"ispe\0|tkhd[\0\1]")  # kinds of boxes and their versions
_MOST_PARTS = 50_000
"""Segments, chunks or boxes. No picture has as many; more are a way to keep a reader busy."""


@dataclass(frozen=True)
class ImageHeader:
    """Of a file whose content is not looked at any further."""

    format: str
    """``JPEG``, ``PNG``, ``WebP``, ``TIFF``, ``BMP``, ``GIF``, ``PNM``, ``JPEG 2000`` or ``AVIF``."""
    height: int
    """Rows as stored, before any EXIF orientation."""
    width: int
    pixels: int
    """How many a decoder takes memory for; more than ``height * width`` where tiles are larger than the image."""
    mirrored_tiles: bool = False
    """Of a TIFF: it has several tiles side by side, and is to be mirrored from left to right."""


def read_header(data: bytes) -> ImageHeader | None:
    """The header of an encoded image; ``None`` where there is none of a known format, or it has no size."""
    for format, reads in _FORMATS.items():
        size = reads(data)
        if size is not None:
            height, width, *more = size
            return ImageHeader(format, height, width, *more or (height * width,)) if height and width else None
    return None


def jpeg_scans(data: bytes, *, most: int) -> int:
    """How many scans a JPEG has; counting ends above ``most``. A scan costs as much as decoding a small image."""
    at_most = data.count(b"\xff\xda")  # at the speed of memory; a thumbnail or a film may have some
    if at_most <= most:
        return at_most
    scans = 0
    for number, (marker, _) in enumerate(_jpeg_segments(data)):
        scans += marker == _JPEG_SCAN
        if scans > most or number > _MOST_PARTS:
            return most + 1
    return scans


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker and start of each segment. As decoders do, bytes between two of them are passed over."""
    at = 2
    while found := _JPEG_MARKER.search(data, at):
        marker, at = found[1][0], found.end()
        if marker == _JPEG_END:
            return
        yield marker, at
        at += int.from_bytes(data[at : at + 2])


def _jpeg(data: bytes) -> tuple[int, int] | None:
    if data[:2] != b"\xff\xd8":
        return None
    for marker, at in islice(_jpeg_segments(data), _MOST_PARTS):
        if marker in _JPEG_FRAMES and at + 7 <= len(data):
            return int.from_bytes(data[at + 3 : at + 5]), int.from_bytes(data[at + 5 : at + 7])
    return 0, 0


def _png(data: bytes) -> tuple[int, int] | None:
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return None
    return (int.from_bytes(data[20:24]), int.from_bytes(data[16:20])) if data[12:16] == b"IHDR" else (0, 0)


def _gif(data: bytes) -> tuple[int, int] | None:
    if data[:6] not in (b"GIF87a", b"GIF89a"):
        return None
    return int.from_bytes(data[8:10], "little"), int.from_bytes(data[6:8], "little")


def _webp(data: bytes) -> tuple[int, int] | None:
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    elif kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    else:
        return 0, 0
    return height, width


def _bmp(data: bytes) -> tuple[int, int] | None:
    if data[:2] != b"BM":
        return None
    if int.from_bytes(data[14:18], "little") == 12:  # of OS/2
        return int.from_bytes(data[20:22], "little"), int.from_bytes(data[18:20], "little")
    width, height = (int.from_bytes(data[at : at + 4], "little", signed=True) for at in (18, 22))
    return abs(height), abs(width)  # a negative height: the first row comes first


def _tiff(data: bytes) -> tuple[int, int, int, bool] | None:
    order = {b"II": "little", b"MM": "big"}.get(data[:2])
    if order is None:
        return None

    def number(at: int, count: int) -> int:
        return int.from_bytes(data[at : at + count], order)  # pyright: ignore[reportArgumentType]

    version = number(2, 2)
    if version == 42:
        directory, count_bytes, entry_bytes, offset_bytes = number(4, 4), 2, 12, 4
    elif version == 43:  # for files over 4 GiB
        directory, count_bytes, entry_bytes, offset_bytes = number(8, 8), 8, 20, 8
    else:
        return None
    found = dict.fromkeys(_TIFF_NUMBERS.values(), 0)
    first = directory + count_bytes
    for index in range(min(number(directory, count_bytes), _MOST_TIFF_FIELDS)):
        at = first + index * entry_bytes
        name, bytes_each = _TIFF_NUMBERS.get(number(at, 2)), _TIFF_WHOLE_NUMBERS.get(number(at + 2, 2))
        if name is not None and bytes_each is not None:
            at += 4 + offset_bytes
            at = at if bytes_each <= offset_bytes else number(at, offset_bytes)  # what has no room lies elsewhere
            found[name] = max(
                found[name], number(at, bytes_each)
            )  # of several, which a decoder takes is its own affair
    pixels = max(found["height"] * found["width"], found["tile_height"] * found["tile_width"])
    mirrored_tiles = found["orientation"] in _TIFF_MIRRORED and 0 < found["tile_width"] < found["width"]
    return found["height"], found["width"], pixels, mirrored_tiles


def _pnm(data: bytes) -> tuple[int, int] | None:
    if not re.match(rb"P[1-6]\s", data):
        return None
    # a comment ends where OpenCV ends it, or it would read other numbers than these
    found = re.match(rb"P[1-6](?:\s|#[^\n\r]*[\n\r])+(\d{1,9})(?:\s|#[^\n\r]*[\n\r])+(\d{1,9})\s", data[:4096])
    return (int(found[2]), int(found[1])) if found else (0, 0)


def _jpeg_2000(data: bytes) -> tuple[int, int] | None:
    if data[:12] == b"\0\0\0\x0cjP  \r\n\x87\n":
        at = _codestream(data)  # its numbers are those that are decoded
    elif data[:4] == b"\xff\x4f\xff\x51":
        at = 0
    else:
        return None
    if data[at : at + 4] != b"\xff\x4f\xff\x51":
        return 0, 0
    right, bottom, left, top = (int.from_bytes(data[at + 8 + side : at + 12 + side]) for side in (0, 4, 8, 12))
    return max(0, bottom - top), max(0, right - left)


def _codestream(data: bytes) -> int:
    """Where the content of the first such box of a JPEG 2000 file begins. What looks like one may be in others."""
    at = 0
    for _ in range(_MOST_PARTS):
        size, kind, head = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8], 8
        if size == 1:  # it follows the kind
            size, head = int.from_bytes(data[at + 8 : at + 16]), 16
        if kind == b"jp2c":
            return at + head
        if size < head:
            break
        at += size
    return len(data)


def _avif(data: bytes) -> tuple[int, int] | None:
    if data[4:8] != b"ftyp" or not {b"avif", b"avis"} & {data[at : at + 4] for at in range(8, 64, 4)}:
        return None
    found = list(islice(_AVIF_SIZES.finditer(data), _MOST_PARTS + 1))
    if len(found) > _MOST_PARTS:
        return 0, 0
    sizes = [_avif_size(data, box.start(), box[0]) for box in found]
    return max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))


def _avif_size(data: bytes, at: int, box: bytes) -> tuple[int, int]:
    """Of a picture, 32 bits each; or of a track, behind times and a matrix, 16 bits each and as many of a fraction."""
    bytes_each, at = (4, at + 8) if box == b"ispe\0" else (2, at + (80 if box == b"tkhd\0" else 92))
    return int.from_bytes(data[at + 4 : at + 4 + bytes_each]), int.from_bytes(data[at : at + bytes_each])


_FORMATS = {
    "JPEG": _jpeg,
    "PNG": _png,
    "GIF": _gif,
    "WebP": _webp,
    "BMP": _bmp,
    "TIFF": _tiff,
    "PNM": _pnm,
    "JPEG 2000": _jpeg_2000,
    "AVIF": _avif,
}
