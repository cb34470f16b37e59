"""Where the checkout is and which files belong to it, for the tests of the project itself."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("infer", "train", "export")


def project_files() -> list[str]:
    """Every file of the checkout that git does not ignore, relative to the root. Skips outside a clone."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git clone to know which files belong to the project")
    # without safe.directory, git refuses a clone that belongs to another user
    command = "git -c safe.directory=* ls-files -z --cached --others --exclude-standard".split()
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted(name for name in listed.split("\0") if name and (ROOT / name).is_file())
