"""Small image files of every kind that is read. What OpenCV does not write is assembled from bytes here."""

import struct
import zlib
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Literal

import cv2
import numpy as np

PNG_START = b"\x89PNG\r\n\x1a\n"
JP2_START = b"\0\0\0\x0cjP  \r\n\x87\n"
ORIENTATION = 6
"""Of the files with EXIF: the picture is to be turned by a quarter."""


def picture(height: int = 32, width: int = 48, *, seed: int = 0) -> np.ndarray:
    """A smooth RGB picture, so that lossy formats keep what it shows."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def encoded(suffix: str, image: np.ndarray, *options: int) -> bytes:
    """What OpenCV writes of an RGB, RGBA or grey array."""
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR if image.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    return cv2.imencode(suffix, image, options)[1].tobytes()


def animated(suffix: str, *frames: np.ndarray) -> bytes:
    """What OpenCV writes of RGB frames."""
    animation = cv2.Animation()
    animation.frames = [cv2.cvtColor(frame, cv2.COLOR_RGB2BGRA) for frame in frames]
    animation.durations = [100] * len(frames)
    return cv2.imencodeanimation(suffix, animation)[1].tobytes()


def pages(*images: np.ndarray) -> bytes:
    """A TIFF file of several pages."""
    return cv2.imencodemulti(".tiff", [cv2.cvtColor(image, cv2.COLOR_RGB2BGR) for image in images])[1].tobytes()


def exif(orientation: int = ORIENTATION, order: str = "<") -> bytes:
    """A TIFF header and a directory of one entry, tag 0x0112 (orientation), a SHORT."""
    mark = {"<": b"II", ">": b"MM"}[order]
    return mark + struct.pack(f"{order}HIHHHIHHI", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)


# JPEG -----------------------------------------------------------------------------------------------------------


def segment(marker: int, payload: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(payload) + 2) + payload


def with_segment(jpeg: bytes, marker: int, payload: bytes) -> bytes:
    """``jpeg`` with a segment more, behind its start."""
    return jpeg[:2] + segment(marker, payload) + jpeg[2:]


def jpeg_with_exif(jpeg: bytes, orientation: int = ORIENTATION) -> bytes:
    return with_segment(jpeg, 0xE1, b"Exif\0\0" + exif(orientation))


def jpeg_parts(jpeg: bytes) -> list[bytes]:
    """Its start, its segments, each with the picture that follows it, and its end: together they are ``jpeg``."""
    cuts, at = [0, 2], 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF and jpeg[at + 1] != 0xD9:
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4])
        while at + 1 < len(jpeg) and not (jpeg[at] == 0xFF and jpeg[at + 1] not in (0, *range(0xD0, 0xD8))):
            at += 1
        cuts.append(at)
    return [jpeg[start:end] for start, end in zip(cuts, [*cuts[1:], len(jpeg)], strict=True) if start < end]


def cmyk_jpeg(image_HWC: np.ndarray) -> bytes:
    """A JPEG of four components in as many scans, as Adobe writes them: inverted.

    Each scan is that of a grey JPEG, all of which have the same tables.
    """
    black = image_HWC.max(axis=2)
    inks = 255 * image_HWC.astype(int) // np.maximum(black[:, :, None], 1)
    planes = [inks[:, :, 0], inks[:, :, 1], inks[:, :, 2], black]
    greys = [jpeg_parts(encoded(".jpg", plane.astype(np.uint8), cv2.IMWRITE_JPEG_QUALITY, 99)) for plane in planes]
    height, width = black.shape
    components = b"".join(bytes([number, 0x11, 0]) for number in range(1, 5))
    frame = segment(0xC0, struct.pack(">BHHB", 8, height, width, 4) + components)
    tables = b"".join(part for part in greys[0] if part[1] in (0xDB, 0xC4))
    scans = b""
    for number, parts in enumerate(greys, 1):
        (scan,) = (part for part in parts if part[1] == 0xDA)
        scans += segment(0xDA, bytes([1, number, 0, 0, 63, 0])) + scan[10:]
    return b"\xff\xd8" + segment(0xEE, b"Adobe\0\x64\0\0\0\0\0") + frame + tables + scans + b"\xff\xd9"


def jpeg_of_scans(scans: int, height: int = 256, width: int = 256) -> bytes:
    """A grey progressive JPEG whose last scan comes again and again."""
    image = cv2.cvtColor(picture(height, width), cv2.COLOR_RGB2GRAY)
    parts = jpeg_parts(encoded(".jpg", image, cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_QUALITY, 10))
    last = max(index for index, part in enumerate(parts) if part[1] == 0xDA)
    before = sum(part[1] == 0xDA for part in parts) - 1
    return b"".join([*parts[:last], *[parts[last]] * (scans - before), *parts[last + 1 :]])


# PNG ------------------------------------------------------------------------------------------------------------


def chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def png(
    height: int, width: int, *, depth: int, colour: int, rows: Iterable[bytes], interlaced=False, extra=b""
) -> bytes:
    """``colour`` is the number of PNG: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA; ``extra`` are chunks."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    picture = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    return PNG_START + chunk(b"IHDR", header) + extra + chunk(b"IDAT", picture) + chunk(b"IEND", b"")


def palette_png(indices: np.ndarray, colours: np.ndarray) -> bytes:
    """8 bits each; ``colours`` is uint8 RGB (N, 3)."""
    extra = chunk(b"PLTE", colours.tobytes())
    return png(*indices.shape, depth=8, colour=3, rows=[row.tobytes() for row in indices], extra=extra)


def one_bit_png(lit: np.ndarray) -> bytes:
    return png(*lit.shape, depth=1, colour=0, rows=[row.tobytes() for row in np.packbits(lit, axis=1)])


def interlaced_png(image_HWC: np.ndarray) -> bytes:
    passes = [(0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1)]
    rows = [row.tobytes() for y, step_y, x, step_x in passes for row in image_HWC[y::step_y, x::step_x] if row.size]
    return png(*image_HWC.shape[:2], depth=8, colour=2, rows=rows, interlaced=True)


def png_with(data: bytes, kind: bytes, payload: bytes) -> bytes:
    """``data`` with a chunk more, behind its header."""
    return data[:33] + chunk(kind, payload) + data[33:]


def png_of_zeros(height: int, width: int) -> bytes:
    """A black picture of one bit each, that takes little time and space to make."""
    row = b"\0" * (1 + (width + 7) // 8)
    press = zlib.compressobj(9)
    picture = b"".join(press.compress(row * 1000) for _ in range(height // 1000))
    picture += press.compress(row * (height % 1000)) + press.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return PNG_START + chunk(b"IHDR", header) + chunk(b"IDAT", picture) + chunk(b"IEND", b"")


# WebP -----------------------------------------------------------------------------------------------------------


def riff_chunk(kind: bytes, payload: bytes) -> bytes:
    return kind + struct.pack("<I", len(payload)) + payload + b"\0" * (len(payload) % 2)


def webp(*chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 4 + sum(map(len, chunks))) + b"WEBP" + b"".join(chunks)


def webp_with_exif(data: bytes, payload: bytes, height: int, width: int) -> bytes:
    """The one chunk of ``data``, of VP8 or VP8L, as an extended file."""
    return webp(webp_canvas(8, height, width), data[12:], riff_chunk(b"EXIF", payload))


def webp_canvas(flags: int, height: int, width: int) -> bytes:
    sides = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return riff_chunk(b"VP8X", struct.pack("<I", flags) + sides)


# TIFF -----------------------------------------------------------------------------------------------------------

_SHORT, _LONG, _LONG8 = 3, 4, 16
_CODES = {_SHORT: "H", _LONG: "I", _LONG8: "Q"}


def tiff(
    image: np.ndarray,
    *,
    order: Literal["<", ">"] = "<",
    rows: int = 16,
    tile: int | None = None,
    big: bool = False,
    **fields: int,
) -> bytes:
    """An uncompressed TIFF file of a uint8 or uint16 array, grey (H, W) or (H, W, C).

    In strips of ``rows``, or in tiles. ``fields`` are more entries, ``t274=6`` of tag 274 (orientation).
    """
    height, width = image.shape[:2]
    image = image.reshape(height, width, -1)
    depth = 8 * image.itemsize
    strips = [image[y : y + rows] for y in range(0, height, rows)]
    blocks = [
        block.astype(image.dtype.newbyteorder(order)).tobytes() for block in (_tiles(image, tile) if tile else strips)
    ]
    entries: dict[int, tuple[int, list[int]]] = {
        256: (_LONG, [width]),
        257: (_LONG, [height]),
        258: (_SHORT, [depth] * image.shape[2]),
        259: (_SHORT, [1]),
        262: (_SHORT, [1 if image.shape[2] == 1 else 2]),
        277: (_SHORT, [image.shape[2]]),
        **{int(name[1:]): (_SHORT, [value]) for name, value in fields.items()},
    }
    starts, lengths = (324, 325) if tile else (273, 279)
    entries |= {322: (_LONG, [tile]), 323: (_LONG, [tile])} if tile else {278: (_LONG, [rows])}
    entries[lengths] = (_LONG, [len(block) for block in blocks])
    entries[starts] = (_LONG, [0] * len(blocks))
    head = len(_tiff_head(order, big, entries))
    entries[starts] = (_LONG, [head + sum(map(len, blocks[:index])) for index in range(len(blocks))])
    return _tiff_head(order, big, entries) + b"".join(blocks)


def _tiles(image_HWC: np.ndarray, tile: int) -> Iterator[np.ndarray]:
    height, width = image_HWC.shape[:2]
    padded = np.pad(image_HWC, ((0, -height % tile), (0, -width % tile), (0, 0)))
    for y in range(0, height, tile):
        for x in range(0, width, tile):
            yield padded[y : y + tile, x : x + tile]


def _tiff_head(order: str, big: bool, entries: dict[int, tuple[int, list[int]]]) -> bytes:
    """What comes before the blocks: the header, the directory, and values that do not fit into that."""
    mark = {"<": b"II", ">": b"MM"}[order]
    head = struct.pack(f"{order}HHHQ", 43, 8, 0, 16) if big else struct.pack(f"{order}HI", 42, 8)
    count, place = ("Q", "Q") if big else ("H", "I")
    room = struct.calcsize(f"<{place}")
    start = 2 + len(head) + struct.calcsize(f"<{count}") + len(entries) * (4 + 2 * room) + room
    directory, outside = b"", b""
    for tag, (kind, values) in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(values)}{_CODES[kind]}", *values)
        if len(packed) > room:
            packed, outside = struct.pack(f"{order}{place}", start + len(outside)), outside + packed
        directory += struct.pack(f"{order}HH{place}", tag, kind, len(values)) + packed.ljust(room, b"\0")
    number = struct.pack(f"{order}{count}", len(entries))
    return mark + head + number + directory + struct.pack(f"{order}{place}", 0) + outside


# BMP ------------------------------------------------------------------------------------------------------------


def rle_bmp(indices: np.ndarray, colours: np.ndarray, *, bits: int) -> bytes:
    """Runs of 8 or 4 bits each, the last row first; ``colours`` is uint8 RGB (N, 3)."""
    height, width = indices.shape
    runs = b""
    for row in indices[::-1]:
        starts = [0, *(np.flatnonzero(np.diff(row)) + 1), width]
        for start, end in pairwise(starts):
            value = int(row[start])
            runs += bytes([end - start, value if bits == 8 else value << 4 | value])
        runs += b"\0\0"
    runs += b"\0\1"
    palette = b"".join(bytes([*colour[::-1], 0]) for colour in colours.tolist())
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 3 - bits // 4, len(runs), 0, 0, len(colours), 0)
    start = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + head + palette + runs


# everything -----------------------------------------------------------------------------------------------------


def image_files() -> dict[str, bytes]:
    """Small files by name, ``jpeg-progressive``; the part before the first hyphen is the format. All can be decoded."""
    rgb, other = picture(), picture(seed=1)
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    rgba = np.dstack([rgb, grey])
    deep, deep_grey = rgb.astype(np.uint16) * 257, grey.astype(np.uint16) * 257
    lossy, lossless = encoded(".webp", rgb, cv2.IMWRITE_WEBP_QUALITY, 80), encoded(".webp", rgb)
    jpeg, progressive, restart = encoded(".jpg", rgb), cv2.IMWRITE_JPEG_PROGRESSIVE, cv2.IMWRITE_JPEG_RST_INTERVAL
    press = cv2.IMWRITE_TIFF_COMPRESSION
    jp2, palette = encoded(".jp2", rgb), picture(4, 4).reshape(16, 3)
    return {
        "jpeg-baseline": jpeg,
        "jpeg-444": encoded(".jpg", rgb, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
        "jpeg-progressive": encoded(".jpg", rgb, progressive, 1),
        "jpeg-grey": encoded(".jpg", grey),
        "jpeg-cmyk": cmyk_jpeg(rgb),
        "jpeg-exif": jpeg_with_exif(jpeg),
        "jpeg-restart": encoded(".jpg", rgb, restart, 1),
        "jpeg-progressive-restart": encoded(".jpg", rgb, progressive, 1, restart, 2),
        "png-rgb": encoded(".png", rgb),
        "png-grey": encoded(".png", grey),
        "png-alpha": encoded(".png", rgba),
        "png-palette": palette_png(grey // 16, palette),
        "png-1bit": one_bit_png(grey > 127),
        "png-16bit": encoded(".png", deep),
        "png-16bit-grey": encoded(".png", deep_grey),
        "png-interlaced": interlaced_png(rgb),
        "png-exif": png_with(encoded(".png", rgb), b"eXIf", exif()),
        "png-animated": animated(".png", rgb, other),
        "webp-lossy": lossy,
        "webp-lossless": lossless,
        "webp-alpha": encoded(".webp", rgba),
        "webp-exif": webp_with_exif(lossy, exif(), *rgb.shape[:2]),
        "webp-animated": animated(".webp", rgb, other),
        "tiff-lzw": encoded(".tiff", rgb, press, 5, cv2.IMWRITE_TIFF_ROWSPERSTRIP, 8),
        "tiff-deflate": encoded(".tiff", rgb, press, 8),
        "tiff-packbits": encoded(".tiff", grey, press, 32773),
        "tiff-jpeg": encoded(".tiff", rgb, press, 7),
        "tiff-strip": tiff(rgb),
        "tiff-big-endian": tiff(rgb, order=">"),
        "tiff-tiles": tiff(rgb, tile=32),
        "tiff-16bit": tiff(deep),
        "tiff-16bit-big-endian-tiles": tiff(deep_grey, order=">", tile=32),
        "tiff-64": tiff(rgb, big=True),
        "tiff-turned": tiff(rgb, t274=ORIENTATION),
        "tiff-pages": pages(rgb, other),
        "bmp-rgb": encoded(".bmp", rgb),
        "bmp-grey": encoded(".bmp", grey),
        "bmp-rle8": rle_bmp(grey // 16, palette, bits=8),
        "bmp-rle4": rle_bmp(grey // 16, palette, bits=4),
        "bmp-alpha": encoded(".bmp", rgba),
        "gif-still": encoded(".gif", rgb),
        "gif-animated": animated(".gif", rgb, other),
        "pnm-rgb": encoded(".ppm", rgb),
        "pnm-grey": encoded(".pgm", grey),
        "pnm-bits": encoded(".pbm", grey),
        "pnm-text": encoded(".ppm", rgb, cv2.IMWRITE_PXM_BINARY, 0),
        "pnm-text-bits": encoded(".pbm", grey, cv2.IMWRITE_PXM_BINARY, 0),
        "pnm-16bit": encoded(".ppm", deep),
        "jp2-rgb": jp2,
        "jp2-grey": encoded(".jp2", grey),
        "jp2-16bit": encoded(".jp2", deep_grey),
        "jp2-codestream": jp2[jp2.index(b"\xff\x4f\xff\x51") :],
        "avif-rgb": encoded(".avif", rgb),
        "avif-alpha": encoded(".avif", rgba),
        "avif-10bit": encoded(".avif", (deep >> 6).astype(np.uint16), cv2.IMWRITE_AVIF_DEPTH, 10),
        "avif-animated": animated(".avif", rgb, other),
    }
