import os
import resource
import signal

import pytest

from dann.infer.errors import DannError, UsageError
from dann.infer.whole_file import WholeFile


def write(path, text="new\n"):
    with WholeFile(path) as file:
        file.write(text)


def test_the_file_appears_when_the_block_ends(tmp_path):
    out = tmp_path / "preds.csv"
    with WholeFile(out) as file:
        file.write("a\n")
        assert not out.exists()
    assert out.read_text() == "a\n"
    assert os.listdir(tmp_path) == ["preds.csv"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path, failure):
    out = tmp_path / "preds.csv"
    out.write_text("old\n")
    with pytest.raises(failure), WholeFile(out) as file:
        file.write("half")
        raise failure
    assert out.read_text() == "old\n"
    assert os.listdir(tmp_path) == ["preds.csv"]


def test_a_full_disk_leaves_what_was_there_and_says_so(tmp_path):
    out = tmp_path / "preds.csv"
    out.write_text("old\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN  # else the limit would end the process
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(DannError, match="cannot write .*File too large") as raised:
            write(out, "x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert raised.value.exit_code == 1
    assert out.read_text() == "old\n"
    assert os.listdir(tmp_path) == ["preds.csv"]


def test_a_missing_folder_is_refused_on_entering(tmp_path):
    with pytest.raises(UsageError, match="missing', which is not a folder; create it"):
        WholeFile(tmp_path / "missing" / "preds.csv").__enter__()


@pytest.mark.parametrize("what", ["folder", "pipe"])
def test_what_is_no_file_is_not_replaced(tmp_path, what):
    out = tmp_path / "out"
    out.mkdir() if what == "folder" else os.mkfifo(out)
    with pytest.raises(UsageError, match="expected the name of a file"):
        write(out)
    assert os.listdir(tmp_path) == ["out"]


def test_a_read_only_folder_is_refused_on_entering(world_folder, as_ordinary_user):
    world_folder.chmod(0o555)
    with as_ordinary_user(), pytest.raises(DannError, match="cannot write .*Permission denied") as raised:
        WholeFile(world_folder / "preds.csv").__enter__()
    assert raised.value.exit_code == 1


def test_a_link_keeps_pointing_at_the_file_it_names(tmp_path):
    (tmp_path / "real.csv").write_text("old\n")
    (tmp_path / "link.csv").symlink_to("real.csv")
    write(tmp_path / "link.csv")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text() == "new\n"


def test_the_file_is_readable_as_any_new_file_is(tmp_path):
    (tmp_path / "plain").touch()
    write(tmp_path / "preds.csv")
    assert (tmp_path / "preds.csv").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_bytes_of_a_name_that_is_not_utf8_survive(tmp_path):
    write(tmp_path / "preds.csv", os.fsdecode(b"latin-\xe9.png") + ",ü\n")
    assert (tmp_path / "preds.csv").read_bytes() == b"latin-\xe9.png,\xc3\xbc\n"
