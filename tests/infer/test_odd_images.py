"""Images that are whole and not what one expects, and those that ask for more than they have: how each is read.

What decoders make of them may change with OpenCV; these are the facts that the documentation states.
"""

import time

import cv2
import numpy as np
import pytest
from image_files import (
    animated,
    chunk,
    cmyk_jpeg,
    encoded,
    exif,
    image_files,
    jpeg_of_scans,
    jpeg_parts,
    jpeg_with_exif,
    one_bit_png,
    pages,
    palette_png,
    picture,
    png_of_zeros,
    png_with,
    riff_chunk,
    rle_bmp,
    tiff,
    webp,
    webp_canvas,
    webp_with_exif,
)

from dann.infer.errors import ImageError
from dann.infer.preprocess import PreprocessSpec, decode, image_of, load_image

RGB, OTHER = picture(), picture(seed=1)
GREY = cv2.cvtColor(RGB, cv2.COLOR_RGB2GRAY)
PALETTE = picture(4, 4).reshape(16, 3)
DEEP = np.random.default_rng(0).integers(0, 2**16, (32, 48, 3), dtype=np.uint16)
TURNED = np.rot90(RGB, -1)
JPEGS = {name: data for name, data in image_files().items() if name.startswith("jpeg")}


def spec(height=4, width=4, **changes):
    return PreprocessSpec(height=height, width=width, **changes)


def distance(image: np.ndarray, expected: np.ndarray) -> float:
    """How far the pixels are from what is expected, on average; of another size: infinitely."""
    return float(abs(image.astype(int) - expected).mean()) if image.shape == expected.shape else float("inf")


def refused_within(seconds: float, data: bytes, match: str) -> None:
    began = time.process_time()
    with pytest.raises(ImageError, match=match):
        decode(data)
    assert time.process_time() - began < seconds


# cut off --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_that_was_cut_off_is_an_error_and_no_picture_filled_with_grey(name, reduction):
    """Wherever: between its segments and within them, in any scan, at restart markers, before its last two bytes."""
    data = JPEGS[name]
    assert data.endswith(b"\xff\xd9")
    markers = [at for at in range(len(data)) if data[at] == 0xFF and data[at + 1] != 0]
    for kept in sorted(
        {*markers, *(at + 1 for at in markers), *range(0, len(data), 37), *range(len(data) - 9, len(data))}
    ):
        with pytest.raises(ImageError):
            decode(data[:kept], reduction)


def test_a_progressive_jpeg_without_its_last_scan_is_an_error():
    """All of the picture is there, only not as sharp."""
    parts = jpeg_parts(JPEGS["jpeg-progressive"])
    assert parts[-2][1] == 0xDA and parts[-1] == b"\xff\xd9"
    with pytest.raises(ImageError, match="truncated"):
        decode(b"".join(parts[:-2]))


def test_what_follows_a_jpeg_does_not_matter():
    data = JPEGS["jpeg-baseline"]
    for more in (b"\0" * 100, b"\xff\xd8\xff\xe0", data):
        assert np.array_equal(decode(data + more), decode(data))


def test_nothing_is_an_error(tmp_path):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ImageError, match="is empty"):
        load_image(tmp_path / "a.jpg", spec())
    with pytest.raises(ImageError, match="is empty"):
        image_of(b"", spec(decode="reduced"))


# large ----------------------------------------------------------------------------------------------------------


def test_a_small_png_of_gigabytes_is_refused_at_once():
    data = png_of_zeros(30_000, 30_000)
    assert len(data) < 120_000
    refused_within(0.1, data, "30000x30000 pixels")


def test_a_jpeg_of_3000_scans_is_refused_at_once():
    """It would take ten seconds."""
    data = jpeg_of_scans(3000, 1000, 1000)
    assert len(data) < 200_000
    refused_within(0.1, data, "more than 100 scans")


def test_a_jpeg_of_100_scans_is_decoded():
    assert decode(jpeg_of_scans(100)).shape == (256, 256, 3)


@pytest.mark.slow
def test_the_most_scans_of_the_most_pixels_take_seconds():
    flat = np.zeros((8000, 8000), np.uint8)
    parts = jpeg_parts(encoded(".jpg", flat, cv2.IMWRITE_JPEG_PROGRESSIVE, 1))
    scans = [index for index, part in enumerate(parts) if part[1] == 0xDA]
    data = b"".join([*parts[: scans[-1]], *[parts[scans[-1]]] * (101 - len(scans)), *parts[scans[-1] + 1 :]])
    assert data.count(b"\xff\xda") == 100
    began = time.process_time()
    assert decode(data).shape == (8000, 8000, 3)
    assert time.process_time() - began < 30


# reduced decoding -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (1, 999), (999, 1)])
@pytest.mark.parametrize("suffix", [".png", ".tiff", ".bmp", ".webp", ".ppm"])
def test_what_is_a_pixel_wide_is_read_whichever_way_jpegs_are_decoded(suffix, size):
    """OpenCV's reduced decoding raises for such a PNG."""
    data = encoded(suffix, picture(*size))
    full, reduced = (image_of(data, spec(decode=how)) for how in ("full", "reduced"))
    assert np.array_equal(full, reduced)


def test_a_turned_tiff_is_read_whichever_way_jpegs_are_decoded():
    """OpenCV's reduced decoding gives it a wrong size."""
    data = tiff(picture(320, 480), t274=6)
    full, reduced = (image_of(data, spec(40, 40, decode=how)) for how in ("full", "reduced"))
    assert np.array_equal(full, reduced)
    assert np.array_equal(decode(data), np.rot90(picture(320, 480), -1))


# orientation ----------------------------------------------------------------------------------------------------

LOSSLESS_WEBP = encoded(".webp", RGB)
PNG = encoded(".png", RGB)


@pytest.mark.parametrize(
    ("data", "applied"),
    [
        (jpeg_with_exif(JPEGS["jpeg-baseline"]), True),
        (png_with(PNG, b"eXIf", exif()), True),
        (PNG[:-12] + chunk(b"eXIf", exif()) + PNG[-12:], True),
        (png_with(PNG, b"eXIf", exif(order=">")), True),
        (png_with(PNG, b"eXIf", b"Exif\0\0" + exif()), False),
        (webp_with_exif(LOSSLESS_WEBP, exif(), *RGB.shape[:2]), True),
        (webp_with_exif(LOSSLESS_WEBP, b"Exif\0\0" + exif(), *RGB.shape[:2]), False),
        (webp(webp_canvas(0, *RGB.shape[:2]), LOSSLESS_WEBP[12:], riff_chunk(b"EXIF", exif())), False),
        (tiff(RGB, t274=6), True),
        (tiff(RGB, t274=6, order=">", tile=64), True),
        (tiff(RGB.astype(np.uint16) * 257, t274=6), True),
    ],
    ids=[
        "JPEG",
        "PNG",
        "PNG, behind the picture",
        "PNG, big endian",
        "PNG, with the prefix of JPEG",
        "WebP",
        "WebP, with the prefix of JPEG",
        "WebP, not announced",
        "TIFF",
        "TIFF of one tile",
        "TIFF of 16 bits",
    ],
)
def test_orientation_is_applied_of(data, applied):
    image = decode(data)
    assert distance(image, TURNED if applied else RGB) < 3


@pytest.mark.parametrize("deep", [False, True])
def test_all_orientations_of_a_tiff_are_applied(deep):
    for orientation, upright in {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.transpose(1, 0, 2),
        6: np.rot90(RGB, -1),
        7: np.rot90(RGB, 2).transpose(1, 0, 2),
        8: np.rot90(RGB, 1),
    }.items():
        image = RGB.astype(np.uint16) * 257 if deep else RGB
        assert np.array_equal(decode(tiff(image, t274=orientation)), upright), orientation


def test_a_tiff_of_tiles_is_turned_or_refused():
    """Where it is to be mirrored, OpenCV mirrors each tile in its place."""
    for orientation in range(1, 9):
        data = tiff(RGB, t274=orientation, tile=32)
        if orientation in (2, 3, 6, 7):
            with pytest.raises(ImageError, match="tiles that are to be mirrored"):
                decode(data)
        else:
            assert np.array_equal(decode(data), decode(tiff(RGB, t274=orientation)))


def test_of_an_avif_exif_is_applied_and_its_own_turn_is_not():
    """OpenCV writes both of them."""
    bgr, payload = cv2.cvtColor(RGB, cv2.COLOR_RGB2BGR), np.frombuffer(exif(), np.uint8)
    data = cv2.imencodeWithMetadata(".avif", bgr, [cv2.IMAGE_METADATA_EXIF], [payload])[1].tobytes()
    assert b"Exif" in data and b"irot" in data
    assert distance(decode(data), TURNED) < 10
    assert distance(decode(data.replace(b"Exif", b"none")), RGB) < 10


# colours --------------------------------------------------------------------------------------------------------


def test_a_cmyk_jpeg_becomes_rgb():
    assert distance(decode(cmyk_jpeg(RGB)), RGB) < 1


def test_colours_of_a_palette_are_looked_up():
    indices = GREY // 16
    for data in (palette_png(indices, PALETTE), rle_bmp(indices, PALETTE, bits=8), rle_bmp(indices, PALETTE, bits=4)):
        assert np.array_equal(decode(data), PALETTE[indices])


def test_one_bit_is_black_or_white():
    lit = np.array(GREY > 127)
    expected = np.repeat(np.where(lit, 255, 0)[:, :, None], 3, axis=2)
    assert np.array_equal(decode(one_bit_png(lit)), expected)
    assert np.array_equal(decode(b"P4 48 32\n" + np.packbits(~lit, axis=1).tobytes()), expected)


@pytest.mark.parametrize("size", ["rgb", "grey"])
@pytest.mark.parametrize("suffix", [".png", ".tiff", ".ppm", ".jp2"])
def test_of_16_bits_the_upper_ones_count_but_of_a_tiff_in_colour_it_is_the_nearest(suffix, size):
    deep = DEEP if size == "rgb" else DEEP[:, :, 0]
    if suffix == ".tiff":
        data = tiff(deep)
    else:  # 1000: JPEG 2000 without loss
        data = encoded(".pgm" if suffix == ".ppm" and size == "grey" else suffix, deep, *JP2_LOSSLESS[suffix == ".jp2"])
    expected = np.rint(deep / 257) if (suffix, size) == (".tiff", "rgb") else deep // 256
    assert np.array_equal(decode(data), np.broadcast_to(expected.reshape(32, 48, -1), (32, 48, 3)))


JP2_LOSSLESS = {False: (), True: (cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000)}


ALPHA = np.where(np.arange(48) % 2, 128, 0).astype(np.uint8)[None].repeat(32, axis=0)
RGBA = np.dstack([RGB, ALPHA])


@pytest.mark.parametrize(
    "data",
    [
        encoded(".png", RGBA),
        encoded(".bmp", RGBA),
        encoded(".avif", RGBA, cv2.IMWRITE_AVIF_QUALITY, 100),
        encoded(".webp", RGBA, cv2.IMWRITE_WEBP_LOSSLESS_MODE, cv2.IMWRITE_WEBP_LOSSLESS_PRESERVE_COLOR),
        tiff(RGBA, t338=0),
        tiff(RGBA, t338=1),
    ],
    ids=["PNG", "BMP", "AVIF", "WebP", "TIFF, unspecified", "TIFF, associated"],
)
def test_transparent_pixels_have_the_colour_that_is_stored(data):
    assert distance(decode(data), RGB) < 1


@pytest.mark.parametrize("deep", [False, True])
def test_of_a_tiff_with_unassociated_alpha_transparent_pixels_are_darkened(deep):
    """As libtiff does: colours are multiplied with alpha."""
    image = RGBA.astype(np.uint16) * 257 if deep else RGBA
    assert distance(decode(tiff(image, t338=2)), RGB * (ALPHA[:, :, None] / 255)) < 1


@pytest.mark.parametrize("alpha", [False, True])
def test_red_of_an_avif_is_red(alpha):
    """OpenCV 5.0 exchanges red and blue of an AVIF with an alpha channel where RGB is asked for."""
    red = np.full((32, 32, 4), (255, 0, 0, 200), np.uint8)
    assert distance(decode(encoded(".avif", red if alpha else red[:, :, :3].copy())), red[:, :, :3]) < 5


# several pictures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "lossy"), [(".gif", 20), (".webp", 5), (".png", 0), (".avif", 6)])
def test_of_an_animation_the_first_frame_is_taken(suffix, lossy):
    data = animated(suffix, RGB, OTHER)
    assert distance(decode(data), RGB) <= lossy < 25 < distance(decode(data), OTHER)


def test_of_several_pages_the_first_is_taken():
    assert np.array_equal(decode(pages(RGB, OTHER, picture(8, 8))), RGB)
