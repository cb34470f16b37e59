"""Contact sheets: a row for each class, its images in it, whatever the set comes as."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from dann.infer.errors import UsageError
from dann.train.contact_sheet import contact_sheet, write_contact_sheet

COLOURS = {"blue car": (20, 40, 220), "grün": (30, 200, 40)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, rgb in COLOURS.items():
        (tmp_path / name).mkdir()
        for index in range(3):
            image = np.full((20, 40, 3), rgb[::-1], np.uint8)
            cv2.imwrite(str(tmp_path / name / f"{index}.png"), image)
    return tmp_path


def share_of(sheet: np.ndarray, rgb: tuple[int, int, int]) -> float:
    return float((sheet == rgb).all(axis=2).mean())


def test_each_class_has_a_row_of_its_images(folder: Path):
    sheet = contact_sheet(str(folder), columns=4, size_px=32)
    assert sheet.dtype == np.uint8 and sheet.shape[0] == 3 + 2 * 35
    upper, lower = sheet[:38], sheet[38:]
    images_px = 3 * 32 * 16  # three images, twice as wide as high
    for half, own, other in ((upper, *COLOURS.values()), (lower, *reversed(COLOURS.values()))):
        assert share_of(half, own) == pytest.approx(images_px / half[:, :, 0].size)
        assert share_of(half, other) == 0
    assert (sheet[:, : sheet.shape[1] - 4 * 35] < 128).any(), "the names are written at the left"


def test_without_classes_the_rows_are_of_any_images(folder: Path):
    flat = folder / "grün"
    sheet = contact_sheet(str(flat), columns=2, size_px=32)
    assert sheet.shape == (3 + 2 * 35, 3 + 2 * 35, 3)
    assert share_of(sheet, COLOURS["grün"]) == pytest.approx(3 * 32 * 16 / sheet[:, :, 0].size)


def test_the_same_seed_chooses_the_same_images_of_an_npz(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 16), np.uint8)
    np.savez(tmp_path / "digits.npz", x=pixels, y=np.arange(40) % 2)
    first, again, other = (contact_sheet(str(tmp_path / "digits.npz"), columns=5, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_broken_image_is_left_out(folder: Path):
    (folder / "grün" / "0.png").write_bytes(b"no image")
    notes: list[str] = []
    sheet = contact_sheet(str(folder), columns=4, size_px=32, on_note=notes.append)
    assert share_of(sheet, COLOURS["grün"]) == pytest.approx(2 * 32 * 16 / sheet[:, :, 0].size)
    (note,) = notes
    assert str(folder / "grün" / "0.png") in note and "left out" in note
    for path in (folder / "grün").iterdir():
        path.write_bytes(b"no image")
    sheet = contact_sheet(str(folder), columns=4, size_px=32, on_note=notes.append)
    assert "none of 3 images can be read" in notes[-1] and "grün" in notes[-1]
    assert share_of(sheet, COLOURS["grün"]) == 0 < share_of(sheet, COLOURS["blue car"])


def test_a_sheet_too_large_for_jpeg_is_refused(tmp_path: Path):
    images, labels = np.zeros((700, 4, 4), np.uint8), np.arange(700)
    np.savez(tmp_path / "many.npz", x=images, y=labels)
    with pytest.raises(UsageError, match=r"JPEG ends at 65,500: write a \.png"):
        write_contact_sheet(str(tmp_path / "many.npz"), tmp_path / "sheet.jpg", columns=1)
    write_contact_sheet(str(tmp_path / "many.npz"), tmp_path / "sheet.png", columns=1, size_px=16)


@pytest.mark.parametrize("options", [{"columns": 0}, {"size_px": 4000}])
def test_sizes_out_of_range_are_refused(options: dict[str, int], folder: Path):
    with pytest.raises(UsageError, match="expected 1 to 100 of 16 to 1024"):
        contact_sheet(str(folder), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["sheet.png", "sheet.JPG"])
def test_a_sheet_is_written_whole(name: str, folder: Path):
    write_contact_sheet(str(folder), folder / name, columns=4, size_px=32)
    written = cv2.imread(str(folder / name))
    expected = contact_sheet(str(folder), columns=4, size_px=32)
    assert written is not None and written.shape == expected.shape
    assert np.abs(written[:, :, ::-1].astype(int) - expected).mean() < (1e-9 if name.endswith(".png") else 4)


def test_a_failure_leaves_the_sheet_of_before(folder: Path):
    out = folder / "sheet.png"
    out.write_bytes(b"of before")
    with pytest.raises(UsageError):
        write_contact_sheet(str(folder / "nowhere"), out)
    assert out.read_bytes() == b"of before"


@pytest.mark.parametrize(
    ("out", "told"), [("sheet.gif", r"ends in .jpg or .png"), ("nowhere/sheet.png", "not a folder; create it")]
)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(out: str, told: str, folder: Path):
    with pytest.raises(UsageError, match=told):
        write_contact_sheet("no such set", folder / out)
