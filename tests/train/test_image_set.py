"""Two ways to hold images, one behaviour."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from dann.infer.errors import DannError
from dann.infer.preprocess import PreprocessSpec, fit, load_image
from dann.train.image_set import ImageSet, images_from_arrays, images_from_files

SIZE = PreprocessSpec(height=5, width=7, resize="crop")
STREAM, MEMORY = 0, 2**20


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """A hundred noise images of different sizes: more than one task of the decoding threads."""
    random = np.random.default_rng(0)
    paths = [tmp_path / f"{i:03}.png" for i in range(100)]
    for i, path in enumerate(paths):
        path.write_bytes(cv2.imencode(".png", random.integers(0, 256, (6 + i % 5, 9, 3), np.uint8))[1].tobytes())
    return paths


def opened(paths: list[Path], budget: int) -> ImageSet:
    return images_from_files(paths, SIZE, budget)[0]


def test_the_budget_chooses_and_the_pixels_are_the_same(paths: list[Path]):
    exact = len(paths) * 5 * 7 * 3
    memory, stream = opened(paths, exact), opened(paths, exact - 1)
    assert memory.in_memory and not stream.in_memory
    indices = np.random.default_rng(1).integers(0, len(paths), 150)
    np.testing.assert_array_equal(memory.read(indices), stream.read(indices))
    assert memory.names == stream.names


@pytest.mark.parametrize("budget", [STREAM, MEMORY])
def test_files_that_are_no_images_are_left_out(paths: list[Path], budget: int):
    paths[70].write_text("text, whatever its name says")
    paths[3].write_bytes(b"")
    paths[4].unlink()
    images, kept = images_from_files(paths, SIZE, budget)
    assert kept.tolist() == [i for i in range(100) if i not in (3, 4, 70)]
    assert [name for name, _ in images.skipped] == [str(paths[i]) for i in (3, 4, 70)]
    assert [reason.split(":")[0] for _, reason in images.skipped] == [
        "is empty (0 bytes)", "cannot be read", "is not an image, or its header is damaged or truncated",
    ]  # fmt: skip
    np.testing.assert_array_equal(images.read(np.array([3]))[0], load_image(paths[5], SIZE))


@pytest.mark.parametrize("budget", [STREAM, MEMORY])
def test_a_name_that_is_not_utf_8_is_read_like_any_other(paths: list[Path], budget: int):
    odd = paths[0].rename(paths[0].with_name(os.fsdecode(b"\xff.png")))
    np.testing.assert_array_equal(opened([odd], budget).read(np.array([0]))[0], load_image(odd, SIZE))


@pytest.mark.parametrize("budget", [STREAM, MEMORY])
def test_files_none_of_which_is_an_image_fail(paths: list[Path], budget: int):
    for path in paths:
        path.write_text("no")
    with pytest.raises(DannError, match=r"none of 100 images can be read; the first, '.*000\.png', is not an image"):
        opened(paths, budget)


@pytest.mark.parametrize("budget", [STREAM, MEMORY])
def test_a_truncated_file_is_found_when_the_set_is_opened(paths: list[Path], budget: int):
    paths[2].write_bytes(paths[2].read_bytes()[:60])
    images = opened(paths, budget)
    assert len(images) == 99 and [name for name, _ in images.skipped] == [str(paths[2])]


def test_a_file_of_a_streaming_set_that_breaks_later_is_named_when_it_is_read(paths: list[Path]):
    images = opened(paths, STREAM)
    paths[2].write_bytes(paths[2].read_bytes()[:60])
    assert len(images.read(np.array([0, 1, 3]))) == 3
    with pytest.raises(DannError, match=r"002\.png' cannot be decoded"):
        images.read(np.arange(4))


@pytest.mark.parametrize("budget", [STREAM, MEMORY])
def test_the_fingerprint_tells_content_and_order_but_not_the_place(paths: list[Path], budget: int, tmp_path: Path):
    before = opened(paths, budget).fingerprint()
    moved = tmp_path / "moved"
    moved.mkdir()
    copies = [moved / path.name for path in paths]
    for path, copy in zip(paths, copies, strict=True):
        copy.write_bytes(path.read_bytes())
    assert opened(copies, budget).fingerprint() == before
    assert opened(copies, budget).subset(np.arange(100)[::-1]).fingerprint() != before
    copies[0].write_bytes(cv2.imencode(".png", load_image(paths[1], SIZE))[1].tobytes())
    assert opened(copies, budget).fingerprint() != before


def test_a_subset_still_tells_what_was_left_out(paths: list[Path]):
    paths[3].write_bytes(b"")
    assert opened(paths, MEMORY).subset(np.array([0])).skipped == [(str(paths[3]), "is empty (0 bytes)")]


def test_read_gives_a_copy(paths: list[Path]):
    images = opened(paths, MEMORY)
    images.read(np.arange(3))[:] = 0
    assert images.read(np.arange(3)).any()


def test_no_indices_give_an_empty_batch(paths: list[Path]):
    for budget in (STREAM, MEMORY):
        assert opened(paths, budget).read(np.array([], np.int64)).shape == (0, 5, 7, 3)


def test_grey_arrays_become_rgb_of_the_asked_size():
    grey = np.random.default_rng(0).integers(0, 256, (3, 8, 8), np.uint8)
    images = images_from_arrays(grey, ["a", "b", "c"], SIZE)
    assert images.read(np.arange(3)).shape == (3, 5, 7, 3)
    np.testing.assert_array_equal(images.read(np.array([1]))[0], fit(grey[1], SIZE))


def test_arrays_of_the_asked_size_are_kept_as_they_are():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), np.uint8)
    np.testing.assert_array_equal(images_from_arrays(pixels, ["a", "b", "c"], SIZE).read(np.arange(3)), pixels)
