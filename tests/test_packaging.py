"""What a person who installs dann gets: the contents of sdist and wheel, built from a clean copy."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
from project import FOLDERS, ROOT, project_files

pytestmark = pytest.mark.slow

EXTRAS = {"cpu", "gpu", "train", "trt", "trt-rtx", "openvino", "ray", "mlflow", "all", "dev"}


def build(source: Path, out: Path, *kinds: str) -> None:
    """Run the build front end; without isolation, so that nothing is fetched."""
    command = [sys.executable, "-m", "build", "--no-isolation", *kinds, "--outdir", str(out), str(source)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def wheel_names(folder: Path) -> set[str]:
    [wheel] = folder.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """The project's files and nothing else: no build/ or egg-info of earlier builds."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in project_files():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def dist(checkout, tmp_path_factory) -> Path:
    """A folder with the sdist and the wheel built from that sdist."""
    out = tmp_path_factory.mktemp("dist")
    build(checkout, out)
    return out


def test_the_wheel_holds_the_packages_and_nothing_else(dist):
    shipped = {name for name in wheel_names(dist) if ".dist-info/" not in name}
    assert shipped == {f"dann/{name}" for name in project_files() if name.split("/")[0] in (*FOLDERS, "cli.py")}


def test_the_wheel_holds_presets_methods_templates_type_markers_and_licence(dist):
    names = wheel_names(dist)
    data = [name for name in project_files() if re.match(r"train/(presets|methods|reporting/templates)/", name)]
    assert len(data) > 10 and {f"dann/{name}" for name in data} <= names
    assert {f"dann/{folder}/py.typed" for folder in FOLDERS} <= names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_wheel_of_the_sdist_is_the_wheel_of_the_checkout(dist, checkout, tmp_path):
    build(checkout, tmp_path, "--wheel")
    assert wheel_names(tmp_path) == wheel_names(dist)


def test_the_sdist_holds_all_that_testing_it_needs(dist):
    [sdist] = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {name for name in project_files() if not name.startswith(".")} <= names


def test_the_metadata_names_licence_command_and_extras(dist):
    [wheel] = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        texts = {
            name.rpartition("/")[2]: archive.read(name).decode() for name in archive.namelist() if "-info/" in name
        }
    metadata = message_from_string(texts["METADATA"])
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra", [])) == EXTRAS
    assert "dann = dann.cli:main" in texts["entry_points.txt"]


def test_the_base_install_asks_for_no_engine_and_no_torch(dist):
    [wheel] = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith("/METADATA")]
        metadata = message_from_string(archive.read(name).decode())
    base = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert {line.split(">=")[0] for line in base} == {"click", "numpy", "opencv-python-headless", "rich"}
