"""Ctrl-C and SIGTERM: exit codes, what is kept, and that no half-written file stays."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from command import DATA, NETWORK, Ran, done, outcome, start

SIGNALS = pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)


def stopped_at(line: str, process: subprocess.Popen[str], number: signal.Signals) -> Ran:
    """What becomes of ``process`` when it gets the signal once its standard error has a line that begins so."""
    assert process.stderr is not None
    for text in process.stderr:
        if text.startswith(line):
            break
    process.send_signal(number)
    return outcome(process)


@pytest.mark.slow
@SIGNALS
def test_a_stopped_training_is_saved_and_goes_on(number: signal.Signals, exit_code: int, place: Path):
    settings = [*DATA, *NETWORK, "--steps", "120", "--name", "mine"]
    ran = stopped_at("train: 1/120", start("train", *settings), number)
    assert (ran.exit_code, ran.stdout) == (exit_code, ""), ran
    said = re.fullmatch(
        rf"error: stopped by {number.name} after step (\d+) of 120; the state is saved\. "
        "Continue with: dann train --resume runs/mine\n",
        ran.stderr,
    )
    assert said and not Path("runs/mine/result.json").exists(), ran
    assert done("train", "--resume", "runs/mine").stderr.startswith(f"train: {int(said[1]) + 1}/120 ")
    assert json.loads(Path("runs/mine/result.json").read_text())["target"]["images"] == 16


@pytest.fixture
def slow_images(finished: Path) -> str:
    """A folder of 500 images that take a while to decode."""
    folder = finished / "large"
    folder.mkdir()
    assert cv2.imwrite(str(folder / "0.png"), np.zeros((3000, 3000, 3), np.uint8))
    for index in range(1, 500):
        os.link(folder / "0.png", folder / f"{index}.png")
    return "large"


@pytest.mark.slow
@SIGNALS
def test_a_stopped_inference_leaves_the_earlier_file_and_goes_on(
    number: signal.Signals, exit_code: int, slow_images: str, finished: Path
):
    Path("preds.csv").write_text("earlier")
    before = sorted(path for path in finished.iterdir())
    words = ("infer", "--test-loc", slow_images, *"--workers 1 --batch-size 1".split())
    ran = stopped_at("infer: 1/500", start(*words, "--out-path", "preds.csv"), number)
    said = "interrupted" if number == signal.SIGINT else "terminated"
    told = re.fullmatch(f"error: {said}; (\\d+) of 500 rows are kept: add --resume to go on from there\n", ran.stderr)
    assert (ran.exit_code, ran.stdout) == (exit_code, "") and told, ran
    assert Path("preds.csv").read_text() == "earlier"
    journal = finished / ".preds.csv.dann-journal"
    assert sorted(path for path in finished.iterdir()) == sorted([*before, journal])
    for path in sorted((finished / slow_images).iterdir())[20:]:  # they would take long
        path.unlink()
    kept = int(told[1])
    again = done(*words, "--out-path", "preds.csv", "--resume")
    assert f"{kept} of 20 rows are there already" in again.stderr and 0 < kept < 20, again
    done(*words, "--out-path", "whole.csv")
    assert Path("preds.csv").read_bytes() == Path("whole.csv").read_bytes() and not journal.exists()


@SIGNALS
def test_a_stopped_rendering_leaves_nothing(number: signal.Signals, exit_code: int, place: Path):
    before = sorted(path for path in place.iterdir())
    ran = stopped_at("cars: ", start("data", "cars", "--out", "cars", "--workers", "1"), number)
    assert (ran.exit_code, ran.stdout) == (exit_code, ""), ran
    assert sorted(path for path in place.iterdir()) == before


@SIGNALS
def test_a_stopped_rendering_of_models_keeps_what_is_done(number: signal.Signals, exit_code: int, place: Path):
    options = "--models cars --out made --per-class 300 --size 16 --workers 1".split()
    ran = stopped_at("render: 4/1500", start("data", "render", *options), number)
    said = "interrupted" if number == signal.SIGINT else "terminated"
    kept = "what was rendered is kept; the same command goes on with it\n"
    assert (ran.exit_code, ran.stdout, ran.stderr) == (exit_code, "", f"{kept}error: {said}\n")
    images = list(Path("made").glob("*/*.jpg"))
    assert 4 <= len(images) < 1500 and not list(Path("made").glob("**/*.partial"))
    ran = stopped_at("render: ", start("data", "render", *options), number)
    assert len(list(Path("made").glob("*/*.jpg"))) > len(images)


def rendering_with_workers() -> tuple[subprocess.Popen[str], list[int]]:
    """A rendering that has begun, in a session of its own, and the processes that it started."""
    process = start(
        "data", "render", *"--models cars --out made --per-class 300 --size 16 --workers 2".split(), own_session=True
    )
    for _ in range(600):
        if len(workers := workers_of(process.pid)) == 3:  # two, and that of multiprocessing itself
            return process, workers
        time.sleep(0.1)
    raise AssertionError(outcome(process))


def wait_for_images(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    for text in process.stderr:
        if text.startswith("render: ") and not text.startswith("render: 0"):
            return


def test_ctrl_c_in_a_terminal_while_processes_start_prints_no_traceback(place: Path):
    process, workers = rendering_with_workers()
    os.killpg(process.pid, signal.SIGINT)
    ran = outcome(process)
    assert ran.exit_code == 130 and "Traceback" not in ran.stderr, ran
    assert gone(workers)


@pytest.mark.parametrize("seconds_between", [0.0, 0.3])
def test_a_second_ctrl_c_does_not_hang_and_leaves_no_process(seconds_between: float, place: Path):
    process, workers = rendering_with_workers()
    wait_for_images(process)
    process.send_signal(signal.SIGINT)
    time.sleep(seconds_between)
    process.send_signal(signal.SIGINT)
    assert outcome(process).exit_code != 0
    assert gone(workers)


def test_when_the_command_is_killed_its_processes_end(place: Path):
    process, workers = rendering_with_workers()
    wait_for_images(process)
    process.kill()
    assert gone(workers)
    outcome(process)


def workers_of(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(word) for word in found.stdout.split()]


def gone(pids: list[int]) -> bool:
    """Whether none of the processes is there any more, after a few seconds at most."""
    for _ in range(100):
        if not any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids):
            return True
        time.sleep(0.1)
    return False


def test_the_handlers_of_the_caller_come_back(finished: Path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    done("infer", "--test-loc", "labelled", "--out-path", "preds.csv")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_signal_while_a_library_is_loaded_is_an_interruption_too(finished: Path):
    """Extension modules turn it into an error of their own."""
    before = """
import sys
class Interrupted:
    def find_spec(name, path=None, target=None):
        if name == "onnxruntime":
            raise ImportError("initialization failed") from KeyboardInterrupt()
sys.meta_path.insert(0, Interrupted)
"""
    ran = outcome(start("infer", "--test-loc", "labelled", "--out-path", "preds.csv", before=before))
    assert (ran.exit_code, ran.stdout, ran.stderr) == (130, "", "error: interrupted\n")
