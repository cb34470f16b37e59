import io
import os
from pathlib import Path

import pytest

from dann.infer.errors import DannError, UsageError
from dann.infer.images import find_images


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def names(location):
    return [image.name for image in find_images(location)]


def test_a_folder_is_searched_at_every_depth_and_sorted_by_name(tmp_path):
    touch(tmp_path, "b.png", "a.JPG", "sub/deep/c.WebP", "sub.jpg", "notes.txt", "noimage")
    assert names(tmp_path) == ["a.JPG", "b.png", "sub.jpg", "sub/deep/c.WebP"]
    assert names(str(tmp_path) + "/") == names(tmp_path)


def test_hidden_files_and_system_clutter_are_left_out_unless_named(tmp_path):
    touch(tmp_path, "a.png", "._a.png", ".thumbs/b.png", "__MACOSX/c.png", "day/@eaDir/d.png", "day/.e.png")
    assert names(tmp_path) == names(tmp_path / "**") == ["a.png"]
    assert names(tmp_path / "._a.png") == ["._a.png"] and names(tmp_path / "day" / ".*") == [".e.png"]


def test_every_image_can_be_opened_through_its_path(tmp_path):
    touch(tmp_path, "sub/a.png", "=b.png")
    assert all(image.path.is_file() for image in find_images(tmp_path))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.png", ["a.png"]),
        ("**/*.png", ["a.png", "day/b.png", "day/two/c.png"]),
        ("**", ["a.png", "day/b.png", "day/two/c.png", "day/x.jpg"]),
        ("*/[bx].*", ["day/b.png", "day/x.jpg"]),
        ("d?y/two/*", ["day/two/c.png"]),
        ("**/two/**/*.png", ["day/two/c.png"]),
    ],
)
def test_a_pattern_names_images_relative_to_its_fixed_part(tmp_path, pattern, expected):
    touch(tmp_path, "a.png", "day/b.png", "day/x.jpg", "day/two/c.png")
    assert names(f"{tmp_path}/{pattern}") == expected


def test_the_fixed_part_of_a_pattern_is_not_in_the_names(tmp_path):
    touch(tmp_path, "day/b.png", "night/c.png")
    assert names(f"{tmp_path}/day/*.png") == ["b.png"]


def test_a_relative_pattern_starts_at_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(touch(tmp_path, "a.png", "day/b.png"))
    assert names("*/*.png") == ["day/b.png"]
    assert names("**/*.png") == ["a.png", "day/b.png"]


def test_one_file_is_named_by_its_file_name(tmp_path):
    touch(tmp_path, "day/b.png", "day/c.png")
    assert names(tmp_path / "day" / "b.png") == ["b.png"]


def test_a_path_that_exists_is_no_pattern(tmp_path):
    touch(tmp_path, "set[1]/a.png", "set1/b.png", "x[1].png", "x1.png")
    assert names(tmp_path / "set[1]") == ["a.png"]
    assert names(tmp_path / "x[1].png") == ["x[1].png"]


def test_links_to_files_are_followed_and_links_to_folders_are_not(tmp_path):
    root = touch(tmp_path / "root", "a.png", "sub/b.png")
    touch(tmp_path / "other", "c.png")
    (root / "file.png").symlink_to(tmp_path / "other" / "c.png")
    (root / "folder").symlink_to(tmp_path / "other", target_is_directory=True)
    (root / "sub" / "loop").symlink_to(root, target_is_directory=True)
    expected = ["a.png", "file.png", "sub/b.png"]
    assert names(root) == expected
    assert names(f"{root}/**/*.png") == expected


def test_only_regular_files_are_images(tmp_path):
    touch(tmp_path, "a.png", "folder.png/b.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "broken.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    assert names(tmp_path) == ["a.png", "folder.png/b.png"]


def test_names_that_look_like_formulas_are_made_safe_before_sorting(tmp_path):
    touch(tmp_path, "=b.png", "+c.png", "-d.png", "@e.png", "\tf.png", "\rg.png", "a.png", "sub/=h.png")
    safe = ["./\tf.png", "./\rg.png", "./+c.png", "./-d.png", "./=b.png", "./@e.png", "a.png", "sub/=h.png"]
    assert names(tmp_path) == safe == sorted(safe)


def test_names_of_any_bytes_are_found(tmp_path):
    odd = ["ü/日本.png", "line\nbreak.png", 'quote",.png', os.fsdecode(b"latin-\xe9.png")]
    touch(tmp_path, *odd)
    assert names(tmp_path) == sorted(odd)


@pytest.mark.parametrize("location", ["missing", "missing/*.png", "", "a.png/b.png"])
def test_a_missing_path_is_refused(tmp_path, monkeypatch, location):
    monkeypatch.chdir(touch(tmp_path, "a.png"))
    with pytest.raises(UsageError, match="no such"):
        find_images(location)


@pytest.mark.parametrize("location", ["empty", "text", "text/notes.md", "text/*.md", "text/pipe.png", "text/loop.png"])
def test_a_place_without_images_is_refused_with_what_was_looked_for(tmp_path, monkeypatch, location):
    monkeypatch.chdir(touch(tmp_path, "text/notes.md"))
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "text" / "pipe.png")
    (tmp_path / "text" / "loop.png").symlink_to("loop.png")
    with pytest.raises(UsageError, match=r"no images at .*looked for .*\.jpg .*\.png"):
        find_images(location)


def test_a_sub_folder_that_cannot_be_listed_is_not_skipped_silently(world_folder, as_ordinary_user):
    touch(world_folder, "a.png", "closed/b.png")
    (world_folder / "closed").chmod(0)
    with as_ordinary_user(), pytest.raises(DannError, match="closed.*cannot be listed") as raised:
        find_images(world_folder)
    assert raised.value.exit_code == 1
    (world_folder / "closed").chmod(0o755)


def test_only_the_folder_itself_is_searched_where_it_is_asked_for(tmp_path):
    touch(tmp_path, "a.png", "sub/b.png")
    assert [image.name for image in find_images(tmp_path, recursive=False)] == ["a.png"]


# lists ----------------------------------------------------------------------------------------------------------


def test_a_list_is_taken_as_it_is(tmp_path):
    (tmp_path / "some.txt").write_bytes(b"z.png\n\nsub/a.jpg\r\n/elsewhere/b\n=c.png\nz.png\nlatin-\xe9.png")
    odd = os.fsdecode(b"latin-\xe9.png")
    assert names(tmp_path / "some.txt") == ["z.png", "sub/a.jpg", "/elsewhere/b", "./=c.png", "z.png", odd]
    paths = [image.path for image in find_images(tmp_path / "some.txt")]
    assert paths[:3] == [tmp_path / "z.png", tmp_path / "sub/a.jpg", Path("/elsewhere/b")]


def test_null_bytes_separate_names_of_any_characters(tmp_path):
    (tmp_path / "some.lst").write_bytes(b"line\nbreak.png\0cr\r\0a.png\0")
    assert names(tmp_path / "some.lst") == ["line\nbreak.png", "cr\r", "a.png"]


def test_standard_input_is_a_list_from_the_working_folder(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"b.png\na.png\n")))
    assert [(image.name, image.path) for image in find_images("-")] == [
        ("b.png", Path("b.png")),
        ("a.png", Path("a.png")),
    ]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\0"])
def test_a_list_of_nothing_is_refused(tmp_path, content):
    (tmp_path / "some.txt").write_bytes(content)
    with pytest.raises(UsageError, match="some.txt' lists no images; expected a path on each line"):
        find_images(tmp_path / "some.txt")
