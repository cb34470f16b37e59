"""Does an engine compute in the precision that it is called by? Flags that did nothing have made many that do not.

Three looks, as far as each is possible: at what TensorRT's parser made of the graph, at the size of the engine, and, on
a GPU, at what TensorRT says of its layers.
"""

import re
from collections import Counter
from typing import Any

from dann.infer.errors import DannError
from dann.infer.tensorrt_names import TensorRT, checked, logger

_COMPUTES_IN = {"fp32": ("FLOAT",), "fp16": ("HALF",), "int8": ("INT8", "HALF")}
"""By precision: in what some layers have to multiply, and in what others may."""

_SAYS = {"fp16": r"FP16|Half", "int8": r"Int8"}
"""By precision, the word for it in the descriptions of an engine's layers."""
_OTHERWISE = r"FP32|Float"

_LARGER, _BESIDE = 1.5, 4 * 2**20  # an engine beside its graph: kernels are a few MiB, weights are copied


def check_network(trt: TensorRT, network: Any, precision: str) -> dict[str, int]:
    """How many layers of a parsed network multiply in which type; raises :class:`DannError` for another precision."""
    layers = _multiplying_layers(trt, network)
    needed, *allowed = _COMPUTES_IN[precision]
    if needed not in layers or not set(layers) <= {needed, *allowed}:
        others = f", and none but {allowed[0]} beside it" if allowed else " alone"
        raise DannError(f"the graph of {precision} has layers that compute in {layers}; expected {needed}{others}")
    return layers


def check_size(plan: bytes, onnx: bytes, precision: str) -> None:
    """Refuse the engine of a large graph in half precision or less that holds about twice its weights.

    Says nothing of small ones, nor of TensorRT on a GPU, which keeps transformed weights; :func:`check_layers` does.
    """
    if precision != "fp32" and len(plan) > _LARGER * len(onnx) + _BESIDE:
        raise DannError(
            f"the engine of {precision} has {len(plan):,} bytes, its graph {len(onnx):,}: it does not hold its weights "
            f"in {precision}"
        )


def check_layers(trt: TensorRT, plan: bytes, precision: str) -> None:
    """Refuse an engine whose layers are all in float32 by TensorRT's own account, where another precision was asked.

    Needs the GPU that it was built for.
    """
    if precision not in _SAYS:
        return
    runtime = trt.api.Runtime(logger(trt.api))
    runtime.engine_host_code_allowed = True  # it was built a moment ago
    engine = checked(trt, "deserialize_cuda_engine", runtime.deserialize_cuda_engine(plan))
    inspector = checked(trt, "create_engine_inspector", engine.create_engine_inspector())
    account = inspector.get_engine_information(trt.api.LayerInformationFormat.JSON)
    if re.search(_OTHERWISE, account) and not re.search(_SAYS[precision], account):
        raise DannError(f"{trt} built an engine in float32 from a graph in {precision}; update TensorRT")


def _multiplying_layers(trt: TensorRT, network: Any) -> dict[str, int]:
    """A layer whose two factors both come from int8 is computed in it, whatever the network says of its output."""
    kinds = trt.api.LayerType
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    from_int8: set[str] = set()
    for layer in layers:
        dequantises = layer.type == kinds.DEQUANTIZE and layer.get_input(0).dtype.name == "INT8"
        if dequantises or (layer.type == kinds.SHUFFLE and layer.get_input(0).name in from_int8):
            from_int8.add(layer.get_output(0).name)

    def computes_in(layer: Any) -> str:
        factors = [layer.get_input(index).name for index in range(min(layer.num_inputs, 2))]
        return "INT8" if len(factors) == 2 and from_int8.issuperset(factors) else layer.get_output(0).dtype.name

    multiplying = (layer for layer in layers if layer.type in (kinds.CONVOLUTION, kinds.MATRIX_MULTIPLY))
    return dict(Counter(map(computes_in, multiplying)))
