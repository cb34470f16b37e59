"""Which image files a folder, a pattern, a path or a list stands for.

Names are relative and ``/``-separated on every system, so the same images get the same names everywhere. They
are the first column of every result, and its order, but for lists, which have their own.
"""

import glob
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from dann.infer.errors import DannError, UsageError

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .bmp .dib .webp .tif .tiff .gif .ppm .pgm .pbm .pnm .jp2 .avif".split()
)
"""What counts as an image, in lower case; file names match in any case."""

LIST_SUFFIXES = frozenset({".txt", ".lst", ".list"})
"""What counts as a list of images."""

STDIN = "-"

_EVERYTHING, _TOP_LEVEL = ("**",), ("*",)
_CLUTTER = frozenset({"__MACOSX", "@eaDir"})  # what macOS archives and Synology drives leave beside images
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image to read. Only the name differs from one to the next, so a million of them stay small."""

    root: Path
    """The folder that was searched."""
    name: str
    """Path below ``root`` as results show it: ``"day 1/car.jpg"``; see :func:`spreadsheet_safe`."""

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return self.root / self.name


def find_images(location: Path | str, *, recursive: bool = True) -> list[ImageFile]:
    """The images at ``location``, sorted by name.

    ``location`` is a folder (searched at every depth, or not, if not ``recursive``), a pattern (``"shots/**/*.png"``;
    ``**`` is any depth) or one file. Names are relative to the folder, to the part of the pattern before its first
    wildcard, or to the folder of the file. Links to files are followed, links to folders are not: they may form a
    loop. Other kinds of files (pipes, devices, broken links) are left out, and so are hidden files and system clutter
    unless they are named.

    A text file (:data:`LIST_SUFFIXES`), or ``-`` for standard input, lists paths: one on each line, or separated by
    null bytes where there are any. They are taken as they are, in their order, whatever they name; relative ones from
    the folder of the file.

    Raises :class:`UsageError` where there is no such path or no image in it.
    """
    given = os.fspath(location)
    if given == STDIN:
        return _listed(sys.stdin.buffer.read(), Path(), "standard input")
    if os.path.splitext(given)[1].lower() in LIST_SUFFIXES and os.path.isfile(given):
        return _listed(_content(given), Path(given).parent, repr(given))
    if os.path.isdir(given):
        root, pattern = Path(given), _EVERYTHING if recursive else _TOP_LEVEL
    elif os.path.lexists(given):
        root, pattern = Path(given).parent, (glob.escape(Path(given).name),)
    elif glob.has_magic(given):
        root, pattern = _split_pattern(given)
    else:
        raise UsageError(f"no such file or folder: {given!r}; expected a folder, a pattern, an image file or a list")
    names = sorted({spreadsheet_safe(name) for name in _walk(root, pattern) if is_image_name(name)})
    if not names:
        raise UsageError(f"no images at {given!r}; looked for files ending in {' '.join(sorted(SUFFIXES))}")
    return [ImageFile(root, name) for name in names]


def _listed(content: bytes, root: Path, where: str) -> list[ImageFile]:
    lines = content.split(b"\0") if b"\0" in content else (line.removesuffix(b"\r") for line in content.split(b"\n"))
    images = [ImageFile(root, spreadsheet_safe(os.fsdecode(line))) for line in lines if line]
    if not images:
        raise UsageError(f"{where} lists no images; expected a path on each line, or separated by null bytes")
    return images


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DannError(f"the list {path!r} cannot be read: {error.strerror or error}") from error


def is_image_name(name: str) -> bool:
    """Whether ``name`` ends in one of :data:`SUFFIXES`, in any case."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def spreadsheet_safe(name: str) -> str:
    """``name``, with ``./`` in front where a spreadsheet would take it for a formula. It still names the same
    file."""
    return f"./{name}" if name.startswith(_FORMULA_STARTS) else name


def _split_pattern(pattern: str) -> tuple[Path, tuple[str, ...]]:
    """The folder before the first wildcard, and the parts from there on."""
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:fixed]), parts[fixed:]


def _walk(root: Path, pattern: tuple[str, ...]) -> Iterator[str]:
    """Names below ``root`` of the regular files that match, in any order and perhaps more than once.

    A stack of our own, because ``glob`` follows links to folders into loops and skips silently what it may
    not read.
    """
    todo = [("", pattern)]
    while todo:
        prefix, (head, *rest) = todo.pop()
        if head == "**":
            todo.append((prefix, tuple(rest) or ("*",)))
        for entry in _entries(root / prefix):
            if is_clutter(entry.name) and not head.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                if head == "**":
                    todo.append((f"{prefix}{entry.name}/", (head, *rest)))
                elif rest and fnmatchcase(entry.name, head):
                    todo.append((f"{prefix}{entry.name}/", tuple(rest)))
            elif not rest and fnmatchcase(entry.name, head) and os.path.isfile(entry.path):
                yield prefix + entry.name  # entry.is_file() raises for a link to itself


def is_clutter(name: str) -> bool:
    """Whether a file or folder of that name is hidden, or one that a system leaves beside images."""
    return name.startswith(".") or name in _CLUTTER


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"no such folder: {str(folder)!r}") from error
    except OSError as error:
        raise DannError(f"folder {str(folder)!r} cannot be listed: {error.strerror}; check its permissions") from error
