"""From a PyTorch module to one ONNX file: checked, free of traces of where it was made, the same bytes every time."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import onnx
import torch
from google.protobuf.message import Message
from torch import Tensor, nn
from torch.export import ExportedProgram

from dann.export.network import ExportedModule
from dann.infer.bundle import TensorSpec
from dann.infer.errors import DannError

OPSET = 20
_OLDER_OPSET = 18  # what exporters write that cannot convert to 20
BATCH = "batch"
_LARGEST_BYTES = 2**31 - 2**24  # protobuf holds 2 GiB; the graph itself needs a little of it


@dataclass(frozen=True, kw_only=True)
class OnnxGraph:
    """An ONNX file's content, and what it says of itself."""

    data: bytes
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    program: ExportedProgram = field(repr=False, compare=False)
    """The operations that were written, by the names that their values have in the file."""


def to_onnx(network: ExportedModule, example: Tensor, metadata: Mapping[str, str]) -> OnnxGraph:
    """Export ``network``, in evaluation mode, with a free batch dimension.

    ``example`` is an input of batch 2: exporters take a batch of 1 for a constant. ``metadata`` is stored in the file.
    Raises :class:`DannError` where the network has an operation that ONNX lacks, or the result is not what was asked.
    """
    _check_size(network)
    # with weights in channels-last order the pooling layer is exported as a gather over computed indices, not as a mean
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    exported = _export(network.eval(), example, network.output_names)
    model = exported.model_proto
    _strip(model)
    onnx.helper.set_model_props(model, dict(sorted(metadata.items())))
    check(model)
    return OnnxGraph(
        data=model.SerializeToString(deterministic=True),
        opset=_opset(model),
        inputs=tuple(_tensor_spec(value) for value in model.graph.input),
        outputs=tuple(_tensor_spec(value) for value in model.graph.output),
        program=exported.exported_program,  # pyright: ignore[reportArgumentType]  # it has one with dynamo
    )


def _export(network: nn.Module, example: Tensor, output_names: tuple[str, ...]) -> torch.onnx.ONNXProgram:
    try:
        with _silence():
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                external_data=False,
                opset_version=OPSET,
                output_names=output_names,
                dynamic_shapes=({0: torch.export.Dim(BATCH, min=1)},),
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise DannError(
            f"this network cannot be written as ONNX: {_reason(error)}; choose another --backbone"
        ) from error
    assert program is not None
    return program


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """The exporter prints, logs and warns of its own internals; what matters of it is checked afterwards."""
    disabled = logging.root.manager.disable
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.callback(logging.disable, disabled)
        logging.disable(logging.CRITICAL)
        yield


def _reason(error: BaseException) -> str:
    """The first line of what the exporter stumbled over, which it wraps in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _strip(message: Message) -> None:
    """Take away names of source files, stack traces and other notes of the exporter, at every depth."""
    for name in ("metadata_props", "doc_string"):
        if name in message.DESCRIPTOR.fields_by_name:
            message.ClearField(name)
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            for child in [value] if isinstance(value, Message) else value:
                _strip(child)


def check(model: onnx.ModelProto) -> None:
    """Raise :class:`DannError` for what an exporter may do silently, and must not."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise DannError(f"the exported graph is not valid ONNX: {error}") from error
    if _opset(model) not in (OPSET, _OLDER_OPSET):
        raise DannError(f"the exporter wrote opset {_opset(model)}; expected {OPSET} or {_OLDER_OPSET}")
    foreign = sorted({node.domain for node in model.graph.node} - {"", "ai.onnx"})
    if foreign or model.functions:
        raise DannError(f"the exported graph has operations outside ONNX {foreign}; choose another --backbone")
    if any(tensor.external_data for tensor in model.graph.initializer):
        raise DannError("the exporter put weights outside the file; expected a single file")
    for value in (*model.graph.input, *model.graph.output):
        if _tensor_spec(value).shape[0] != BATCH:
            raise DannError(f"the exported graph has a fixed batch: {value.name} is {_tensor_spec(value).shape}")


def _check_size(network: nn.Module) -> None:
    size = sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
    if size > _LARGEST_BYTES:
        raise DannError(
            f"the network has {size} bytes of weights, one ONNX file holds {_LARGEST_BYTES}; "
            "choose a smaller --backbone"
        )


def _opset(model: onnx.ModelProto) -> int:
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def _tensor_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    return TensorSpec(
        name=value.name,
        dtype=str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)),
        shape=tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim),
    )
