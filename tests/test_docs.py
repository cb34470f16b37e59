"""The documents keep up with the code: links lead somewhere, every command is described, versions agree."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import asdict

import click
import pytest
from command import done
from project import ROOT, project_files

from dann.cli import main
from dann.train.rendering.car_proportions import proportions
from dann.train.rendering.model_renders import COLUMNS
from dann.train.rendering.styles import LIMITS, STYLES

# Written in pieces, or this file would be its own first finding.
MACHINE_PATH = re.compile(r"(?<![\w.~])(/(work|home|root|Users)/|[A-Z]:\\Users\\)")
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)")


def commands(group: click.Group, prefix: str = "dann") -> Iterator[str]:
    """All the words one types to run each command that does something."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}"


def broken_links(markdown: str, folder: str) -> list[str]:
    """The relative links in ``markdown``, a text that lies in ``folder``, that lead to no file."""
    targets = [target.partition("#")[0] for target in LINK.findall(markdown) if ":" not in target.partition("#")[0]]
    return [target for target in targets if target and not (ROOT / folder / target).exists()]


def test_every_relative_link_leads_to_a_file():
    documents = [name for name in project_files() if name.endswith(".md")]
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md"} <= set(documents)
    broken = {name: broken_links((ROOT / name).read_text(), name.rpartition("/")[0]) for name in documents}
    assert not {name: targets for name, targets in broken.items() if targets}


def test_a_broken_link_is_seen():
    text = "[a](nowhere.md#part) [b](README.md) ![c](<docs/none.png> 'title') [d](https://x.org/y.md) [e](#here)"
    assert broken_links(text, "") == ["nowhere.md", "docs/none.png"]


def test_the_command_line_has_commands():
    assert {"dann train", "dann export", "dann infer"} <= set(commands(main))


@pytest.mark.parametrize("words", list(commands(main)))
def test_every_command_is_in_the_readme_and_shows_an_example(words):
    assert re.search(rf"{words}\b", (ROOT / "README.md").read_text()), f"README never mentions `{words}`"
    usage, _, rest = done(*words.split()[1:], "--help").stdout.partition("\n")
    assert usage.startswith(f"Usage: {words} ")
    assert re.search(rf"^\s+(\$ )?{words}\b", rest, re.MULTILINE), f"`{words} --help` shows no example"


def test_the_changelog_describes_this_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest and newest[1] == version


def test_no_file_names_a_path_of_one_machine():
    found = []
    for name in project_files():
        try:
            text = (ROOT / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # an image
        found += [f"{name}: {match[0]}" for match in MACHINE_PATH.finditer(text)]
    assert found == []


@pytest.mark.parametrize("path", ["/" + "home/me/imgs", 'open("/' + 'work/x")', "C:\\" + "Users\\me"])
def test_a_machine_path_is_seen(path):
    assert MACHINE_PATH.search(path)


def rows(section: str) -> list[list[str]]:
    """The cells of the rows of a table that begin with a name in backticks."""
    return [[cell.strip() for cell in row.split(" | ")] for row in re.findall(r"^\| (`.*) \|$", section, re.M)]


def as_setting(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(f'{end:g}' for end in value)}]"
    return "none" if value is None else f"{value:g}"


def test_the_document_on_rendering_has_every_setting_and_every_column():
    _, settings, columns = (ROOT / "docs/rendering.md").read_text().split("\n## ")
    looks = [asdict(STYLES[name]) for name in ("varied", "studio", "simulated-photo")]
    assert [row[:5] for row in rows(settings)] == [
        [f"`{key}`", *(as_setting(look[key]) for look in looks), as_setting(LIMITS[key])] for key in looks[0]
    ]
    described = [name for row in rows(columns) for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(described) == sorted(set(COLUMNS) - set(proportions()) | {"length", "rails"})
