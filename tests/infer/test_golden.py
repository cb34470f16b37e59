import runpy
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", ["colour", "conv"])
def test_the_script_beside_the_models_remakes_them_to_the_byte(name):
    pytest.importorskip("onnx", reason="remaking the golden models needs the onnx package: dann[train]")
    make = runpy.run_path(str(GOLDEN / "make_models.py"))[f"{name}_model"]
    assert make().SerializeToString(deterministic=True) == (GOLDEN / f"{name}.onnx").read_bytes()
