"""The errors of dann, and the exit code that the command line gives each.

    DannError               1   it failed: a hash does not match, a manifest from the future, a failed verdict
    ├── UsageError          2   what was asked for does not exist: a path, a name, a value
    ├── Diverged          1   training, or a trained network, gives numbers that are not finite
    ├── UnavailableError    4   the requested device, engine or extra is not usable on this machine
    ├── ImageError          –   one image cannot be read; it becomes an error row, the run goes on
    └── Interrupted   130/143   stopped by SIGINT or SIGTERM; what was finished is kept

Exit code 3 (finished, but some inputs could not be read) is a result, not an exception.
Every message says what was given, what was expected and what to do.
"""

import difflib
from collections.abc import Iterable


class DannError(Exception):
    """Anything dann refuses or fails at, with a message meant for the person who reads it."""

    exit_code = 1


class UsageError(DannError):
    """A path that does not exist, an unknown name, or a value that makes no sense."""

    exit_code = 2


class Diverged(DannError):
    """A loss, a weight or a prediction that is not finite."""


class UnavailableError(DannError):
    """A device, an engine or an optional dependency that was asked for cannot be used here."""

    exit_code = 4


class ImageError(DannError):
    """One image that cannot be classified; ``kind`` says in a word or two why, as a summary counts them."""

    def __init__(self, message: str, kind: str = "cannot be decoded"):
        super().__init__(message)
        self.kind = kind


class Interrupted(DannError):
    """The run was stopped by a signal after saving its state."""

    def __init__(self, message: str, exit_code: int = 130):
        super().__init__(message)
        self.exit_code = exit_code


def unknown_name(kind: str, given: str, known: Iterable[str]) -> UsageError:
    """An error for a name that is not one of ``known``, suggesting the nearest.

    >>> print(unknown_name("backbone", "resnet81", ["resnet18", "resnet50"]))
    unknown backbone 'resnet81'; did you mean 'resnet18'? Known: resnet18, resnet50
    """
    names = sorted(known)
    near = difflib.get_close_matches(given, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    listed = ", ".join(names[:12]) + (f", … ({len(names)} in all)" if len(names) > 12 else "")
    return UsageError(f"unknown {kind} {given!r}; {hint}Known: {listed}")


def missing_extra(extra: str, module: str, purpose: str) -> UnavailableError:
    """An error for an optional dependency that is not installed, with the line that installs it."""
    return UnavailableError(f'{purpose} needs {module}, which is not installed; run: pip install "dann[{extra}]"')
