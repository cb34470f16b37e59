"""A bundle's folder appears whole or not at all, and only where nothing else is lost."""

from pathlib import Path

import pytest

from dann.export.bundle_folder import replacing
from dann.infer.errors import DannError, UsageError


def earlier_bundle(root: Path) -> Path:
    out = root / "bundle"
    out.mkdir()
    (out / "manifest.json").write_text("earlier")
    (out / "old.onnx").write_text("earlier")
    return out


def test_folder_appears_when_the_block_ends(tmp_path: Path):
    out = tmp_path / "bundle"
    with replacing(out) as folder:
        (folder / "manifest.json").write_text("new")
        assert not out.exists()
    assert (out / "manifest.json").read_text() == "new"
    assert list(tmp_path.iterdir()) == [out]


def test_earlier_bundle_is_replaced_whole(tmp_path: Path):
    out = earlier_bundle(tmp_path)
    with replacing(out) as folder:
        (folder / "manifest.json").write_text("new")
    assert [(file.name, file.read_text()) for file in out.iterdir()] == [("manifest.json", "new")]
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("error", [DannError("stop"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
def test_earlier_bundle_survives_a_failure(tmp_path: Path, error: BaseException):
    out = earlier_bundle(tmp_path)
    with pytest.raises(type(error)), replacing(out) as folder:
        (folder / "manifest.json").write_text("half")
        raise error
    assert {file.name: file.read_text() for file in out.iterdir()} == {
        "manifest.json": "earlier",
        "old.onnx": "earlier",
    }
    assert list(tmp_path.iterdir()) == [out]


def test_earlier_bundle_is_put_back_when_the_new_one_cannot_take_its_place(tmp_path: Path):
    out = earlier_bundle(tmp_path)
    with pytest.raises(DannError, match="cannot be written"), replacing(out) as folder:
        folder.rmdir()
    assert (out / "manifest.json").read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [out]


def test_empty_folder_is_taken(tmp_path: Path):
    with replacing(tmp_path / "bundle") as folder:
        (tmp_path / "bundle").mkdir()
        (folder / "manifest.json").write_text("new")
    assert (tmp_path / "bundle" / "manifest.json").exists()


def test_link_keeps_pointing_to_the_replaced_folder(tmp_path: Path):
    out = earlier_bundle(tmp_path)
    (tmp_path / "link").symlink_to(out)
    with replacing(tmp_path / "link") as folder:
        (folder / "manifest.json").write_text("new")
    assert (tmp_path / "link").is_symlink() and (out / "manifest.json").read_text() == "new"


@pytest.mark.parametrize("names", [["photo.jpg"], ["manifest.json", "index.html"], ["model.onnx"]])
def test_folder_that_is_no_bundle_is_refused(tmp_path: Path, names: list[str]):
    for name in names:
        (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match="no bundle's"), replacing(tmp_path):
        pass
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names)


def test_file_is_refused(tmp_path: Path):
    (tmp_path / "bundle").write_text("mine")
    with pytest.raises(UsageError, match="is a file; the bundle is a folder"), replacing(tmp_path / "bundle"):
        pass


def test_missing_parent_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="'.*missing', which is not a folder"):
        with replacing(tmp_path / "missing" / "bundle"):
            pass


def test_place_that_cannot_be_written_is_an_error_of_one_line(tmp_path: Path):
    with pytest.raises(DannError, match="cannot be written: File name too long"), replacing(tmp_path / ("b" * 300)):
        pass
