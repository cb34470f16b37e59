"""The formats of a bundle: what is made from the network's ONNX graphs, one function each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dann.export.onnx_graph import OnnxGraph
from dann.export.settings import ExportConfig
from dann.infer.bundle import Artefact
from dann.infer.errors import missing_extra

OnProgress = Callable[[str, int, int], None]
"""Told a phase, its steps done and all its steps."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """An artefact, and the content of its files by name."""

    artefact: Artefact
    files: dict[str, bytes]


@dataclass(frozen=True, kw_only=True)
class Format:
    """How one format is made."""

    precisions: tuple[str, ...]
    """Which it has."""
    graph: Callable[[str], str]
    """Of which precision the graph has to be."""
    make: Callable[[str, str, OnnxGraph, ExportConfig, OnProgress], Made]
    """From role, precision and graph. Raises :class:`UnavailableError` where its tools are not installed, and
    :class:`DannError` where they refuse the graph."""


def _onnx(role: str, precision: str, graph: OnnxGraph, config: ExportConfig, on_progress: OnProgress) -> Made:
    file = f"{_stem(role, precision)}.onnx"
    batch = {"min": 1, "opt": config.batch.opt, "max": None}
    # older ones compute int8 with scales in float16 wrongly
    needs = {"onnxruntime": ">=1.30" if precision == "int8" else ">=1.21"}
    artefact = _artefact("onnx", role, precision, graph, (file,), batch, needs)
    return Made(artefact=artefact, files={file: graph.data})


def _openvino(role: str, precision: str, graph: OnnxGraph, config: ExportConfig, on_progress: OnProgress) -> Made:
    try:
        from dann.export.openvino_ir import to_ir
    except ModuleNotFoundError as error:
        raise missing_extra("openvino", "openvino", "writing OpenVINO's format") from error
    ir = to_ir(graph.data, precision=precision)
    stem = f"openvino/{_stem(role, precision)}"
    files = {f"{stem}.xml": ir.xml, f"{stem}.bin": ir.bin}
    batch = {"min": 1, "opt": config.batch.opt, "max": None}
    needs = {"openvino": ">=2025.0"}
    return Made(artefact=_artefact("openvino", role, precision, graph, tuple(files), batch, needs), files=files)


def _tensorrt(role: str, precision: str, graph: OnnxGraph, config: ExportConfig, on_progress: OnProgress) -> Made:
    from dann.export.engine_builder import build_engine
    from dann.infer.tensorrt_names import installed

    trt = installed()
    built = build_engine(
        trt, graph.data, precision=precision, batch=config.batch, config=config.engine, on_progress=on_progress
    )
    file = f"{_stem(role, precision)}.{'trt' if trt.name == 'tensorrt' else 'rtx'}.engine"
    batch = {"min": config.batch.min, "opt": config.batch.opt, "max": config.batch.max}
    artefact = _artefact(trt.name, role, precision, graph, (file,), batch, built.requires)
    return Made(artefact=artefact, files={file: built.plan})


MAKERS = {
    "onnx": Format(precisions=("fp32", "fp16", "int8"), graph=lambda precision: precision, make=_onnx),
    "openvino": Format(
        precisions=("fp32", "fp16", "bf16", "int8"),
        graph=lambda precision: "int8" if precision == "int8" else "fp32",  # the rest is chosen when it is opened
        make=_openvino,
    ),
    "trt": Format(precisions=("fp32", "fp16", "int8"), graph=lambda precision: precision, make=_tensorrt),
}


def _stem(role: str, precision: str) -> str:
    name = "model" if role == "classifier" else role
    return name if precision == "fp32" else f"{name}.{precision}"


def _artefact(
    format: str,
    role: str,
    precision: str,
    graph: OnnxGraph,
    files: tuple[str, ...],
    batch: Mapping[str, int | None],
    requires: dict[str, str],
) -> Artefact:
    return Artefact(
        files=files,
        format=format,
        role=role,
        precision=precision,
        opset=graph.opset,
        inputs=graph.inputs,
        outputs=graph.outputs,
        batch=dict(batch),
        requires=requires,
    )
