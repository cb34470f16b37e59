"""A PNG file as it can be given to OpenCV.

OpenCV 5 reads the chunks before the picture itself, in search of an animation. It takes memory for what the length of a
chunk claims, 4 GiB and seconds for a file of 45 bytes. Of an animation that is damaged it shows pixels that were never
written, so that they are what other images left in memory, or it ends the process. As nothing but the first picture is
wanted, no animation is shown to it.
"""

_START = 8
_BESIDES = 12
"""Bytes of a chunk: its length, its kind, its checksum."""
_ANIMATION = (b"acTL", b"fcTL")
_MOST_CHUNKS = 50_000


def still_png(data: bytes) -> bytes | None:
    """``data`` without what makes it an animation; ``None`` where a chunk goes beyond its end, or it has no picture.

    Chunks behind the beginning of the picture are libpng's to check.
    """
    at, kept = _START, [data[:_START]]
    for number in range(_MOST_CHUNKS):
        kind, end = data[at + 4 : at + 8], at + _BESIDES + int.from_bytes(data[at : at + 4])
        if end > len(data):
            return None
        if kind == b"IDAT":
            return data if len(kept) == number + 1 else b"".join([*kept, data[at:]])
        if kind not in _ANIMATION:
            kept.append(data[at:end])
        at = end
    return None
