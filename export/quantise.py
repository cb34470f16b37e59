"""Static quantisation: a graph in float16 to one in int8, but for the layers that lose by it.

The scale of a layer's input comes from the largest number it takes for the images given. To cut off rare large numbers
(by percentile, mean square error or entropy) made the worst logits worse on trained networks, and agreed no better.
"""

from bisect import bisect_left
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime

from dann.export.int8_graph import in_int8, layers_of
from dann.export.onnx_graph import OnnxGraph
from dann.infer.errors import DannError, UsageError
from dann.infer.ort_engine import session_options
from dann.infer.verdict import run_in_batches

_CALIBRATION_BATCH = 8  # the inputs of all layers are in memory at once
_BATCH = 32
_RANKED_ON = 32  # images: an error of the logits, unlike one of the most probable class, shows on few


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """A graph in int8, and what was measured of it on the images it was calibrated on."""

    graph: OnnxGraph
    kept: tuple[str, ...]
    """Names of the layers left in float16, in the order of the graph."""
    layers: int
    """How many layers are in int8."""
    agreement: float
    """Share of the images whose most probable class is that of the trained network; 0 to 1."""


def quantise(graph: OnnxGraph, inputs: np.ndarray, *, keep: Collection[str] = ()) -> OnnxGraph:
    """``graph`` in int8, calibrated on ``inputs`` (N, …), which are what it takes: images, uint8 RGB (N, H, W, 3).

    A layer is called after its weight, ``feature_extractor.1.0``; those in ``keep`` stay in float16, and names of none
    are ignored. Raises :class:`UsageError` where there are no inputs, :class:`DannError` where the network
    gives numbers for them that are not finite.
    """
    return in_int8(graph, _peaks(graph, inputs), keep)


def quantise_within(
    graph: OnnxGraph, images_NHWC: np.ndarray, logits_NK: np.ndarray, *, agreement: float = 0.99
) -> Quantised:
    """``graph`` in int8, with as few layers left in float16 as it takes to agree with the trained network.

    ``agreement`` is the share of the images whose most probable class has to be that of ``logits_NK``, float32. The
    layers that change the logits most, each alone in int8, are left out first. Raises as :func:`quantise`, and
    :class:`DannError` where not one layer can be in int8.
    """
    peaks = _peaks(graph, images_NHWC)
    names = list(layers_of(onnx.load_from_string(graph.data)))

    def without(kept: Collection[str]) -> Quantised:
        quantised = in_int8(graph, peaks, kept)
        agreeing = _logits(quantised, images_NHWC).argmax(1) == logits_NK.argmax(1)
        return Quantised(
            graph=quantised,
            kept=tuple(name for name in names if name in kept),
            layers=len(names) - len(kept),
            agreement=float(agreeing.mean()),
        )

    def error_of(name: str) -> float:
        alone = in_int8(graph, peaks, set(names) - {name})
        return float(np.square(_logits(alone, images_NHWC[:_RANKED_ON]) - logits_NK[:_RANKED_ON]).sum())

    whole = without(())
    if whole.agreement >= agreement:
        return whole
    worst_first = sorted(names, key=error_of, reverse=True)
    counts = range(1, len(names))
    found = bisect_left(counts, True, key=lambda count: without(worst_first[:count]).agreement >= agreement)
    if found == len(counts):
        raise DannError(
            f"int8 keeps the most probable class of {whole.agreement:.1%} of {len(images_NHWC)} images, expected "
            f"{agreement:.1%}, and leaving layers in float16 does not help; export --precision fp16"
        )
    return without(worst_first[: counts[found]])


def _peaks(graph: OnnxGraph, inputs: np.ndarray) -> dict[str, float]:
    """The largest magnitude in the input of each layer, by the tensor's name."""
    if len(inputs) == 0:
        raise UsageError("int8 has no images to be calibrated on; expected at least 1")
    model = onnx.load_from_string(graph.data)
    names = list(dict.fromkeys(node.input[0] for nodes in layers_of(model).values() for node in nodes))
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = _session(model.SerializeToString())
    peaks = np.zeros(len(names), np.float32)
    for start in range(0, len(inputs), _CALIBRATION_BATCH):
        tensors = session.run(names, {graph.inputs[0].name: inputs[start : start + _CALIBRATION_BATCH]})
        peaks = np.maximum(peaks, [np.abs(np.asarray(tensor)).max() for tensor in tensors])
    if not np.isfinite(peaks).all():
        raise DannError("the network in float16 gives numbers that are not finite; export --precision fp32")
    return dict(zip(names, peaks.tolist(), strict=True))


def _session(data: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(data, session_options(None), providers=["CPUExecutionProvider"])


def _logits(graph: OnnxGraph, images_NHWC: np.ndarray) -> np.ndarray:
    session = _session(graph.data)

    def execute(batch_NHWC: np.ndarray) -> dict[str, np.ndarray]:
        return {"logits": np.asarray(session.run(["logits"], {graph.inputs[0].name: batch_NHWC})[0])}

    return run_in_batches(execute, images_NHWC, _BATCH)["logits"]
