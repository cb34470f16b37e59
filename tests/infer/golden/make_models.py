"""Remakes the two ONNX models beside this file: ``python tests/infer/golden/make_models.py`` (needs the onnx
package).

They are kept as bytes because the tests of the runtime run where the onnx package is not installed.

    colour.onnx   3 classes; the answer is the channel with the largest mean, which can be worked out by hand.
    conv.onnx     3 classes; convolutions and a matrix product with seeded weights: what networks are made of.

Both: images uint8 (batch, 8, 8, 3) → logits, probabilities, features float32 (batch, 3 or 16).
"""

from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

HERE = Path(__file__).parent
SIDE, CLASSES = 8, 3


def colour_model() -> ModelProto:
    """features = mean over height and width / 255, in [0, 1]; logits = 8 · features."""
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "height_and_width"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "white"], ["features"]),
        helper.make_node("Mul", ["features", "sharpness"], ["logits"]),
    ]
    constants = {
        "height_and_width": np.array([1, 2], np.int64),
        "white": np.float32(255),
        "sharpness": np.float32(8),
    }
    return _model("colour", nodes, constants, features=3)


def conv_model() -> ModelProto:
    """Two 3×3 convolutions with ReLU, global average pooling, one linear layer; weights drawn with seed 0."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["pixels_NCHW"], perm=[0, 3, 1, 2]),
        helper.make_node("Div", ["pixels_NCHW", "white"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "weight_1"], ["conv_1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv_1"], ["relu_1"]),
        helper.make_node("Conv", ["relu_1", "weight_2"], ["conv_2"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv_2"], ["relu_2"]),
        helper.make_node("GlobalAveragePool", ["relu_2"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("Gemm", ["features", "weight_3"], ["logits"]),
    ]
    constants = {
        "white": np.float32(255),
        "weight_1": rng.normal(0, 0.3, (16, 3, 3, 3)).astype(np.float32),
        "weight_2": rng.normal(0, 0.2, (16, 16, 3, 3)).astype(np.float32),
        "weight_3": rng.normal(0, 1, (16, CLASSES)).astype(np.float32),
    }
    return _model("conv", nodes, constants, features=16)


def _model(name: str, nodes: list[NodeProto], constants: dict[str, np.ndarray], features: int) -> ModelProto:
    nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1))
    widths = {"logits": CLASSES, "probabilities": CLASSES, "features": features}
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", n]) for output, n in widths.items()],
        [numpy_helper.from_array(np.asarray(value), constant) for constant, value in constants.items()],
    )
    # the opset that dann exports, and the oldest file format that carries it
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    for model in (colour_model(), conv_model()):
        (HERE / f"{model.graph.name}.onnx").write_bytes(model.SerializeToString(deterministic=True))
