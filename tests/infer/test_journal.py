import json
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dann.infer.errors import DannError, UsageError
from dann.infer.images import ImageFile
from dann.infer.journal import Journal, Segment

OF = {"bundle": "abc", "top_k": 1}


@pytest.fixture
def images(tmp_path):
    """Twelve files, a.png to l.png."""
    root = tmp_path / "imgs"
    root.mkdir()
    for letter in "abcdefghijkl":
        (root / f"{letter}.png").write_text(letter)
    return listed(root)


def listed(root):
    return [ImageFile(root, name) for name in sorted(os.listdir(root))]


def segment(images, start, count):
    rows = b"".join(b"%s,\n" % os.fsencode(image.name) for image in images[start : start + count])
    return Segment(start=start, answers=[0] * count, rows=rows, features=bytes(4 * count), errors={"empty": 1})


@pytest.fixture
def out(tmp_path):
    return tmp_path / "preds.csv"


def left(out, images, *spans, of=OF):
    """A journal that a run left which had done ``spans`` of images when it was killed."""
    journal = Journal(out, of, images, resume=False)
    journal.__enter__()
    for start, count in spans:
        journal.append(segment(images, start, count))
    journal._file.close()
    return journal.path


def resumed(out, images, of=OF):
    with Journal(out, of, images, resume=True) as journal:
        return journal.done


def test_what_was_recorded_is_there_again_and_in_the_order_of_the_images(out, images):
    left(out, images, (8, 4), (0, 4))
    with Journal(out, OF, images, resume=True) as journal:
        assert (journal.done, journal.rows) == ([(0, 4), (8, 4)], 8)
        journal.append(segment(images, 4, 4))
        assert list(journal.in_order()) == [segment(images, start, 4) for start in (0, 4, 8)]
        journal.remove()
    assert os.listdir(out.parent) == ["imgs"]


def test_without_resume_it_is_begun_anew(out, images):
    left(out, images, (0, 4))
    with Journal(out, OF, images, resume=False) as journal:
        assert (journal.done, journal.forgotten) == ([], True)
    assert resumed(out, images) == []


@pytest.mark.parametrize("cut", range(1, 400, 7))
def test_a_record_that_was_cut_off_is_dropped_and_written_over(out, images, cut):
    path = left(out, images, (0, 4), (4, 4), (8, 4))
    content = path.read_bytes()
    path.write_bytes(content[: -min(cut, len(content))])
    with Journal(out, OF, images, resume=True) as journal:
        done = journal.done
        assert done in ([(0, 4), (4, 4)], [(0, 4)], [])
        for start in range(4 * len(done), 12, 4):
            journal.append(segment(images, start, 4))
    with Journal(out, OF, images, resume=True) as journal:
        assert [found.rows for found in journal.in_order()] == [segment(images, start, 4).rows for start in (0, 4, 8)]


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_any_damage_costs_records_and_nothing_else(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("damaged")
    (root / "imgs").mkdir()
    for letter in "abcd":
        (root / "imgs" / letter).touch()
    images = listed(root / "imgs")
    path = left(root / "preds.csv", images, (0, 2), (2, 2))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        done = resumed(root / "preds.csv", images)
    except UsageError:  # of the first line
        return
    assert set(done) <= {(0, 2), (2, 2)}
    with Journal(root / "preds.csv", OF, images, resume=True) as journal:
        assert all(found.rows == segment(images, found.start, 2).rows for found in journal.in_order())


def test_images_that_came_or_went_cost_the_batches_around_them(out, images):
    left(out, images, (0, 4), (4, 4), (8, 4))
    root = images[0].root
    (root / "ab.png").touch()
    (root / "z.png").touch()
    (root / "j.png").unlink()
    assert resumed(out, listed(root)) == [(5, 4)]  # e to h, one further


def test_an_image_that_was_written_to_costs_its_batch(out, images):
    left(out, images, (0, 4), (4, 4), (8, 4))
    images[5].path.write_text("another")
    assert resumed(out, images) == [(0, 4), (8, 4)]


def test_a_list_in_an_order_of_its_own_is_taken_by_position(out, images):
    shuffled = [images[index] for index in (5, 1, 5, 0, 9, 2, 3, 4)]
    left(out, shuffled, (0, 4), (4, 4))
    assert resumed(out, shuffled) == [(0, 4), (4, 4)]
    assert resumed(out, [*shuffled[:4], *reversed(shuffled[4:])]) == [(0, 4)]


def test_files_that_are_not_there_are_what_they_were(out, tmp_path):
    images = [ImageFile(tmp_path, name) for name in ("gone.png", "x" * 300, os.fsdecode(b"\xff.png"), "line\nbreak")]
    left(out, images, (0, 2), (2, 2))
    assert resumed(out, images) == [(0, 2), (2, 2)]


def test_records_that_overlap_count_once(out, images):
    path = left(out, images, (0, 4))
    content = path.read_bytes()
    left(out, images, (2, 4))
    path.write_bytes(content + path.read_bytes().partition(b"\n")[2])
    assert resumed(out, images) == [(0, 4)]


def test_a_run_with_other_settings_is_refused_and_stays(out, images):
    path = left(out, images, (0, 4))
    before = path.read_bytes()
    with pytest.raises(UsageError, match="top_k 1 instead of 3.*leave --resume out"):
        resumed(out, images, of={**OF, "top_k": 3})
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"\n", b"{", b"[1]\n", b'{"other": 1}\n', b"\x00" * 5000, b"no journal"])
def test_what_is_no_journal_is_nothing(out, images, content):
    path = left(out, images)
    path.write_bytes(content)
    assert resumed(out, images) == []


def test_a_failure_keeps_it_and_says_so(out, images):
    with pytest.raises(KeyboardInterrupt) as raised, Journal(out, OF, images, resume=False) as journal:
        journal.append(segment(images, 0, 4))
        raise KeyboardInterrupt
    assert raised.value.__notes__ == ["4 of 12 rows are kept: add --resume to go on from there"]
    assert resumed(out, images) == [(0, 4)]


def test_a_failure_before_the_first_record_leaves_nothing(out, images):
    with pytest.raises(ZeroDivisionError), Journal(out, OF, images, resume=False):
        raise ZeroDivisionError
    assert os.listdir(out.parent) == ["imgs"]


def test_two_runs_do_not_write_the_same_output(out, images):
    script = """
import sys
from dann.infer.journal import Journal
with Journal(sys.argv[1], {}, [], resume=False):
    print("locked", flush=True)
    sys.stdin.read()
"""
    other = subprocess.Popen([sys.executable, "-c", script, str(out)], stdin=-1, stdout=-1, text=True)
    assert other.stdin is not None and other.stdout is not None
    try:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(DannError, match="another run is writing '.*preds.csv'; wait for it"):
            resumed(out, images)
        with Journal(out.with_name("other.csv"), OF, images, resume=False):
            pass
    finally:
        other.communicate("")
    assert other.returncode == 0
    assert resumed(out, images, of={}) == []


def test_long_names_have_room(tmp_path, images):
    out = tmp_path / ("x" * 250 + ".csv")
    left(out, images, (0, 4))
    assert resumed(out, images) == [(0, 4)]


def test_a_missing_folder_is_refused(tmp_path, images):
    with pytest.raises(UsageError, match="is not a folder; create it"):
        resumed(tmp_path / "missing" / "preds.csv", images)


def test_it_is_lines_that_people_can_read(out, images):
    header, about, *rows = left(out, images, (0, 2)).read_bytes().split(b"\n")
    assert json.loads(header) == {"of": OF}
    about = json.loads(about.partition(b" ")[2])
    assert (about["start"], about["first"]) == (0, "a.png")
    assert rows[:2] == [b"a.png,", b"b.png,"]
