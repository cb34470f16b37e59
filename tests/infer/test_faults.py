"""What may go wrong in a run over a folder, and that it costs no row and no earlier output."""

import csv
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dann.infer.errors import DannError
from dann.infer.folder import classify_folder
from dann.infer.ort_engine import OrtEngine

pytest.importorskip("onnxruntime", reason="needs an ONNX Runtime: dann[cpu] or dann[gpu]")

ODD_NAMES = [
    "line\nbreak.png",
    "carriage\rreturn.png",
    'quo"te, comma.png',
    "=formula.png",
    "+plus.png",
    "@at.png",
    "\ttab.png",
    "ü 日本.png",
    os.fsdecode(b"latin-\xe9.png"),
    "x" * 251 + ".png",
    "' or 1=1.png",
    "back\\slash.png",
]


@pytest.fixture
def many(draw, tmp_path) -> Path:
    """A folder of forty noisy pictures, two of them broken."""
    rng = np.random.default_rng(0)
    for index in range(40):
        draw(tmp_path / "imgs" / f"{index:02}.png", rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    (tmp_path / "imgs" / "05.png").write_bytes(b"")
    (tmp_path / "imgs" / "21.png").write_bytes(b"no image")
    return tmp_path / "imgs"


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def command(*words: object) -> list[str]:
    """``dann infer WORDS…``"""
    code = "from dann.cli import main; main(prog_name='dann')"
    return [sys.executable, "-c", code, "infer", *map(str, words)]


def stop_after(count):
    def on_progress(done, total):
        if done >= count:
            raise KeyboardInterrupt

    return on_progress


# the same bytes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"format": "jsonl", "probs": True}, {"top_k": 3, "features": "f.npy"}], ids=str
)
def test_bytes_are_those_of_an_uninterrupted_run_whatever_stops_it(make_bundle, many, tmp_path, options):
    bundle = make_bundle("conv")

    def run(name, *, until=10**9, **changes):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        places = {"features": folder / options["features"]} if "features" in options else {}
        arguments = {"device": "cpu", "threads": 2, "on_progress": stop_after(until), **options, **places, **changes}
        classify_folder(bundle, many, folder / "preds", **arguments)
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    whole = run("whole", batch_size=3, workers=2)
    assert len(whole) == 1 + ("features" in options)
    for batch_size, workers, stops in [(1, 1, (1, 17)), (7, 2, (7, 14, 30)), (40, 3, ()), (4, 4, (38,))]:
        name = f"{batch_size} {workers}"
        for until in stops:
            with pytest.raises(KeyboardInterrupt):
                run(name, until=until, batch_size=batch_size, workers=workers, resume=True)
        assert run(name, batch_size=3, workers=1, resume=True) == whole


def test_nothing_that_was_recorded_is_computed_again(bundle, many, tmp_path, monkeypatch):
    computed = []
    run = OrtEngine.run
    monkeypatch.setattr(OrtEngine, "run", lambda self, batch: computed.append(len(batch)) or run(self, batch))
    options = {"device": "cpu", "workers": 1, "batch_size": 5}
    for until in (5, 20, 35):
        with pytest.raises(KeyboardInterrupt):
            classify_folder(bundle, many, tmp_path / "p.csv", resume=True, on_progress=stop_after(until), **options)
    summary = classify_folder(bundle, many, tmp_path / "p.csv", resume=True, **options)
    assert summary.resumed == 35
    # eight batches, and those that were decoded ahead when it was stopped
    assert 8 <= len(computed) <= 8 + 3 * 2


def test_names_of_any_bytes_survive_in_both_formats(bundle, draw, tmp_path):
    for name in ODD_NAMES:
        draw(tmp_path / "imgs" / name, "green")
    expected = sorted(f"./{name}" if name[0] in "=+@\t" else name for name in ODD_NAMES)
    classify_folder(bundle, tmp_path / "imgs", tmp_path / "p.csv", device="cpu")
    assert [row["path"] for row in rows(tmp_path / "p.csv")] == expected
    assert {row["label"] for row in rows(tmp_path / "p.csv")} == {"green"}
    classify_folder(bundle, tmp_path / "imgs", tmp_path / "p.jsonl", device="cpu")
    lines = (tmp_path / "p.jsonl").read_text("ascii").splitlines()
    assert [json.loads(line)["path"] for line in lines] == expected
    assert all((tmp_path / "imgs" / os.fsencode(row["path"]).decode("utf-8", "surrogateescape")).exists()
               for row in rows(tmp_path / "p.csv"))  # fmt: skip


# images ------------------------------------------------------------------------------------------------------------


def test_a_file_that_is_gone_when_its_turn_comes_has_an_error_row(bundle, many, tmp_path):
    def unlink(done, total):
        if done == 0:  # the list of images is there already
            (many / "39.png").unlink()

    summary = classify_folder(bundle, many, tmp_path / "p.csv", device="cpu", on_progress=unlink)
    assert (summary.images, summary.failed) == (40, 3)
    assert rows(tmp_path / "p.csv")[-1]["error"] == "cannot be read: No such file or directory"


def test_what_is_no_regular_file_is_never_opened(bundle, draw, tmp_path):
    """Opening a pipe would wait for a writer for ever; whoever opened it would let the writer here go on."""
    draw(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link-to-pipe.png").symlink_to("pipe.png")
    (tmp_path / "folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(tmp_path / "socket.png"))
        names = ["pipe.png", "a.png", "link-to-pipe.png", "socket.png", "folder.png", "/dev/zero", "/dev/null"]
        (tmp_path / "list.txt").write_text("\n".join(names))
        writer = subprocess.Popen([sys.executable, "-c", f"open({str(tmp_path / 'pipe.png')!r}, 'w')"])
        try:
            classify_folder(bundle, tmp_path / "list.txt", tmp_path / "p.csv", device="cpu")
            assert writer.poll() is None
        finally:
            writer.kill()
            writer.wait()
    found = rows(tmp_path / "p.csv")
    assert [row["path"] for row in found] == names
    assert [row["label"] for row in found] == ["", "red", "", "", "", "", ""]
    assert {row["error"] for row in found if row["status"] == "error"} == {"cannot be read: not a regular file"}


# the engine --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("failures", "lost"), [((3,), 0), ((2, 3), 8), (range(1, 1000), 38)])
def test_a_batch_on_which_the_engine_fails_twice_is_lost_alone(bundle, many, tmp_path, monkeypatch, failures, lost):
    run, calls = OrtEngine.run, 0

    def failing(self, images_NHWC):
        nonlocal calls
        calls += 1
        if calls in failures:
            raise DannError("out of memory")
        return run(self, images_NHWC)

    monkeypatch.setattr(OrtEngine, "run", failing)
    summary = classify_folder(bundle, many, tmp_path / "p.csv", device="cpu", workers=1, batch_size=8)
    found = rows(tmp_path / "p.csv")
    assert [row["path"] for row in found] == sorted(os.listdir(many))
    assert [row["error"] for row in found].count("was not computed: out of memory") == lost
    assert summary.errors.get("not computed", 0) == lost and summary.failed == lost + 2


# the output --------------------------------------------------------------------------------------------------------


@pytest.fixture
def largest_file():
    """``largest_file(n)``: no file may grow beyond ``n`` bytes, as if the disk were full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN  # else the limit would end the process
    yield lambda count: resource.setrlimit(resource.RLIMIT_FSIZE, (count, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("room", [0, 100, 1000, 2500])
def test_a_full_disk_keeps_the_earlier_output_and_what_was_done(bundle, many, tmp_path, largest_file, room):
    out = tmp_path / "out" / "p.csv"
    out.parent.mkdir()
    out.write_text("earlier")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    options = {"device": "cpu", "workers": 1, "batch_size": 4, "probs": True}
    largest_file(room)
    with pytest.raises(DannError, match="cannot write '.*p.csv': File too large; what was there before is unchanged"):
        classify_folder(bundle, many, out, **options)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert out.read_text() == "earlier"
    assert set(os.listdir(out.parent)) <= {"p.csv", ".p.csv.dann-journal"}
    resumed = classify_folder(bundle, many, out, resume=True, **options).resumed
    assert (resumed > 0) == (room >= 1000)
    classify_folder(bundle, many, tmp_path / "whole.csv", **options)
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_disk_that_is_full_for_the_features_keeps_what_was_done(make_bundle, many, tmp_path, largest_file):
    bundle, limits = make_bundle("conv"), resource.getrlimit(resource.RLIMIT_FSIZE)
    places = (bundle, many, tmp_path / "p.csv")
    options = {"device": "cpu", "features": tmp_path / "f.npy"}

    def shrink(done, total):
        if done == total:  # the journal is whole: 40 x 16 features in 2,560 bytes, and a header
            largest_file(2000)

    with pytest.raises(DannError, match="cannot write '.*f.npy': File too large") as raised:
        classify_folder(*places, on_progress=shrink, **options)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert raised.value.__notes__ == ["40 of 40 rows are kept: add --resume to go on from there"]
    assert not (tmp_path / "p.csv").exists() and not (tmp_path / "f.npy").exists()
    assert classify_folder(*places, resume=True, **options).resumed == 40
    assert np.load(tmp_path / "f.npy").shape == (40, 16) and len(rows(tmp_path / "p.csv")) == 40


def test_a_folder_that_is_removed_meanwhile_is_one_error(bundle, many, tmp_path):
    out = tmp_path / "out" / "p.csv"
    out.parent.mkdir()

    def remove(done, total):
        if 0 < done < total:
            shutil.rmtree(out.parent, ignore_errors=True)

    with pytest.raises(DannError, match="the output is to go to '.*out', which is not a folder; create it"):
        classify_folder(bundle, many, out, device="cpu", batch_size=4, on_progress=remove)


def test_two_runs_at_once_on_one_folder_do_not_disturb_each_other(bundle, many, tmp_path):
    processes = [
        subprocess.Popen(command("--bundle", bundle, "--test-loc", many, "--out-path", tmp_path / f"{name}.csv"))
        for name in "abc"
    ]
    assert [process.wait(timeout=120) for process in processes] == [3, 3, 3]
    assert len({(tmp_path / f"{name}.csv").read_bytes() for name in "abc"}) == 1
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_a_reader_of_standard_output_may_leave(bundle, many):
    words = command("--bundle", bundle, "--test-loc", many, "--out-path", "-", "--quiet", "--batch", "1")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode in (1, 3) and "Traceback" not in said, said


# any moment --------------------------------------------------------------------------------------------------------


@pytest.fixture
def slow_pictures(draw, tmp_path) -> Path:
    """A folder of 60 pictures that take a while each."""
    first = draw(tmp_path / "imgs" / "00.png", np.random.default_rng(0).integers(0, 256, (1200, 1200, 3), np.uint8))
    for index in range(1, 60):
        os.link(first, tmp_path / "imgs" / f"{index:02}.png")
    return tmp_path / "imgs"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_signal_at_any_moment_costs_nothing_that_was_done(bundle, slow_pictures, tmp_path, number):
    rng = np.random.default_rng(number)
    (tmp_path / "out").mkdir()
    out, journal = tmp_path / "out" / "p.csv", tmp_path / "out" / ".p.csv.dann-journal"
    words = ["--bundle", bundle, "--test-loc", slow_pictures, "--batch", "2", "--workers", "2", "--quiet"]
    start = time.monotonic()
    assert subprocess.run(command(*words, "--out-path", tmp_path / "whole.csv")).returncode == 0
    seconds = time.monotonic() - start
    whole = (tmp_path / "whole.csv").read_bytes()
    codes = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}
    kept = stopped = 0
    for _ in range(20):
        process = subprocess.Popen(command(*words, "--out-path", out, "--resume"), stderr=subprocess.PIPE, text=True)
        time.sleep(rng.uniform(0.1, 0.9) * seconds)
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
        if out.exists():  # it was done before
            assert out.read_bytes() == whole
            out.unlink()
            journal.unlink(missing_ok=True)
            kept = 0
            continue
        stopped += 1
        # a signal while Python starts ends it in Python's own way
        assert process.returncode in (codes[number], -number), said
        assert "Traceback" not in said or process.returncode == -number, said
        assert set(os.listdir(tmp_path / "out")) <= {journal.name}
        recorded = journal.read_bytes().count(b",ok,\n") if journal.exists() else 0
        assert recorded >= kept, "what was recorded is never lost"
        kept = recorded
    assert stopped >= 5
    assert subprocess.run(command(*words, "--out-path", out, "--resume")).returncode == 0
    assert out.read_bytes() == whole and os.listdir(tmp_path / "out") == ["p.csv"]


MEASURED = """
import json, resource, sys, time
from dann.infer.folder import classify_folder
times = []
def on_progress(done, total):
    if not times or done - times[-1][0] >= total / 20:
        times.append((done, time.perf_counter()))
classify_folder(sys.argv[1], sys.argv[2], sys.argv[3], device="cpu", on_progress=on_progress)
print(json.dumps({"peak_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "times": times}))
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_hundred_thousand_images_take_no_more_memory_and_are_no_slower_in_the_end(bundle, encode, tmp_path):
    content = encode(np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8), ".jpg")
    found = {}
    for count in (1_000, 100_000):
        for index in range(count):
            folder = tmp_path / str(count) / f"{index // 1000:03}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"a photo of some car {index:06}.jpg").write_bytes(content)
        words = [sys.executable, "-c", MEASURED, bundle, tmp_path / str(count), tmp_path / f"{count}.csv"]
        found[count] = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
        with open(tmp_path / f"{count}.csv", "rb") as file:
            assert sum(1 for _ in file) == count + 1
    assert (found[100_000]["peak_kib"] - found[1_000]["peak_kib"]) / 1024 <= 64
    times = found[100_000]["times"]
    quarter = len(times) // 4
    first, last = (
        (part[-1][0] - part[0][0]) / (part[-1][1] - part[0][1])
        for part in (times[: quarter + 1], times[-quarter - 1 :])
    )
    assert last >= 0.7 * first, (first, last)
