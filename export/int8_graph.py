"""A graph in float16 rewritten for int8, as TensorRT takes it.

A layer that multiplies gets its input and its weight through int8 (``QuantizeLinear``, ``DequantizeLinear``); a runtime
that knows these pairs multiplies in int8 instead. Scales are symmetric: one for an input, one for each output channel
of a weight. Biases stay in float16, as TensorRT takes no int32.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

from dann.export.onnx_graph import OnnxGraph, check

_MULTIPLYING = ("Conv", "Gemm", "MatMul")
_LARGEST = 127
_LARGEST_WEIGHT = 64
"""CPUs without VNNI add two products of 255 and a weight in 16 bits: with larger weights they overflow. The seventh bit
costs about 1 dB elsewhere, and saves 8 to 17 dB there (``docs/export.md``)."""
_SMALLEST_SCALE = 2.0**-24  # of float16; for what is 0 throughout, any scale will do
_ZERO = "int8.zero"


def layers_of(model: ModelProto) -> dict[str, list[NodeProto]]:
    """The nodes that multiply by a constant weight, under its name: ``feature_extractor.2.0``.

    Nodes with the same weight are one layer.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    layers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        if node.op_type in _MULTIPLYING and node.input[1] in constants:
            layers.setdefault(node.input[1].removesuffix(".weight"), []).append(node)
    return layers


def in_int8(graph: OnnxGraph, peaks: Mapping[str, float], keep: Collection[str]) -> OnnxGraph:
    """``graph`` with its layers in int8, but for those in ``keep``.

    ``peaks`` are the largest magnitudes, by the tensor's name, that the inputs of layers can hold.
    """
    model = onnx.load_from_string(graph.data)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    layers = [node for name, nodes in layers_of(model).items() if name not in keep for node in nodes]
    nodes: list[NodeProto] = []
    added = {_ZERO: np.array(0, np.int8)}
    inputs: set[str] = set()
    for node in layers:
        tensor, name = node.input[:2]
        weight = numpy_helper.to_array(constants[name])
        axis = _channel_axis(node, weight.ndim)
        if node.op_type == "Gemm" and len(node.input) > 2:
            # onnxruntime takes one of one dimension to int32, by a division that overflows float16
            constants[node.input[2]].dims[:] = [1, *weight.shape[axis : axis + 1]]
        inputs.add(tensor)
        added[_scale(tensor)] = _scales(np.array(peaks[tensor]), _LARGEST, weight.dtype)
        if _int8(name) not in added:  # else a layer's second node
            added[_int8(name)], added[_scale(name)] = _rounded(weight, axis)
            nodes.append(_dequantise(name, axis))

    def through_int8(names: Iterable[str]) -> None:
        for name in names:
            if name in inputs:
                parts = [name, _scale(name), _ZERO]
                nodes.append(helper.make_node("QuantizeLinear", parts, [_int8(name)], f"{name}.quantise"))
                nodes.append(_dequantise(name))

    through_int8(value.name for value in model.graph.input)
    outputs = {node.output[0] for node in layers}
    for node in model.graph.node:
        # a sum reads int8 too, so that it can be computed at the end of the convolution before it
        if node.output[0] in outputs or node.op_type == "Add":
            node.input[:] = [_back(name) if name in inputs or _int8(name) in added else name for name in node.input]
        nodes.append(node)
        through_int8(node.output)
    return replace(graph, data=_with(model, nodes, added))


def _with(model: ModelProto, nodes: list[NodeProto], added: Mapping[str, np.ndarray]) -> bytes:
    """``model`` of these nodes, and the constants that they use."""
    tensors = [*model.graph.initializer, *(numpy_helper.from_array(array, name) for name, array in added.items())]
    used = {name for node in nodes for name in node.input}
    result = ModelProto()
    result.CopyFrom(model)
    # shapes are said of weights that are gone, too; runtimes infer them
    del result.graph.node[:], result.graph.initializer[:], result.graph.value_info[:]
    result.graph.node.extend(nodes)
    result.graph.initializer.extend(tensor for tensor in tensors if tensor.name in used)
    check(result)
    return result.SerializeToString(deterministic=True)


def _channel_axis(node: NodeProto, dimensions: int) -> int:
    """That of a weight's output channels."""
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if node.op_type == "Conv" or transposed else dimensions - 1


def _rounded(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """The weight in int8, and the scale of each channel."""
    others = tuple(index for index in range(weight.ndim) if index != axis)
    scales = _scales(np.abs(weight).max(others, keepdims=True), _LARGEST_WEIGHT, weight.dtype)
    integers = np.rint(weight.astype(np.float32) / scales.astype(np.float32)).clip(-_LARGEST_WEIGHT, _LARGEST_WEIGHT)
    return integers.astype(np.int8), scales.ravel()


def _scales(peaks: np.ndarray, largest: int, dtype: np.dtype) -> np.ndarray:
    """Those with which the peaks become ``largest``."""
    return np.maximum(peaks.astype(np.float32) / largest, _SMALLEST_SCALE).astype(dtype)


def _dequantise(name: str, axis: int = 0) -> NodeProto:
    parts = [_int8(name), _scale(name)]
    return helper.make_node("DequantizeLinear", parts, [_back(name)], f"{name}.dequantise", axis=axis)


def _int8(name: str) -> str:
    return f"{name}.int8"


def _scale(name: str) -> str:
    return f"{name}.scale"


def _back(name: str) -> str:
    return f"{name}.dequantised"
