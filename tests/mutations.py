"""Damaged image files by the thousand, and a process that tries them.

A mutation is named by its file, its number and what was done to it; file and number are its seed. The process
(``python mutations.py FIRST COUNT``) writes each name before it decodes the file, so whatever kills it or holds it up
is known by name, and then how it ended. To look at one: ``mutation("png-grey", 1724)``.
"""

import faulthandler
import os
import random
import resource
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise

import cv2
import cv2.utils.logging as log
from image_files import PNG_START, image_files, jpeg_parts

from dann.infer.errors import ImageError
from dann.infer.image_header import read_header
from dann.infer.preprocess import PreprocessSpec, decode, image_of

EXTREMES = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 8_000, 30_000)
EXTREMES += (2**31 - 1, 2**31, 2**32 - 12, 2**32 - 1)
_BOXES = {b"meta": 12, b"iprp": 8, b"ipco": 8, b"moov": 8, b"trak": 8, b"mdia": 8, b"minf": 8, b"stbl": 8, b"jp2h": 8}
"""Boxes of boxes, and how long their own headers are."""

Edit = Callable[[str, bytes, random.Random], bytes]


# what a file consists of ----------------------------------------------------------------------------------------


def parts(name: str, data: bytes) -> list[bytes]:
    """``data`` cut where its format has segments, chunks, boxes or fields."""
    kind = name.partition("-")[0]
    if kind == "jpeg":
        return jpeg_parts(data) or [data]
    cuts = {"png": _png_cuts, "webp": _riff_cuts, "tiff": _tiff_cuts, "avif": _box_cuts, "jp2": _box_cuts}.get(kind)
    found = sorted({0, len(data), *(cuts(data) if cuts else (14, 54))})
    return [data[start:end] for start, end in pairwise(at for at in found if at <= len(data))]


def _png_cuts(data: bytes) -> Iterator[int]:
    at = 8
    while at + 8 <= len(data):
        yield at
        at += 12 + int.from_bytes(data[at : at + 4])


def _riff_cuts(data: bytes) -> Iterator[int]:
    at = 12
    while at + 8 <= len(data):
        yield at
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"ANMF":
            yield at + 24
        at += 8 + size + size % 2


def _tiff_cuts(data: bytes) -> Iterator[int]:
    order, big = "little" if data[:2] == b"II" else "big", 43 in data[2:4]
    at = int.from_bytes(data[8:16] if big else data[4:8], order)
    count = int.from_bytes(data[at : at + (8 if big else 2)], order)
    first, each = at + (8 if big else 2), 20 if big else 12
    yield from (at, *(first + each * index for index in range(min(count, 100) + 1)))


def _box_cuts(data: bytes, at: int = 0, end: int | None = None) -> Iterator[int]:
    """Of a JPEG 2000 codestream without boxes, too: its markers, as far as they have lengths."""
    end = len(data) if end is None else end
    if data[:2] == b"\xff\x4f":
        yield from _codestream_cuts(data, 2)
        return
    while at + 8 <= end:
        yield at
        size, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        if kind in _BOXES:
            yield from _box_cuts(data, at + _BOXES[kind], at + size)
        if kind == b"jp2c":
            yield from _codestream_cuts(data, at + 10)
        at += size if size >= 8 else end


def _codestream_cuts(data: bytes, at: int) -> Iterator[int]:
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0x93:
        yield at
        at += 2 + int.from_bytes(data[at + 2 : at + 4])


def sealed_png(data: bytes) -> bytes:
    """The same chunks, each with the checksum that it should have."""
    if data[:8] != PNG_START:
        return data
    out = data[:8]
    for start, end in pairwise([*_png_cuts(data), len(data)]):
        piece = data[start:end]
        out += piece[:-4] + struct.pack(">I", zlib.crc32(piece[4:-4])) if len(piece) >= 12 else piece
    return out


# edits ----------------------------------------------------------------------------------------------------------


def truncate(name: str, data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def flip(name: str, data: bytes, rng: random.Random) -> bytes:
    """A few bytes anywhere."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16, 64))):
        out[rng.randrange(len(out))] = rng.choice((rng.randrange(256), 0, 0xFF))
    return bytes(out)


def flip_bit_of_head(name: str, data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    out[rng.randrange(min(len(out), 400))] ^= 1 << rng.randrange(8)
    return sealed_png(bytes(out))


def edit_number(name: str, data: bytes, rng: random.Random) -> bytes:
    """A number in the first bytes of a part: a size, a length, a depth, a count, an offset."""
    pieces = parts(name, data)
    index = rng.randrange(len(pieces))
    piece = bytearray(pieces[index])
    size = rng.choice((1, 2, 2, 4, 4, 8))
    at = rng.randrange(min(len(piece), 36))
    order = rng.choice(("big", "little"))
    before = int.from_bytes(piece[at : at + size], order)
    value = rng.choice((*EXTREMES, before + 1, before - 1, 2 * before, before // 2)) % 256**size
    piece[at : at + size] = value.to_bytes(size, order)
    return sealed_png(b"".join([*pieces[:index], piece, *pieces[index + 1 :]]))


def wrong_checksum(name: str, data: bytes, rng: random.Random) -> bytes:
    """The end of a part, which is where PNG has its checksum."""
    pieces = parts(name, data)
    index = rng.randrange(len(pieces))
    pieces[index] = pieces[index][:-4] + rng.randbytes(len(pieces[index][-4:]))
    return b"".join(pieces)


def drop(name: str, data: bytes, rng: random.Random) -> bytes:
    pieces = parts(name, data)
    del pieces[rng.randrange(len(pieces))]
    return b"".join(pieces)


def duplicate(name: str, data: bytes, rng: random.Random) -> bytes:
    pieces = parts(name, data)
    pieces.insert(rng.randrange(len(pieces) + 1), rng.choice(pieces) * rng.choice((1, 1, 1, 2, 50)))
    return b"".join(pieces)


def reorder(name: str, data: bytes, rng: random.Random) -> bytes:
    pieces = parts(name, data)
    one, other = rng.randrange(len(pieces)), rng.randrange(len(pieces))
    pieces[one], pieces[other] = pieces[other], pieces[one]
    return b"".join(pieces)


def shorten(name: str, data: bytes, rng: random.Random) -> bytes:
    """A part without its end: what follows is not where it is expected."""
    pieces = parts(name, data)
    index = rng.randrange(len(pieces))
    pieces[index] = pieces[index][: rng.randrange(len(pieces[index]))]
    return b"".join(pieces)


def lengthen(name: str, data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + rng.choice((rng.randbytes, bytes))(rng.choice((1, 2, 4, 100, 5000))) + data[at:]


def cross(name: str, data: bytes, rng: random.Random) -> bytes:
    """Parts of another file of the same format."""
    kind = name.partition("-")[0]
    other = rng.choice([other for other in FILES if other.startswith(kind)])
    pieces, others = parts(name, data), parts(other, FILES[other])
    index = rng.randrange(len(pieces))
    return b"".join([*pieces[:index], rng.choice(others), *pieces[index + rng.randrange(2) :]])


EDITS: tuple[Edit, ...] = (
    truncate,
    flip,
    flip_bit_of_head,
    edit_number,
    edit_number,
    edit_number,
    wrong_checksum,
    drop,
    duplicate,
    reorder,
    shorten,
    lengthen,
    cross,
)
"""Numbers decide about memory and time, so they are edited most."""

FILES = image_files()


def mutation(name: str, number: int) -> tuple[str, bytes]:
    """What was done, and the file. The first edits are each in turn, later ones come in twos and threes."""
    rng = random.Random(f"{name} {number}")
    edits = [EDITS[number % len(EDITS)]] if rng.random() < 0.6 else rng.choices(EDITS, k=rng.choice((2, 2, 3)))
    data = FILES[name]
    for edit in edits:
        data = edit(name, data, rng) or b"\0"
    return "+".join(edit.__name__ for edit in edits), data


# trying them ----------------------------------------------------------------------------------------------------

MOST_SECONDS = 10.0
"""Of the processor, for one file: they are small, but may ask for as many pixels as the limits allow."""
MOST_BYTES = 2**30
"""By which the process may have grown."""
HANGS_AFTER_S = 120.0
ROOM_BYTES = 6 * 2**30
"""Of addresses: so that what takes all memory fails here, and does not take that of the machine."""
PROBLEM = "PROBLEM"


def ending(data: bytes) -> str:
    """``pixels`` and their checksums, or the kind of error; raises :class:`AssertionError` for what must not be."""
    try:
        whole = decode(data)
        header = read_header(data)
        assert header is not None and whole.shape[0] * whole.shape[1] <= header.pixels, (header, whole.shape)
        checksums = [zlib.crc32(whole.tobytes())]
        for spec in (FULL, REDUCED):
            image = image_of(data, spec)
            assert image.shape == (5, 7, 3) and image.dtype == "uint8", (image.shape, image.dtype)
            checksums.append(zlib.crc32(image.tobytes()))
        return f"pixels {checksums}"
    except ImageError as error:
        assert "memory" not in str(error) and "llocat" not in str(error), str(error)
        return error.kind


FULL = PreprocessSpec(height=5, width=7)
REDUCED = PreprocessSpec(height=5, width=7, decode="reduced")


def peak_bytes() -> int:
    """The most memory that this process had until now."""
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def main(first: int, count: int, *names: str) -> None:
    """Try mutations ``first`` to ``first + count`` of each named file, or of all; a line each on standard output."""
    cv2.setNumThreads(1)
    log.setLogLevel(log.LOG_LEVEL_SILENT)
    faulthandler.enable()
    for data in FILES.values():  # what is loaded at first use is not of the first mutation
        image_of(data, FULL)
    start = peak_bytes()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    room = 2 * start + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    for name in names or FILES:
        for number in range(first, first + count):
            edits, data = mutation(name, number)
            os.write(1, f"{name} {number} {edits}: ".encode())
            faulthandler.dump_traceback_later(HANGS_AFTER_S, exit=True)
            began = time.process_time()
            try:
                answer = ending(data)
            except Exception as error:
                answer = f"{PROBLEM} {type(error).__name__}: {error}"
            seconds = time.process_time() - began
            faulthandler.cancel_dump_traceback_later()
            if seconds > MOST_SECONDS:
                answer += f" {PROBLEM} took {seconds:.1f} s"
            if peak_bytes() - start > MOST_BYTES:
                answer += f" {PROBLEM} took {(peak_bytes() - start) / 2**20:.0f} MiB"
                start = peak_bytes() - MOST_BYTES  # the next one that takes even more is named, too
            answer = answer.replace("\n", " ")
            os.write(1, f"{answer}\n".encode("utf-8", "replace"))


def answers(ran: "subprocess.CompletedProcess[bytes]") -> dict[str, str]:
    """How each mutation ended, by its name; :class:`AssertionError` names those that did not end well."""
    lines = ran.stdout.decode("utf-8", "replace").split("\n")
    trace = ran.stderr.decode("utf-8", "replace")[-1000:]
    assert not lines[-1], f"the process ended with {ran.returncode} at {lines[-1]}\n{trace}"
    assert ran.returncode == 0, trace
    answers = dict(line.split(": ", 1) for line in lines[:-1])
    bad = [f"{name}: {answer}" for name, answer in answers.items() if PROBLEM in answer]
    assert not bad, "\n".join(bad[:20])
    return answers


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
