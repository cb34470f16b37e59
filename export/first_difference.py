"""Where an exported graph leaves the trained network: the first layer whose values differ.

PyTorch's exporter keeps the names of what it traced as the names of values in the ONNX file, through the conversion to
quantised numbers too. So the traced graph is run in float32 with the trained weights, the ONNX file shows the values
between its nodes, and the two are compared name by name. Where layers are folded into one node, as batch
normalisation is into the convolution before it, the node's value is that of the last of them, and all are named.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from dann.export.onnx_graph import OnnxGraph
from dann.infer.errors import DannError
from dann.infer.ort_engine import session_options


@dataclass(frozen=True, kw_only=True)
class LayerDifference:
    """How far a value of a graph is from the trained network's."""

    layers: tuple[str, ...]
    """The modules that compute it, since the value that was compared before: ``feature_extractor.1.13``. None is given
    for what is computed outside of them, as probabilities are."""
    value: str
    """Its name in the ONNX file."""
    difference: float
    """The largest one, relative to the largest value of the trained network there; not finite where a value is not."""
    tolerance: float

    @property
    def over(self) -> bool:
        """Whether it is over the tolerance."""
        return not self.difference <= self.tolerance  # nor is a NaN

    def __str__(self) -> str:
        where = f"{' + '.join(self.layers)} ({self.value})" if self.layers else self.value
        rank = "first layer over tolerance" if self.over else "no layer is over tolerance, the farthest is"
        if not math.isfinite(self.difference):
            return f"{rank}: {where}: not every value is finite"
        largest, tolerance = (f"{100 * share:.3g}%" for share in (self.difference, self.tolerance))
        return f"{rank}: {where}: largest difference {largest} of its largest value (tolerance {tolerance})"


def first_difference(
    reference: nn.Module, graph: OnnxGraph, inputs: np.ndarray, *, tolerance: float
) -> LayerDifference:
    """The first layer over ``tolerance``, in the order of computation; where none is, the one that differs most.

    ``reference`` is the trained network in float32, and ``graph`` of the same in any precision. ``inputs`` are a few of
    what they take: uint8 images (N, H, W, 3) or float32 features (N, D). Raises :class:`DannError` where onnxruntime
    cannot run the graph.
    """
    program, model = graph.program, onnx.load_from_string(graph.data)
    expected = _expected(program, reference, torch.from_numpy(inputs))
    names = _names_in_graph(program, model)
    given = _given(model, list(names.values()), inputs)
    differences: list[LayerDifference] = []
    layers: dict[str, None] = {}  # in order, each once
    for name, layer in _computed(program):
        layers[layer] = None
        value = names.get(name)
        if value is None or given[value].shape != expected[name].shape:
            continue
        difference = LayerDifference(
            layers=tuple(filter(None, layers)),
            value=value,
            difference=_relative(given[value], expected[name]),
            tolerance=tolerance,
        )
        if difference.over:
            return difference
        differences.append(difference)
        layers.clear()
    return max(differences, key=lambda found: found.difference)


def _computed(program: ExportedProgram) -> Iterator[tuple[str, str]]:
    """The name of each tensor that is computed, in order, and of the module that does it, empty for the outermost."""
    for node in program.graph.nodes:
        if node.op == "call_function" and isinstance(node.meta["val"], Tensor):
            *_, (module, _) = node.meta["nn_module_stack"].values()
            yield node.name, module.partition("@")[0]  # a second call of the same module ends in @1


@torch.inference_mode()
def _expected(program: ExportedProgram, reference: nn.Module, inputs: Tensor) -> dict[str, np.ndarray]:
    """What each name stands for, computed in float32 with the weights of ``reference``."""
    signature = program.graph_signature
    parameters = dict(reference.named_parameters())
    stored = [tensor for name, tensor in reference.state_dict().items() if name not in parameters]
    # layers may have other numbers, but their order is the same
    names = [*signature.parameters, *(name for name in signature.buffers if name in program.state_dict)]
    weights = dict(zip(names, (*parameters.values(), *stored), strict=True))
    tensors = {**program.constants, **{name: tensor.contiguous() for name, tensor in weights.items()}}
    interpreter = _Float32(program.graph_module)
    interpreter.run(*(tensors.get(spec.target or "", inputs) for spec in signature.input_specs))
    return interpreter.values


class _Float32(torch.fx.Interpreter):
    """Runs a graph with every cast to a float type going to float32, and keeps each tensor."""

    def __init__(self, graph: torch.fx.GraphModule):
        super().__init__(graph)
        self.values: dict[str, np.ndarray] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.values[n.name] = result.numpy()
        return result

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        dtype = kwargs.get("dtype")
        if dtype is not None and dtype.is_floating_point:
            kwargs = {**kwargs, "dtype": torch.float32}
        return super().call_function(target, args, kwargs)


def _names_in_graph(program: ExportedProgram, model: onnx.ModelProto) -> dict[str, str]:
    """From a name of the program to that of the same value in the ONNX file, after its quantisation if there is one."""
    produced = {name for node in model.graph.node for name in node.output}
    taken = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    dequantised = {
        node.input[0]: taken[node.output[0]] for node in model.graph.node if node.op_type == "QuantizeLinear"
    }
    outputs = (node.name for node in program.graph.output_node().args[0])  # type: ignore[union-attr]
    renamed = dict(zip(outputs, (value.name for value in model.graph.output), strict=True))
    names = {name: name if name in produced else renamed.get(name) for name, _ in _computed(program)}
    return {name: dequantised.get(value, value) for name, value in names.items() if value in produced}


def _given(model: onnx.ModelProto, names: list[str], inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Values of the graph by name, each node computed as it is written: nothing is fused."""
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = session_options(None)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        values = session.run(names, {session.get_inputs()[0].name: inputs})
    except Exception as error:  # its exceptions share no base class
        raise DannError(f"onnxruntime cannot run the exported graph: {error}") from error
    return dict(zip(names, map(np.asarray, values), strict=True))


def _relative(given: np.ndarray, expected: np.ndarray) -> float:
    largest = max(float(np.abs(expected).max()), 1e-12)
    return float(np.abs(given.astype(np.float32) - expected).max()) / largest
