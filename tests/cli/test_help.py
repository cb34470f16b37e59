"""Help, version, and what asking for them costs."""

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version

import click
import pytest
from command import dann, done, outcome, start

from dann.cli import main


def commands(group: click.Group, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command and group, the outermost left out."""
    for name, command in group.commands.items():
        yield (*above, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*above, name))


@pytest.mark.parametrize("words", [(), *commands(main)], ids=" ".join)
def test_every_command_has_help_within_the_width_of_a_terminal(words: tuple[str, ...]):
    ran = done(*words, "--help")
    assert ran.stdout.startswith(f"Usage: dann {' '.join(words)}".rstrip() + " [OPTIONS]")
    assert max(map(len, ran.stdout.splitlines())) <= 110
    assert done(*words, "-h") == ran


def test_the_first_page_shows_the_three_commands():
    page = done("--help").stdout
    for line in ("dann train", "dann export", "dann infer --test-loc imgs/ --out-path preds.csv"):
        assert re.search(rf"^\s+{line}$", page, re.MULTILINE)


def test_the_version_is_that_of_the_package():
    assert done("--version").stdout == f"dann, version {version('dann')}\n"


def test_the_module_is_the_command():
    ran = subprocess.run([sys.executable, "-m", "dann.cli", "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout.endswith(f"version {version('dann')}\n")


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["infer", "--help"], ["--version"]], ids=" ".join)
def test_help_loads_nothing_heavy(words: list[str]):
    heavy = ["numpy", "cv2", "torch", "onnx", "onnxruntime", "rich"]
    check = f"import atexit, sys; atexit.register(lambda: print([name for name in {heavy} if name in sys.modules]))"
    assert outcome(start(*words, before=check)).stdout.endswith("\n[]\n")


def test_the_check_sees_what_a_command_loads(tmp_path):
    check = "import atexit, sys; atexit.register(lambda: print('numpy' in sys.modules))"
    ran = outcome(start("infer", "--bundle", tmp_path, "--test-loc", ".", "--out-path", "x", before=check))
    assert ran.stdout == "True\n"


@pytest.mark.parametrize(("words", "hint"), [(["trian"], "train"), (["data", "fecth"], "fetch"), (["bogus"], "bogus")])
def test_an_unknown_command_is_refused(words: list[str], hint: str):
    ran = dann(*words)
    assert (ran.exit_code, ran.stdout) == (2, "") and hint in ran.stderr
