"""An engine that is not what it is called. Parsed networks are looked at in ``test_engine_builder``."""

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from dann.export.engine_precision import check_layers, check_size
from dann.infer.errors import DannError
from dann.infer.tensorrt_names import TensorRT

MIB = 2**20


@pytest.mark.parametrize(
    ("precision", "graph_mib", "plan_mib", "passes"),
    [
        ("fp16", 22, 23, True),  # resnet18, as TensorRT for RTX builds it
        ("fp16", 22, 45, False),  # the same with weights in float32
        ("int8", 11, 14, True),
        ("int8", 11, 23, False),
        ("fp16", 0, 3, True),  # kernels are most of a small one
        ("fp32", 45, 90, True),  # nothing to be refused for
    ],
)
def test_an_engine_that_holds_its_weights_in_twice_the_bytes_is_refused(
    precision: str, graph_mib: int, plan_mib: int, passes: bool
):
    plan, graph = bytes(plan_mib * MIB), bytes(graph_mib * MIB)
    if passes:
        check_size(plan, graph, precision)
    else:
        with pytest.raises(DannError, match=f"engine of {precision} has .* does not hold its weights in {precision}"):
            check_size(plan, graph, precision)


def saying(account: str) -> TensorRT:
    """A TensorRT whose engines are described so."""
    inspector = SimpleNamespace(get_engine_information=lambda format: account if format == "json" else "")
    engine = SimpleNamespace(create_engine_inspector=lambda: inspector)

    class Logger:
        class Severity:
            INTERNAL_ERROR = ERROR = None

    def runtime(log: Any) -> SimpleNamespace:
        return SimpleNamespace(deserialize_cuda_engine=lambda plan: engine if plan else None)

    api = ModuleType("tensorrt")
    formats = SimpleNamespace(JSON="json")
    vars(api).update(__version__="10.13", ILogger=Logger, Runtime=runtime, LayerInformationFormat=formats)
    return TensorRT("tensorrt", api)


FULL = '{"Layers": [{"Inputs": [{"Format/Datatype": "Row major linear FP32"}]}]}'
HALF = '{"Layers": [{"Inputs": [{"Format/Datatype": "Row major linear FP16 format"}]}]}'
HALF_11 = '{"Layers": [{"Inputs": [{"Format": "Linear", "DataType": "Half"}, {"DataType": "Float"}]}]}'
INT8 = '{"Layers": [{"Inputs": [{"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}]}]}'


@pytest.mark.parametrize(
    ("precision", "account", "passes"),
    [
        ("fp32", FULL, True),
        ("fp16", HALF, True),
        ("fp16", HALF_11, True),
        ("fp16", FULL, False),
        ("int8", INT8, True),
        ("int8", FULL, False),
        ("int8", HALF + FULL, False),
        ("fp16", "{}", True),  # it says nothing
    ],
)
def test_an_engine_that_computes_in_float32_by_its_own_account_is_refused(precision: str, account: str, passes: bool):
    if passes:
        check_layers(saying(account), b"plan", precision)
    else:
        with pytest.raises(DannError, match=f"built an engine in float32 from a graph in {precision}"):
            check_layers(saying(account), b"plan", precision)
