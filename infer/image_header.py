"""What the header of an image file says, without decoding it: its format, its size, and how many scans a JPEG has.

A decoder takes memory and time for what a header claims: 46 bytes can ask for gigabytes. So files are looked at before
they are decoded, and what is none of these formats is not handed to a decoder at all.
"""

import re
from dataclasses import dataclass

_JPEG_STANDALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a segment
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9
_TIFF_WHOLE_NUMBERS = {3: 2, 4: 4, 16: 8}  # bytes, by type of field
_TIFF_SIZES = {256: "width", 257: "height", 322: "tile_width", 323: "tile_height"}
_MOST_TIFF_FIELDS = 4096


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


def read_header(data: bytes) -> ImageHeader | None:
    """The header of an encoded image; ``None`` where there is none of a known format, or it has no size."""
    for format, reads in _FORMATS.items():
        size = reads(data)
        if size is not None:
            height, width, *more = size
            return ImageHeader(format, height, width, *more or [height * width]) if height and width else None
    return None


def jpeg_scans(data: bytes, *, most: int) -> int:
    """How many scans a JPEG has; counting ends above ``most``. A scan costs as much as decoding a small image."""
    if data.count(b"\xff\xda") <= most:  # the usual case, at the speed of memory; a thumbnail or a film may have some
        return data.count(b"\xff\xda")
    scans, at = 0, 2
    while scans <= most and (at := data.find(b"\xff", at)) >= 0 and at + 1 < len(data):
        marker = data[at + 1]
        if marker == _JPEG_END:
            break
        scans += marker == _JPEG_SCAN
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker == 0 or marker in _JPEG_STANDALONE:  # 0: no marker but a byte of the picture
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return scans


def _jpeg(data: bytes) -> tuple[int, int] | None:
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _JPEG_FRAMES:
            return int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in _JPEG_STANDALONE:
            at += 2
        elif marker == _JPEG_END:
            break
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return 0, 0


def _png(data: bytes) -> tuple[int, int] | None:
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return None
    return int.from_bytes(data[20:24]), int.from_bytes(data[16:20])


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


def _tiff(data: bytes) -> tuple[int, int, int] | None:
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
    sizes = dict.fromkeys(_TIFF_SIZES.values(), 0)
    first = directory + count_bytes
    for index in range(min(number(directory, count_bytes), _MOST_TIFF_FIELDS)):
        at = first + index * entry_bytes
        name, bytes_each = _TIFF_SIZES.get(number(at, 2)), _TIFF_WHOLE_NUMBERS.get(number(at + 2, 2))
        if name is not None and bytes_each is not None:
            sizes[name] = number(at + 4 + offset_bytes, bytes_each)
    pixels = max(sizes["height"] * sizes["width"], sizes["tile_height"] * sizes["tile_width"])
    return sizes["height"], sizes["width"], pixels


def _pnm(data: bytes) -> tuple[int, int] | None:
    if not re.match(rb"P[1-6]\s", data):
        return None
    found = re.match(rb"P[1-6](?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})\s", data[:4096])
    return (int(found[2]), int(found[1])) if found else (0, 0)


def _jpeg_2000(data: bytes) -> tuple[int, int] | None:
    if data[:12] == b"\0\0\0\x0cjP  \r\n\x87\n":
        at = data.find(b"\xff\x4f\xff\x51")  # the codestream, whose numbers are those that are decoded
    elif data[:4] == b"\xff\x4f\xff\x51":
        at = 0
    else:
        return None
    if at < 0:
        return 0, 0
    right, bottom, left, top = (int.from_bytes(data[at + 8 + side : at + 12 + side]) for side in (0, 4, 8, 12))
    return max(0, bottom - top), max(0, right - left)


def _avif(data: bytes) -> tuple[int, int] | None:
    if data[4:8] != b"ftyp" or not {b"avif", b"avis"} & {data[at : at + 4] for at in range(8, 64, 4)}:
        return None
    sizes = [
        (int.from_bytes(data[found.end() + 4 : found.end() + 8]), int.from_bytes(data[found.end() : found.end() + 4]))
        for found in re.finditer(rb"ispe\0\0\0\0", data[: 1 << 20])
    ]
    return max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))


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
