"""From the bytes of an image file to the uint8 pixels that the network sees.

The one implementation of :class:`PreprocessSpec`. Training, evaluation, calibration, parity and inference all
call it, so the pixels are the same to the last bit everywhere. Normalisation is not here: it is inside the
exported graph.

Shapes: ``image_HWC`` is uint8 RGB of any size; the result is uint8 RGB (height, width, 3) of the size of the
spec.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np

from dann.infer.errors import ImageError, UsageError, unknown_name
from dann.infer.image_header import ImageHeader, jpeg_scans, read_header
from dann.infer.png_chunks import still_png

Resize = Literal["stretch", "crop", "letterbox"]
Interpolation = Literal["area", "linear", "cubic"]
Decoding = Literal["full", "reduced"]

_CV2_INTERPOLATION = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}
_LETTERBOX_GREY = 114
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True, kw_only=True)
class PreprocessSpec:
    """How an image of any size becomes the network's input."""

    height: int
    """Rows of the network's input, in pixels."""

    width: int
    """Columns of the network's input, in pixels."""

    resize: Resize = "stretch"
    """``stretch`` ignores the aspect ratio; ``crop`` scales the shorter side and cuts the centre;
    ``letterbox`` scales the longer side and pads with grey."""

    interpolation: Interpolation = "area"
    """``area`` averages pixels when the image shrinks and is bilinear when it grows; ``linear`` and ``cubic``
    are OpenCV's, without antialiasing."""

    decode: Decoding = "full"
    """``reduced`` decodes a JPEG at a half, a quarter or an eighth of its size where that is no smaller than what the
    network sees. That is faster, and other pixels than those of ``full``: a side that the factor does not divide
    moves by less than a pixel."""

    colour: Literal["RGB"] = "RGB"
    """Channel order. Grey images are repeated over the three channels; an alpha channel is dropped."""

    def __post_init__(self) -> None:
        if not all(isinstance(side, int) and side >= 1 for side in (self.height, self.width)):
            raise UsageError(f"image size is {self.height}x{self.width}; both sides must be whole pixels, at least 1")
        for field, given, allowed in (
            ("resize mode", self.resize, get_args(Resize)),
            ("interpolation", self.interpolation, get_args(Interpolation)),
            ("decoding", self.decode, get_args(Decoding)),
            ("colour order", self.colour, ("RGB",)),
        ):
            if given not in allowed:
                raise unknown_name(field, given, allowed)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is not decoded, as it could take all memory, or minutes. It is known before decoding begins."""

    max_pixels: int = 64_000_000
    """Rows times columns."""

    max_bytes: int = 2**29
    """Of the file: 512 MiB, eight bytes for each of the pixels."""

    max_jpeg_scans: int = 100
    """A progressive JPEG has about ten. Each goes through the whole image once more."""

    def __post_init__(self) -> None:
        for name, value in (("pixels", self.max_pixels), ("bytes", self.max_bytes), ("scans", self.max_jpeg_scans)):
            if value < 1:
                raise UsageError(f"the most {name} of an image are {value}; expected 1 or more")


LIMITS = Limits()
"""What holds where nothing else is said."""


def load_image(path: Path | str, spec: PreprocessSpec, limits: Limits = LIMITS) -> np.ndarray:
    """The image file at ``path`` as the network sees it: uint8 RGB (height, width, 3).

    EXIF orientation is applied. Raises :class:`ImageError` where the file cannot be read or decoded, or is beyond
    ``limits``.
    """
    return image_of(read_bytes(path, limits), spec, limits)


def image_of(data: bytes, spec: PreprocessSpec, limits: Limits = LIMITS) -> np.ndarray:
    """The content of an image file as the network sees it, see :func:`load_image`."""
    return fit(decode(data, reduction(data, spec), limits), spec)


def read_bytes(path: Path | str, limits: Limits = LIMITS) -> bytes:
    """The content of the regular file ``path``; :class:`ImageError` where it cannot be read, or is too large.

    Nothing else is opened: a pipe would wait for ever, and a device may do anything.
    """
    try:
        _check_regular(os.stat(path), limits)
        handle = os.open(path, _OPEN_FLAGS)  # what replaced the file since does not wait either
        with open(handle, "rb", buffering=0) as file:
            _check_regular(os.fstat(handle), limits)
            return file.readall()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}", "cannot be read") from error
    except ValueError as error:  # a null byte in the path
        raise ImageError(f"cannot be read: {error}", "cannot be read") from error


def _check_regular(status: os.stat_result, limits: Limits) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("cannot be read: not a regular file", "cannot be read")
    if status.st_size > limits.max_bytes:
        raise ImageError(f"has {status.st_size} bytes; at most {limits.max_bytes} are read", "too large")


def reduction(data: bytes, spec: PreprocessSpec) -> int:
    """1, 2, 4 or 8: what the sides of the encoded image are to be divided by while it is decoded.

    The same for an image and its quarter turns, as EXIF may ask for one.
    """
    header = read_header(data) if spec.decode == "reduced" and data[:2] == b"\xff\xd8" else None
    if header is None:
        return 1
    shrinks = max if spec.resize == "letterbox" else min
    either_way = (spec.height, spec.width), (spec.width, spec.height)
    room = min(shrinks(header.height / height, header.width / width) for height, width in either_way)
    return next((factor for factor in (8, 4, 2) if factor <= room), 1)


def decode(data: bytes, reduction: int = 1, limits: Limits = LIMITS) -> np.ndarray:
    """An encoded image (JPEG, PNG, WebP, TIFF, BMP, GIF, PNM, JPEG 2000, AVIF) as uint8 RGB (H, W, 3).

    EXIF orientation is applied. ``reduction`` 2, 4 or 8 divides both sides, rounding up; JPEGs are faster then. Goes
    through ``imdecode``: unlike ``imread`` it refuses truncated files instead of filling them with grey, and never
    sees the path, so any file name works. Raises :class:`ImageError`.
    """
    format = check_header(data, limits).format
    if format == "PNG":
        data = still_png(data) or b""
    # with an alpha channel, OpenCV 5.0 decodes AVIF to BGR whichever of the two it is asked for
    colours = cv2.IMREAD_COLOR if format == "AVIF" else cv2.IMREAD_COLOR_RGB
    size = 0 if reduction == 1 else 8 * reduction  # OpenCV names the grey and the BGR flags alone: 16, 32 and 64
    try:
        image_HWC = cv2.imdecode(np.frombuffer(data, np.uint8), colours | size) if data else None
    except cv2.error as error:
        raise ImageError(f"cannot be decoded: {error.err}") from error
    if image_HWC is None:
        raise ImageError("cannot be decoded: damaged or truncated")
    return cv2.cvtColor(image_HWC, cv2.COLOR_BGR2RGB) if colours == cv2.IMREAD_COLOR else image_HWC


def check_header(data: bytes, limits: Limits = LIMITS) -> ImageHeader:
    """The header; :class:`ImageError` for what is no image, or would take more to decode than ``limits`` allow."""
    if not data:
        raise ImageError("is empty (0 bytes)", "empty")
    header = read_header(data)
    if header is None:
        raise ImageError("is not an image, or its header is damaged or truncated", "not an image")
    if header.pixels > limits.max_pixels:
        raise ImageError(
            f"is {header.width}x{header.height} pixels; at most {limits.max_pixels} are decoded", "too large"
        )
    if header.format == "JPEG" and jpeg_scans(data, most=limits.max_jpeg_scans) > limits.max_jpeg_scans:
        raise ImageError(f"is a JPEG of more than {limits.max_jpeg_scans} scans", "too large")
    if header.mirrored_tiles:  # OpenCV 5.0 mirrors each tile where it is: a picture that nobody took
        raise ImageError("is a TIFF of tiles that are to be mirrored, which OpenCV does not; save it upright")
    return header


def fit(image_HWC: np.ndarray, spec: PreprocessSpec) -> np.ndarray:
    """``image_HWC`` (uint8 RGB, or grey H×W) brought to the size of ``spec``: uint8 (height, width, 3).

    Raises :class:`ImageError` for an array that is not such an image.
    """
    if (
        image_HWC.dtype != np.uint8
        or image_HWC.shape[2:] not in ((), (3,))
        or 0 in image_HWC.shape
        or image_HWC.ndim < 2
    ):
        raise ImageError(f"is {image_HWC.dtype} {image_HWC.shape}; expected uint8 (H, W, 3) or (H, W)")
    if image_HWC.ndim == 2:
        image_HWC = np.repeat(image_HWC[:, :, None], 3, axis=2)
    height, width = image_HWC.shape[:2]
    if spec.resize == "crop":
        image_HWC = _centre_crop(image_HWC, aspect=spec.width / spec.height)
    elif spec.resize == "letterbox":
        scale = min(spec.height / height, spec.width / width)
        inner = _scale(image_HWC, max(1, round(height * scale)), max(1, round(width * scale)), spec.interpolation)
        return _pad(inner, spec.height, spec.width)
    return _scale(image_HWC, spec.height, spec.width, spec.interpolation)


def shrunk(image_HWC: np.ndarray, scale: float) -> np.ndarray:
    """The image at ``scale`` of its size, below 1; a side has a pixel at least."""
    height, width = (max(1, round(side * scale)) for side in image_HWC.shape[:2])
    return cv2.resize(image_HWC, (width, height), interpolation=cv2.INTER_AREA)


def _scale(image_HWC: np.ndarray, height: int, width: int, interpolation: Interpolation) -> np.ndarray:
    if image_HWC.shape[:2] == (height, width):
        return np.ascontiguousarray(image_HWC)
    shrinks = height <= image_HWC.shape[0] and width <= image_HWC.shape[1]
    if interpolation == "area" and not shrinks:
        interpolation = "linear"  # OpenCV's INTER_AREA is nearest-neighbour-like when it enlarges
    return cv2.resize(image_HWC, (width, height), interpolation=_CV2_INTERPOLATION[interpolation])


def _centre_crop(image_HWC: np.ndarray, aspect: float) -> np.ndarray:
    height, width = image_HWC.shape[:2]
    crop_height = min(height, max(1, round(width / aspect)))
    crop_width = min(width, max(1, round(height * aspect)))
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    return image_HWC[top : top + crop_height, left : left + crop_width]


def _pad(image_HWC: np.ndarray, height: int, width: int) -> np.ndarray:
    canvas = np.full((height, width, 3), _LETTERBOX_GREY, np.uint8)
    top, left = (height - image_HWC.shape[0]) // 2, (width - image_HWC.shape[1]) // 2
    canvas[top : top + image_HWC.shape[0], left : left + image_HWC.shape[1]] = image_HWC
    return canvas
