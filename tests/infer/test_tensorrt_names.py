"""The names of TensorRT that dann uses are those of TensorRT for RTX, where it is installed, and of TensorRT 10 and 11.

The Python packages of TensorRT cannot be imported without its libraries, of gigabytes. Their extension modules can,
once they ask the linker for other libraries and functions: nothing of TensorRT runs while its classes are defined.
"""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dann.infer import tensorrt_names
from dann.infer.errors import DannError, UnavailableError
from dann.infer.tensorrt_names import NAMES, RTX_NAMES, TensorRT, checked, installed, load, missing_names

WHEELS = (
    "tensorrt-cu12-bindings==10.0.1",
    "tensorrt-cu13-bindings==10.16.1.11",
    "tensorrt-cu13-bindings==11.0.0.114",
    "tensorrt-cu13-bindings==11.4.0.106",
)
LIBRARY = rb"(?<=\0)libnv\w+\.so\.\d+(?=\0)"
FUNCTION = (
    rb"(?<=\0)(create\w+_INTERNAL|get(Builder)?PluginRegistry|getNvOnnxParserVersion|initLibNvInferPlugins)(?=\0)"
)
IMPORTED = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
sys.setdlopenflags(os.RTLD_LAZY)
import tensorrt_bindings
from dann.infer import tensorrt_names
tensorrt_names.NAMES += ("BuilderFlag.FP16", "BuilderFlag.TF33", "ICudaEngine.get_binding_shape")
missing = tensorrt_names.missing_names(tensorrt_names.TensorRT("tensorrt", tensorrt_bindings))
print(json.dumps([tensorrt_bindings.__version__, missing]))
"""


@pytest.fixture(scope="session", params=WHEELS)
def wheel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of TensorRT's Python package."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, *"-m pip download --no-deps --only-binary :all: --dest".split(), folder, request.param]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    if done.returncode:
        pytest.skip(f"{request.param} cannot be downloaded here: {done.stderr.strip().splitlines()[-1]}")
    [path] = folder.iterdir()
    return path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the trick with the linker is one of Linux")
def test_tensorrt_10_and_11_have_every_name(wheel: Path, tmp_path: Path):
    """Names that are misspelt, that TensorRT 10 removed and that 11 removed are found beside them."""
    zipfile.ZipFile(wheel).extractall(tmp_path)
    module = tmp_path / "tensorrt_bindings" / "tensorrt.so"
    content = re.sub(LIBRARY, lambda name: b"libc.so.6".ljust(len(name[0]), b"\0"), module.read_bytes())
    module.write_bytes(re.sub(FUNCTION, lambda name: b"abort".ljust(len(name[0]), b"\0"), content))
    done = subprocess.run([sys.executable, "-c", IMPORTED, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    version, missing = json.loads(done.stdout)
    removed = ["BuilderFlag.FP16"] if version.startswith("11.") else []
    assert f"-{version}-" in wheel.name
    assert missing == [*removed, "BuilderFlag.TF33", "ICudaEngine.get_binding_shape"]


def test_the_installed_tensorrt_for_rtx_has_every_name():
    rtx = pytest.importorskip("tensorrt_rtx", reason='needs TensorRT for RTX: pip install "dann[trt-rtx]"')
    assert missing_names(TensorRT("tensorrt-rtx", rtx)) == []


def test_a_name_that_is_gone_is_found():
    older: Any = SimpleNamespace(Builder=SimpleNamespace(create_network=None))
    missing = missing_names(TensorRT("tensorrt", older))
    assert [name for name in NAMES if name not in missing] == ["Builder.create_network"]
    assert [*missing, *RTX_NAMES] == missing_names(TensorRT("tensorrt-rtx", older))


def test_every_class_and_member_in_the_code_is_in_the_list():
    root = Path(tensorrt_names.__file__).parents[1]
    code = "".join(path.read_text() for path in (*root.glob("infer/*.py"), *root.glob("export/*.py")))
    used = set(re.findall(r"\bapi\.([A-Z]\w+(?:\.[A-Za-z]\w+)?)", code))
    listed = {name for full in NAMES + RTX_NAMES for name in (full, full.partition(".")[0])}
    assert len(used) > 10 and used - listed == set()


# loading --------------------------------------------------------------------------------------------------------


def test_without_tensorrt_the_line_to_type_is_said(monkeypatch: pytest.MonkeyPatch):
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UnavailableError, match=r'pip install "dann\[trt\]".*pip install "dann\[trt-rtx\]"'):
        installed()
    with pytest.raises(UnavailableError, match=r'needs tensorrt-rtx, .* pip install "dann\[trt-rtx\]"'):
        load("tensorrt-rtx")


def test_a_tensorrt_whose_libraries_are_missing_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.11: cannot open shared object file')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(UnavailableError, match=r'tensorrt does not load \(libnvinfer.*\); run: pip install "dann\[trt'):
        load("tensorrt")


@pytest.mark.parametrize("answer", [None, False])
def test_what_answers_no_without_a_reason_is_an_error_too(answer: Any):
    rtx = pytest.importorskip("tensorrt_rtx", reason='needs TensorRT for RTX: pip install "dann[trt-rtx]"')
    tensorrt_names.logger(rtx).lines.clear()
    with pytest.raises(DannError, match=r"^tensorrt-rtx [\d.]+ failed in trying: without a reason$"):
        checked(TensorRT("tensorrt-rtx", rtx), "trying", answer)


@pytest.mark.parametrize("answer", [True, 0, [], "context"])
def test_what_answers_anything_else_is_given_back(answer: Any):
    older: Any = SimpleNamespace()
    assert checked(TensorRT("tensorrt", older), "trying", answer) is answer
