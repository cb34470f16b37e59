"""From an ONNX file to OpenVINO's own format: the same bytes every time, free of traces of where it was made."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from dann.infer.errors import DannError
from dann.infer.openvino_engine import VERSION, core, openvino, reason


@dataclass(frozen=True, kw_only=True)
class OpenVinoIr:
    """The content of the two files of a network, which have to lie side by side under one stem."""

    xml: bytes
    """The graph."""
    bin: bytes
    """The weights."""


def to_ir(onnx: bytes, *, precision: str) -> OpenVinoIr:
    """The network of an ONNX file's content, with its names of inputs and outputs and its free batch.

    ``onnx`` is the graph in float32 for ``fp32``, ``fp16`` and ``bf16``, that of int8 (QDQ) for ``int8``. With ``fp16``
    the weights are stored in float16; what is computed in is told when the network is opened, so ``bf16`` gives the
    same bytes as ``fp32``. Raises :class:`DannError` where OpenVINO cannot read the graph.
    """
    try:
        model = core().read_model(onnx)
    except RuntimeError as error:
        raise DannError(f"openvino {VERSION} cannot read the exported graph: {reason(error)}") from error
    # a node without a name gets that of a counter, which goes on from one network to the next
    for index, node in enumerate(model.get_ordered_ops()):
        node.set_friendly_name(f"{node.get_type_name()}_{index}")
    with TemporaryDirectory(prefix="dann-openvino-") as folder:
        xml = Path(folder, "model.xml")
        openvino.save_model(model, xml, compress_to_fp16=precision == "fp16")
        return OpenVinoIr(xml=xml.read_bytes(), bin=xml.with_suffix(".bin").read_bytes())
