"""The runtime starts fast and alone: importing it loads neither torch nor an engine."""

import subprocess
import sys

import pytest

import dann.infer

HEAVY = ("torch", "torchvision", "onnx", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "cuda")
MODULES = (
    *("bench", "bench_images", "bench_result", "bundle", "cuda", "doctor", "engine", "errors", "first_use"),
    *("folder", "images", "predict", "preprocess", "results", "tensorrt_engine", "tensorrt_names", "tensorrt_slot"),
    *("timing", "verdict", "verify"),
)
CHECK = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {heavy}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)

sys.meta_path.insert(0, Refuse())
{code}
loaded = {light} & sys.modules.keys()
assert not loaded, loaded
"""


def importing(code, tmp_path, *, light=()):
    """Run ``code`` where the heavy packages cannot be imported and those in ``light`` must not be."""
    check = CHECK.format(heavy=set(HEAVY), code=code, light=set(light) | {""})
    return subprocess.run([sys.executable, "-c", check], cwd=tmp_path, capture_output=True, text=True)


@pytest.mark.parametrize("module", ["dann.infer", "dann.cli", *(f"dann.infer.{name}" for name in MODULES)])
def test_imports_without_torch_and_without_an_engine(module, tmp_path):
    done = importing(f"import {module}", tmp_path)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_loads_no_opencv(tmp_path):
    done = importing("import dann.infer, dann.infer.errors", tmp_path, light={"cv2", "numpy"})
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("code", ["import torch", "import onnxruntime.capi"])
def test_the_check_sees_a_forbidden_import(code, tmp_path):
    done = importing(code, tmp_path)
    assert done.returncode != 0 and "is blocked" in done.stderr


def test_the_check_sees_a_heavy_import(tmp_path):
    done = importing("import dann.infer.preprocess", tmp_path, light={"cv2"})
    assert done.returncode != 0 and "cv2" in done.stderr


@pytest.mark.parametrize("name", dann.infer.__all__)
def test_every_public_name_can_be_had(name):
    assert getattr(dann.infer, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Classifer'"):
        dann.infer.Classifer  # noqa: B018
