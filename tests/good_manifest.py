"""The manifest of a bundle that could be."""

from dann.infer.bundle import Artefact, FileHash, Manifest, TensorSpec
from dann.infer.preprocess import PreprocessSpec

MANIFEST = Manifest(
    classes=("cat", "dog"),
    preprocess=PreprocessSpec(height=8, width=8),
    files={"model.onnx": FileHash(sha256="0" * 64, bytes=451)},
    artefacts=(
        Artefact(
            files=("model.onnx",),
            format="onnx",
            opset=20,
            inputs=(TensorSpec(name="images", dtype="uint8", shape=("batch", 8, 8, 3)),),
            outputs=(TensorSpec(name="probabilities", dtype="float32", shape=("batch", 2)),),
            batch={"min": 1, "opt": 32, "max": None},
            requires={"onnxruntime": ">=1.20"},
            verdict={"max_abs_logit": 1e-6},
        ),
    ),
    provenance={"dann": "0.1.0"},
)
