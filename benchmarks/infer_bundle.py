"""Networks with random weights as bundles, for ``benchmarks/infer.py``: weights do not change how long a network takes.

Beside each bundle goes the same network without its first layers, as ONNX that takes what pipelines of PyTorch make:
float32 (N, 3, H, W), normalised.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dann.export.formats import MAKERS, Made
from dann.export.network import ExportedModule
from dann.export.onnx_graph import OnnxGraph, to_onnx
from dann.export.precisions import OnnxGraphs
from dann.export.quantise import quantise
from dann.export.settings import ExportConfig
from dann.infer.bundle import MANIFEST, Manifest, file_hash
from dann.infer.errors import UnavailableError
from dann.infer.preprocess import PreprocessSpec
from dann.train.model import DomainAdversarialNetwork
from dann.train.settings import ModelConfig

CLASSES = tuple(f"class {index}" for index in range(10))
FLOATS = "floats.onnx"


class FromFloats(ExportedModule):
    """Images float32 (N, 3, H, W) → probabilities float32 (N, K)."""

    output_names = ("probabilities",)

    def __init__(self, network: DomainAdversarialNetwork):
        super().__init__()
        self.feature_extractor = network.feature_extractor[1:]  # the first one normalises
        self.label_classifier = network.label_classifier

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.label_classifier(self.feature_extractor(images)).softmax(dim=1),)


def export_bundle(backbone: str, size_px: int, precisions: Sequence[str], images_NHWC: np.ndarray, root: Path) -> Path:
    """A bundle of ``backbone`` in the folder ``root``: ONNX, and OpenVINO where that is installed.

    ``precisions`` are some of ``fp32``, ``fp16`` and ``int8``, which is calibrated on ``images_NHWC``: uint8 RGB, of
    that size.
    """
    torch.manual_seed(0)
    config = ModelConfig(backbone=backbone)
    network = DomainAdversarialNetwork(config, classes=len(CLASSES), height=size_px, width=size_px).eval()
    graphs = OnnxGraphs(network, images_NHWC, {}, with_features=False)
    root.mkdir(parents=True)
    files: dict[str, bytes] = {}
    artefacts = []
    for name in ("onnx", "openvino"):
        for precision in precisions:
            try:
                made = _made(name, precision, graphs, images_NHWC)
            except UnavailableError:
                continue
            artefacts.append(made.artefact)
            files |= made.files
    for name, content in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(content)
    manifest = Manifest(
        classes=CLASSES,
        preprocess=PreprocessSpec(height=size_px, width=size_px),
        files={name: file_hash(root / name) for name in files},
        artefacts=tuple(artefacts),
    )
    (root / MANIFEST).write_bytes(manifest.to_json())
    (root / FLOATS).write_bytes(to_onnx(FromFloats(network), torch.zeros(2, 3, size_px, size_px), {}).data)
    return root


def _made(format: str, precision: str, graphs: OnnxGraphs, images_NHWC: np.ndarray) -> Made:
    graph = _graph(MAKERS[format].graph(precision), graphs, images_NHWC)
    return MAKERS[format].make("classifier", precision, graph, ExportConfig(), lambda phase, done, steps: None)


def _graph(precision: str, graphs: OnnxGraphs, images_NHWC: np.ndarray) -> OnnxGraph:
    if precision == "int8":  # all layers: with random weights there is no accuracy to be kept
        return quantise(_graph("fp16", graphs, images_NHWC), images_NHWC)
    [(_, graph)] = graphs.graphs(precision, False)
    return graph
