"""What ``dann doctor`` tries in a process of its own: each runtime, on each of the places that it offers."""

import json
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import asdict
from io import StringIO
from typing import Any

from dann.infer.doctor import entry
from dann.infer.errors import UnavailableError, missing_extra

# y = Conv(x, w), float32 (1, 1, 1, 1) each: onnx.helper.make_model, opset 11, IR 8. A convolution, as CUDA needs cuDNN
_GRAPH = (
    b'\x08\x08\x12\x00:k\n\x0f\n\x01x\n\x01w\x12\x01y"\x04Conv\x12\x01g'
    b"Z\x1b\n\x01x\x12\x16\n\x14\x08\x01\x12\x10\n\x02\x08\x01\n\x02\x08\x01\n\x02\x08\x01\n\x02\x08\x01"
    b"Z\x1b\n\x01w\x12\x16\n\x14\x08\x01\x12\x10\n\x02\x08\x01\n\x02\x08\x01\n\x02\x08\x01\n\x02\x08\x01"
    b"b\x1b\n\x01y\x12\x16\n\x14\x08\x01\x12\x10\n\x02\x08\x01\n\x02\x08\x01\n\x02\x08\x01\n\x02\x08\x01"
    b"B\x04\n\x00\x10\x0b"
)


def attempt(name: str) -> None:
    """Print an entry of the report, on a line, before and after each attempt to run ``name``."""
    attempts = {"cuda": _try_cuda, "onnxruntime": _try_onnxruntime, "openvino": _try_openvino}
    try:
        for tried in attempts[name]() if name in attempts else _try_tensorrt(name):
            print("\n" + json.dumps(tried), flush=True)  # libraries may have begun a line
    except UnavailableError as error:
        print("\n" + json.dumps(entry(name, reason=str(error))))


def _try_cuda() -> Iterator[dict[str, Any]]:
    from dann.infer import cuda

    devices = [asdict(device) for device in cuda.devices()]
    yield entry("cuda", works=True, driver=cuda.driver(), devices=devices)


def _try_onnxruntime() -> Iterator[dict[str, Any]]:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise missing_extra("cpu", "onnxruntime", "running an ONNX model") from error
    import numpy as np

    numbers = {name: np.ones((1, 1, 1, 1), np.float32) for name in "xw"}
    with redirect_stdout(StringIO()):  # it prints what it did not find
        onnxruntime.preload_dlls()
    for provider in onnxruntime.get_available_providers():
        if provider == "AzureExecutionProvider":  # asks a server, and computes nothing
            continue
        about = "onnxruntime", onnxruntime.__version__, provider
        yield entry(*about)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        if provider != "CPUExecutionProvider":  # else that one would serve in its place
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            session = onnxruntime.InferenceSession(_GRAPH, options, providers=[provider], enable_fallback=0)
            session.run(None, numbers)
        except Exception as error:  # its exceptions share no base class
            yield entry(*about, reason=re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", _last_line(error)))
        else:
            yield entry(*about, **_served(session.get_providers()[0], provider))


def _served(by: str, asked: str) -> dict[str, Any]:
    return {"works": True} if by == asked else {"reason": f"{by} serves in its place"}


def _try_tensorrt(name: str) -> Iterator[dict[str, Any]]:
    from dann.infer import cuda
    from dann.infer.tensorrt_names import load, logger

    trt = load(name)
    yield entry(name, trt.version, "CUDA")
    try:
        cuda.devices()  # without one TensorRT may end the process
    except UnavailableError as error:
        yield entry(name, trt.version, "CUDA", reason=f"it loads, but {error}")
    else:
        trt.api.Runtime(logger(trt.api))
        yield entry(name, trt.version, "CUDA", works=True)


def _try_openvino() -> Iterator[dict[str, Any]]:
    try:
        from dann.infer.openvino_engine import VERSION, core
    except ModuleNotFoundError as error:
        raise missing_extra("openvino", "openvino", "running its networks") from error

    for device in core().available_devices:
        yield entry("openvino", VERSION, device)
        try:
            core().compile_model(core().read_model(_GRAPH), device)
        except RuntimeError as error:
            yield entry("openvino", VERSION, device, reason=_last_line(error))
        else:
            yield entry("openvino", VERSION, device, works=True)


def _last_line(error: Exception) -> str:
    return str(error).strip().rpartition("\n")[2]
