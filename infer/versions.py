"""Is an installed version the one that an artefact requires?"""

import re

from dann.infer.bundle import Artefact
from dann.infer.errors import UnavailableError


def check_version(artefact: Artefact, package: str, here: str, remedy: str) -> None:
    """Raise :class:`UnavailableError` where ``artefact`` requires another version of ``package`` than ``here``.

    ``remedy`` says what to do.
    """
    needs = artefact.requires.get(package, here)
    fits = numbers(here) >= numbers(needs) if needs.startswith(">=") else numbers(here) == numbers(needs)
    if not fits:
        raise UnavailableError(f"{artefact.files[0]} needs {package} {needs}; this machine has {here}; {remedy}")


def numbers(version: str) -> tuple[int, ...]:
    """``(10, 13, 3, 9)`` of ``10.13.3.9``, of ``>=10.13.3.9`` and of ``10.13.3.9.post1``, which repackages it."""
    return tuple(map(int, re.findall(r"\d+", version.partition(".post")[0])))
