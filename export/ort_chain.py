"""ONNX files run one after another by ONNX Runtime on the CPU, as the verdict needs them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from dann.infer.errors import DannError
from dann.infer.ort_engine import session_options

_CPU = "CPUExecutionProvider"


class OrtChain:
    """Each file's first output is the next one's input; with one file, simply that file."""

    executor = f"onnxruntime {onnxruntime.__version__} CPU"

    def __init__(self, files: Sequence[Path]):
        options = session_options(None)  # as in inference
        try:
            self._sessions = [onnxruntime.InferenceSession(file, options, providers=[_CPU]) for file in files]
        except Exception as error:  # its exceptions share no base class
            raise DannError(f"onnxruntime cannot load the exported graph: {error}") from error

    def __call__(self, images_NHWC: np.ndarray) -> dict[str, np.ndarray]:
        """The last file's outputs by name, float32 (N, …), for uint8 images (N, H, W, 3)."""
        outputs: dict[str, np.ndarray] = {}
        value = images_NHWC
        for session in self._sessions:
            names = [output.name for output in session.get_outputs()]
            results = session.run(names, {session.get_inputs()[0].name: value})
            outputs = dict(zip(names, map(np.asarray, results), strict=True))
            value = outputs[names[0]]
        return outputs
