"""Guards on the shape of the code: what may import what, and what the root may hold."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from project import FOLDERS, ROOT

# infer ← train ← export ← cli: what a part may not import, at any depth of the code
FORBIDDEN = {
    "infer": ("dann.train", "dann.export", "dann.cli"),
    "train": ("dann.export", "dann.cli"),
    "export": ("dann.cli",),
    "cli.py": ("torch", "torchvision"),
    "tests": ("dann.tests",),
}

# Run from the root, `import train` succeeds and makes a second copy of every class in it.
WITHOUT_DANN = (*FOLDERS, "cli")

# what a box that only runs bundles has installed
EDGE = {"numpy", "cv2", "rich", "onnxruntime", "openvino"}

# an engine's package → the only modules that speak to it
ENGINES = {
    "onnxruntime": {
        *("infer/ort_engine.py", "infer/doctor_attempts.py"),
        *("export/first_difference.py", "export/quantise.py"),
    },
    "openvino": {"infer/openvino_engine.py"},
    "tensorrt": set(),
    "tensorrt_rtx": set(),
}


def imported_names(source: str) -> set[str]:
    """Every module that ``source`` imports anywhere, ``from a import b`` giving both ``a`` and ``a.b``."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def matching(names: set[str], packages: tuple[str, ...]) -> set[str]:
    """Those of ``names`` that are one of ``packages`` or lie inside one."""
    return {name for name in names if any(f"{name}.".startswith(f"{package}.") for package in packages)}


def wrong_imports(part: str, source: str) -> set[str]:
    """The imports in ``source`` that a module of ``part`` may not have; relative ones are always wrong."""
    names = imported_names(source)
    relative = {name for name in names if name.startswith(".")}
    return matching(names, FORBIDDEN[part] + WITHOUT_DANN) | relative


def modules_of(part: str) -> list[Path]:
    path = ROOT / part
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def imports_without(package: str, module: str) -> subprocess.CompletedProcess:
    """Import ``module`` in a new interpreter where ``package`` is not to be had."""
    code = f"import sys; sys.modules[{package!r}] = None; import {module}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize("part", FORBIDDEN)
def test_imports_point_in_one_direction(part):
    found = {str(path.relative_to(ROOT)): wrong_imports(part, path.read_text()) for path in modules_of(part)}
    assert not {path: names for path, names in found.items() if names}


@pytest.mark.parametrize(
    ("part", "line"),
    [
        ("infer", "import dann.train.loop as loop"),
        ("infer", "def f():\n    from dann import train"),
        ("infer", "from dann.export.bundle import write"),
        ("train", "from dann import cli"),
        ("export", "from train import loop"),
        ("export", "from ..train import loop"),
        ("cli.py", "import torch"),
    ],
)
def test_a_wrong_import_is_seen(part, line):
    assert wrong_imports(part, line)


def test_a_right_import_is_let_through():
    assert not wrong_imports("export", "import torch\nfrom dann.train.model import build\nimport training_tools")


def test_inference_needs_only_what_an_edge_box_has():
    names = set().union(*(imported_names(path.read_text()) for path in modules_of("infer")))
    assert {name.partition(".")[0] for name in names} <= {"dann", *EDGE, *sys.stdlib_module_names}


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_is_imported_only_where_it_is_spoken_to(engine):
    modules = [path for part in (*FOLDERS, "cli.py") for path in modules_of(part)]
    importing = {
        path.relative_to(ROOT).as_posix() for path in modules if matching(imported_names(path.read_text()), (engine,))
    }
    assert importing <= ENGINES[engine]


@pytest.mark.parametrize("module", ["dann.infer", "dann.cli"])
def test_imports_without_torch(module):
    run = imports_without("torch", module)
    assert run.returncode == 0, run.stderr


def test_a_missing_package_is_noticed():
    run = imports_without("numpy", "dann.infer.preprocess")
    assert run.returncode != 0
    assert "import of numpy halted" in run.stderr


def test_the_command_starts_without_the_heavy_packages():
    heavy = {"torch", "torchvision", "onnx", "onnxruntime", "sklearn", "matplotlib", "tensorboard", "cv2"}
    code = f"import sys, dann.cli; print(*sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_every_package_is_listed_for_the_wheel():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    on_disk = {
        ".".join(("dann", *init.parent.relative_to(ROOT).parts))
        for folder in FOLDERS
        for init in (ROOT / folder).rglob("__init__.py")
    }
    assert set(listed["packages"]) == on_disk | {"dann"}
    assert set(listed["package-dir"]) == on_disk | {"dann"}


def test_every_folder_with_code_is_a_package():
    holding_code = {path.parent for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    assert {folder for folder in holding_code if not (folder / "__init__.py").is_file()} == set()


def test_the_root_holds_no_stray_module():
    # "dann" is mapped to ".", so every *.py at the root would be shipped as dann/<name>.py
    assert {path.name for path in ROOT.glob("*.py")} == {"cli.py"}
