"""Running the ``dann`` command: in this process, or in one of its own for signals and missing packages."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

from dann.cli import main

DATA = "--source renders --target photos --test labelled".split()
"""The pictures of ``tests/cli/conftest.py``."""

NETWORK = (
    "--backbone dann-mnist --set model.width=0.1 --set model.label_hidden=[6] --set model.domain_hidden=[6] "
    "--size 16 --batch-size 4 --device cpu --amp off"
).split()
"""The smallest network there is."""

TINY = [*NETWORK, "--steps", "2"]
"""Options of a training that takes a moment."""


@dataclass(frozen=True)
class Ran:
    """What a command printed, and its exit code."""

    exit_code: int
    stdout: str
    stderr: str


def dann(*words: str | Path) -> Ran:
    """``dann WORDS…`` in this process; an exception that it does not handle fails the test."""
    result = CliRunner(catch_exceptions=False).invoke(main, [str(word) for word in words], prog_name="dann")
    return Ran(result.exit_code, result.stdout, result.stderr)


def done(*words: str | Path) -> Ran:
    """As :func:`dann`, where nothing may go wrong."""
    ran = dann(*words)
    assert ran.exit_code == 0, ran
    return ran


def refused(ran: Ran, exit_code: int, *parts: str) -> None:
    """Check that one line on standard error says what is wrong, with all ``parts`` in it, and that no results are."""
    *_, last = ran.stderr.splitlines() or [""]
    assert (ran.exit_code, ran.stderr.count("error: "), last[:7]) == (exit_code, 1, "error: "), ran
    assert ran.stdout == "" and "Traceback" not in ran.stderr, ran
    assert [part for part in parts if part not in last] == [], last


def start(
    *words: str | Path, before: str = "", own_session: bool = False, stdin: int | None = None
) -> subprocess.Popen[str]:
    """``dann WORDS…`` in a process of its own, after the Python statement ``before``; ``own_session`` as a terminal."""
    code = f"{before}\nfrom dann.cli import main\nmain(prog_name='dann')"
    command = [sys.executable, "-c", code, *map(str, words)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=stdin, stdout=pipe, stderr=pipe, text=True, start_new_session=own_session)


def outcome(process: subprocess.Popen[str]) -> Ran:
    """What a process that was started printed, and its exit code."""
    stdout, stderr = process.communicate(timeout=120)
    return Ran(process.returncode, stdout, stderr)
