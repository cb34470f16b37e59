"""``examples/classify.py``, run as a reader of it would."""

import subprocess
import sys

import pytest
from project import ROOT

pytest.importorskip("onnxruntime", reason="needs an ONNX Runtime: dann[cpu] or dann[gpu]")
EXAMPLE = ROOT / "examples" / "classify.py"


@pytest.mark.skipif(not EXAMPLE.exists(), reason="needs a checkout: examples are not in the wheel")
def test_it_says_what_is_on_each_picture(bundle, pictures):
    paths = [str(pictures / name) for name in ("b.png", "a.png", "half.jpg", "e.bmp")]
    done = subprocess.run([sys.executable, EXAMPLE, bundle, *paths], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == [
        f"{pictures / 'half.jpg'}: cannot be decoded: damaged or truncated",
        "2 green, 1 red, 1 unreadable",
        "the first one, as an array: green",
    ]


@pytest.mark.skipif(not EXAMPLE.exists(), reason="needs a checkout: examples are not in the wheel")
def test_without_images_it_says_how_it_is_used(bundle):
    done = subprocess.run([sys.executable, EXAMPLE, bundle], capture_output=True, text=True)
    assert done.returncode == 1 and "python examples/classify.py BUNDLE IMAGE..." in done.stderr
