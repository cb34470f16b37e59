"""Large sets are decoded once, whatever happens to the cache that remembers them."""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from dann.infer.errors import UsageError
from dann.infer.preprocess import PreprocessSpec, load_image
from dann.train import decoded_cache, image_set
from dann.train.image_set import ImageSet, images_from_files

SIZE = PreprocessSpec(height=5, width=7)
IMAGES = 20
SET_BYTES = IMAGES * 5 * 7 * 3


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DANN_CACHE_GB", raising=False)
    return tmp_path / "cache" / "dann" / "decoded"


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """The files that were decoded, in any order."""
    decoded: list[Path] = []

    def load(path: Path, spec: PreprocessSpec) -> np.ndarray:
        decoded.append(path)
        return load_image(path, spec)

    monkeypatch.setattr(image_set, "load_image", load)
    yield decoded


def draw(folder: Path, seed: int = 0) -> list[Path]:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    paths = [folder / f"{number:02}.png" for number in range(IMAGES)]
    for path in paths:
        path.write_bytes(cv2.imencode(".png", rng.integers(0, 256, (6, 9, 3), np.uint8))[1].tobytes())
    return paths


def opened(paths: list[Path], spec: PreprocessSpec = SIZE) -> ImageSet:
    return images_from_files(paths, spec, memory_budget_bytes=0)[0]


def sets(cache: Path) -> list[Path]:
    return [entry for entry in cache.iterdir() if entry.is_dir()]


def expect_pixels_of(paths: list[Path], images: ImageSet) -> None:
    indices = np.random.default_rng(1).integers(0, len(paths), 50)
    np.testing.assert_array_equal(images.read(indices), [load_image(paths[i], SIZE) for i in indices])


def test_a_set_is_decoded_once_and_never_again(tmp_path: Path, decodings: list[Path]):
    paths = draw(tmp_path / "a")
    expect_pixels_of(paths, opened(paths))
    assert sorted(decodings) == paths
    again = opened(paths)
    expect_pixels_of(paths, again)
    assert sorted(decodings) == paths and not again.in_memory


def test_the_same_images_elsewhere_are_the_same_set(tmp_path: Path, decodings: list[Path], cache: Path):
    paths = draw(tmp_path / "a")
    before = opened(paths)
    moved = [Path(shutil.copytree(tmp_path / "a", tmp_path / "b")) / path.name for path in paths[:1]]
    again = opened([tmp_path / "b" / path.name for path in paths])
    assert moved[0].exists() and len(decodings) == IMAGES and len(sets(cache)) == 1
    assert again.fingerprint() == before.fingerprint()


def test_a_changed_image_is_seen_whatever_its_size_and_date(tmp_path: Path):
    paths = draw(tmp_path / "a")
    before, stat = opened(paths).fingerprint(), paths[3].stat()
    data = bytearray(cv2.imencode(".bmp", load_image(paths[3], SIZE))[1].tobytes())
    paths[3].write_bytes(data)
    opened(paths)
    data[-1] ^= 255
    paths[3].write_bytes(data)
    os.utime(paths[3], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    images = opened(paths)
    assert images.fingerprint() != before
    expect_pixels_of(paths, images)


def test_another_size_is_another_set(tmp_path: Path, cache: Path):
    paths = draw(tmp_path / "a")
    opened(paths)
    other = PreprocessSpec(height=4, width=4, resize="letterbox")
    np.testing.assert_array_equal(opened(paths, other).read(np.array([2]))[0], load_image(paths[2], other))
    assert len(sets(cache)) == 2


def test_what_cannot_be_decoded_is_remembered_too(tmp_path: Path, decodings: list[Path]):
    paths = draw(tmp_path / "a")
    paths[3].write_text("no image")
    paths[5].unlink()
    first = opened(paths)
    known = len(decodings)
    assert opened(paths).skipped == first.skipped
    assert [name for name, _ in first.skipped] == [str(paths[3]), str(paths[5])] and len(decodings) == known


@pytest.mark.parametrize("damage", ["cut", "emptied", "no pixels", "no failures", "failures cut"])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, cache: Path, damage: str):
    paths = draw(tmp_path / "a")
    opened(paths)
    (folder,) = sets(cache)
    pixels, failures = folder / "pixels.npy", folder / "failures.json"
    if damage == "cut":
        pixels.write_bytes(pixels.read_bytes()[:-1])
    elif damage == "emptied":
        pixels.write_bytes(b"")
    elif damage == "no pixels":
        pixels.unlink()
    elif damage == "no failures":
        failures.unlink()
    else:
        failures.write_text("[null, nu")
    expect_pixels_of(paths, opened(paths))
    assert sets(cache) == [folder] and failures.read_text().count("null") == IMAGES


def test_it_may_be_deleted_while_it_is_read(tmp_path: Path, cache: Path):
    paths = draw(tmp_path / "a")
    images = opened(paths)
    shutil.rmtree(cache)
    expect_pixels_of(paths, images)
    expect_pixels_of(paths, opened(paths))


def test_the_set_that_was_not_used_for_longest_makes_room(
    tmp_path: Path, cache: Path, decodings: list[Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DANN_CACHE_GB", str(3 * SET_BYTES / 1e9))  # two sets and what is around the pixels
    monkeypatch.setattr(decoded_cache, "_in_use", Forgetful())  # as if each came from a process of its own
    many = [draw(tmp_path / name, seed) for seed, name in enumerate("abc")]
    for number, paths in enumerate(many[:2]):
        opened(paths)
        newest = max(sets(cache), key=lambda folder: folder.stat().st_mtime_ns)
        os.utime(newest, (1000 + number, 1000 + number))
    opened(many[0])  # used again
    opened(many[2])
    assert len(sets(cache)) == 2
    before = len(decodings)
    opened(many[0])
    opened(many[2])
    assert len(decodings) == before
    opened(many[1])
    assert len(decodings) == before + IMAGES


class Forgetful(set[Path]):
    def __contains__(self, folder: object) -> bool:
        return False


def test_a_run_does_not_make_room_at_its_own_expense(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DANN_CACHE_GB", str(1.9 * SET_BYTES / 1e9))
    first, second = draw(tmp_path / "a", 0), draw(tmp_path / "b", 1)
    opened(first)
    expect_pixels_of(second, opened(second))
    assert len(sets(cache)) == 1


def test_what_a_killed_process_left_is_deleted(tmp_path: Path, cache: Path):
    (cache / ".part-old").mkdir(parents=True)
    (cache / ".part-old" / "pixels.npy").write_bytes(b"half")
    opened(draw(tmp_path / "a"))
    assert not (cache / ".part-old").exists()


@pytest.mark.parametrize("limit", ["0", str(SET_BYTES / 2e9)])
def test_without_room_each_read_decodes(
    tmp_path: Path, cache: Path, decodings: list[Path], monkeypatch: pytest.MonkeyPatch, limit: str
):
    paths = draw(tmp_path / "a")
    kept = opened(paths).fingerprint()
    shutil.rmtree(cache)
    monkeypatch.setenv("DANN_CACHE_GB", limit)
    images = opened(paths)
    decodings.clear()
    expect_pixels_of(paths, images)
    assert len(decodings) == 50 and images.fingerprint() == kept
    assert not list(cache.rglob("*.npy"))


def test_a_full_disk_is_no_end(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decoded_cache.os, "posix_fallocate", full)
    paths = draw(tmp_path / "a")
    expect_pixels_of(paths, opened(paths))
    assert sets(cache) == []


def test_a_cache_that_cannot_be_made_is_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    paths = draw(tmp_path / "a")
    expect_pixels_of(paths, opened(paths))


@pytest.mark.parametrize("limit", ["much", "-1", "nan"])
def test_an_impossible_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str):
    monkeypatch.setenv("DANN_CACHE_GB", limit)
    with pytest.raises(UsageError, match=f"DANN_CACHE_GB is '{limit}'"):
        opened(draw(tmp_path / "a"))


def test_of_several_that_come_at_once_one_decodes(tmp_path: Path, decodings: list[Path]):
    paths = draw(tmp_path / "a")
    with ThreadPoolExecutor(4) as pool:
        for images in pool.map(lambda _: opened(paths), range(4)):
            expect_pixels_of(paths, images)
    assert len(decodings) == IMAGES
