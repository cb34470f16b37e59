"""Damaged images end as pixels or as one error each: in seconds, in bounded memory, and the process goes on."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import mutations
import numpy as np
import pytest
from mutations import FILES, answers, mutation, parts

from dann.infer.errors import ImageError
from dann.infer.preprocess import decode

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="the memory of a process is read from /proc"
)


def start(first: int, count: int, *names: str, code: str | None = None, **environment: str) -> subprocess.Popen[bytes]:
    """The process that tries mutations; ``code`` runs before."""
    words = [mutations.__file__] if code is None else ["-c", f"import mutations, os, time\n{code}"]
    return subprocess.Popen(
        [sys.executable, *words, str(first), str(count), *names],
        cwd=Path(mutations.__file__).parent,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen[bytes]) -> dict[str, str]:
    stdout, stderr = process.communicate()
    return answers(subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr))


# the mutations --------------------------------------------------------------------------------------------------


def test_a_mutation_is_the_same_each_time():
    assert [mutation("png-exif", number) for number in range(50)] == [mutation("png-exif", n) for n in range(50)]
    assert len({mutation("png-exif", number) for number in range(50)}) > 40


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_cut_where_its_parts_begin(name):
    pieces = parts(name, FILES[name])
    assert b"".join(pieces) == FILES[name]
    assert len(pieces) >= 2 and all(pieces)


def test_files_are_damaged_so_that_some_can_be_decoded_and_some_cannot():
    """If nearly all were refused by their first bytes, nothing of the decoders would be tried."""
    kinds = Counter(answer.split(" [")[0] for answer in finish(start(0, 10)).values())
    assert kinds.total() == 10 * len(FILES)
    assert set(kinds) == {"pixels", "cannot be decoded", "not an image", "too large"}
    assert min(kinds["pixels"], kinds["cannot be decoded"]) > kinds.total() / 5


# how they end ---------------------------------------------------------------------------------------------------


def test_hundreds_of_damaged_files_end_as_pixels_or_as_an_error():
    assert len(finish(start(10, 20))) == 20 * len(FILES)


@pytest.mark.slow
def test_damaged_files_by_the_thousand_end_as_pixels_or_as_an_error_whatever_memory_held():
    """glibc fills what is allocated with a byte that we choose: pixels that were never written show it.

    The rows of a run would otherwise depend on the images before them.
    """
    both = [start(1000, 600, MALLOC_PERTURB_=byte) for byte in ("85", "170")]
    one, other = map(finish, both)
    assert len(one) == 600 * len(FILES)
    assert {name: (one[name], other[name]) for name in one if one[name] != other[name]} == {}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_cut_off_shows_nothing_or_everything(name):
    """What may be gone is padding, and all pages of a TIFF but the first."""
    data = FILES[name]
    whole, ends = decode(data), np.cumsum([len(part) for part in parts(name, data)])
    for kept in {*ends - 1, *ends, *ends + 1, *range(len(data) - 24, len(data)), *range(0, len(data), 97)}:
        assert shows(data[:kept], whole) in ("nothing", "everything"), kept


@pytest.mark.slow
def test_a_file_that_was_cut_off_anywhere_shows_nothing_or_everything():
    for name, data in FILES.items():
        whole = decode(data)
        bad = [kept for kept in range(len(data)) if shows(data[:kept], whole) not in ("nothing", "everything")]
        assert not bad, (name, bad)


def shows(data: bytes, whole: np.ndarray) -> str:
    try:
        return "everything" if np.array_equal(decode(data), whole) else "something else"
    except ImageError:
        return "nothing"


# what would be noticed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "noticed"),
    [
        ("lambda data: os.abort()", r"the process ended with -6 at png-grey 3 \w+"),
        ("lambda data: time.sleep(60)", r"the process ended with 1 at png-grey 3 \w+"),
        ("lambda data: [0] * 10**7 and 'pixels'", r"png-grey 3 \w+: pixels PROBLEM .*\d+ MiB"),
        ("lambda data: [hash(str(n)) for n in range(10**6)] and 'x'", r"png-grey 3 \w+: x PROBLEM took \d.\d s"),
        ("lambda data: 1 / 0", r"png-grey 3 \w+: PROBLEM ZeroDivisionError"),
        ("lambda data: mutations.image_of(data, None)", r"png-grey 3 \w+: PROBLEM AttributeError"),
    ],
    ids=["crash", "hang", "memory", "time", "exception", "exception of ours"],
)
def test_what_ends_badly_is_named(ending, noticed):
    code = f"""
mutations.HANGS_AFTER_S, mutations.MOST_BYTES, mutations.MOST_SECONDS = 2, 30 * 2**20, 0.1
mutations.ending = {ending}
mutations.mutation = lambda name, number: ("flip", mutations.FILES[name])
mutations.main(3, 1, "png-grey")
"""
    with pytest.raises(AssertionError, match=noticed):
        finish(start(0, 0, code=code))
