"""A folder that Triton serves as it is: ``tritonserver --model-repository=BUNDLE/triton``.

    NAME_PRECISION/config.pbtxt   tensors, batching, warm-up, devices, preprocessing
    NAME_PRECISION/labels.txt     class names, one per line, in the order of the probabilities
    NAME_PRECISION/1/model.onnx   a copy of the artefact (an engine is model.plan)

``config.pbtxt`` is the text form of the message ModelConfig, of which JSON's strings and lists are a part.
"""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dann.infer.bundle import Artefact, TensorSpec
from dann.infer.errors import UsageError
from dann.infer.preprocess import PreprocessSpec


@dataclass(frozen=True, kw_only=True)
class _Backend:
    """What Triton runs a format with."""

    name: str
    file: str
    """What it looks for in the folder of a version."""
    kind: str
    """``KIND_AUTO`` is every GPU where there are any, else the CPU."""
    settings: str


BACKENDS = {
    "onnx": _Backend(
        name="onnxruntime",
        file="model.onnx",
        kind="KIND_AUTO",
        # As in dann infer: convolutions chosen without measuring, which is "1" and overwritten where it stands among
        # the accelerator's parameters, and no TF32, as the verdict is on float32.
        settings="""\
optimization { execution_accelerators {
  gpu_execution_accelerator { name: "cuda" parameters { key: "use_tf32" value: "0" } }
} }
parameters { key: "cudnn_conv_algo_search" value { string_value: "1" } }""",
    ),
    "tensorrt": _Backend(
        name="tensorrt",
        file="model.plan",
        kind="KIND_GPU",
        settings="optimization { cuda { graphs: true } }",  # captured at the batches 1, preferred and largest
    ),
}
_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}
_LABELS = "labels.txt"
_QUEUE_DELAY_US = 100


def write_model(
    root: Path,
    *,
    name: str,
    artefact: Artefact,
    model: Path,
    classes: Sequence[str],
    preprocess: PreprocessSpec,
    largest: int,
) -> tuple[str, ...]:
    """Add the model ``NAME_PRECISION`` to the repository ``root``, which need not exist; the files, relative to it.

    ``model`` is the file of ``artefact``; ``largest`` is how many images are computed at once where that has no
    limit of its own. The same arguments give the same bytes. Raises :class:`UsageError` for a name that is no folder's
    or is taken, and for an artefact that Triton cannot serve: of another format than ONNX and TensorRT (an engine of
    TensorRT for RTX is another one), or one that refuses a single image.
    """
    name = f"{name}_{artefact.precision}"
    _check_name(root, name)
    backend = _backend(artefact)
    files = {
        f"{name}/config.pbtxt": _config(name, backend, artefact, preprocess, largest),
        f"{name}/{_LABELS}": "".join(f"{label}\n" for label in classes),
    }
    copy = f"{name}/1/{backend.file}"
    (root / copy).parent.mkdir(parents=True)
    shutil.copyfile(model, root / copy)
    for file, text in files.items():
        (root / file).write_text(text, encoding="utf-8", newline="\n")
    return (*files, copy)


def _check_name(root: Path, name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise UsageError(f"the Triton model is called {name!r}; expected letters, digits, '_', '.' and '-'")
    if (root / name).exists():
        raise UsageError(f"the Triton repository has a model {name!r} already; give each its own name")


def _backend(artefact: Artefact) -> _Backend:
    if artefact.format not in BACKENDS:
        raise UsageError(
            f"{artefact.files[0]} is of the format {artefact.format!r}, which Triton cannot serve; expected one of "
            f"{', '.join(BACKENDS)}"
        )
    if (artefact.batch["min"] or 1) > 1:
        raise UsageError(
            f"{artefact.files[0]} takes {artefact.batch['min']} images or more, and Triton may send one; build it for "
            "batches from 1"
        )
    return BACKENDS[artefact.format]


def _config(name: str, backend: _Backend, artefact: Artefact, preprocess: PreprocessSpec, largest: int) -> str:
    usual = artefact.batch["opt"] or 1
    largest = artefact.batch["max"] or largest
    warm_up = "\n".join(_warm_up(size, artefact.inputs) for size in sorted({1, usual}))
    return f"""\
name: "{name}"
backend: "{backend.name}"
max_batch_size: {largest}
version_policy {{ latest {{ num_versions: 1 }} }}
{_tensors("input", artefact.inputs)}
{_tensors("output", artefact.outputs)}
instance_group {{ count: 1 kind: {backend.kind} }}
dynamic_batching {{ preferred_batch_size: [{usual}] max_queue_delay_microseconds: {_QUEUE_DELAY_US} }}
{warm_up}
{backend.settings}
parameters {{ key: "preprocess" value {{ string_value: {json.dumps(_json(preprocess))} }} }}
"""


def _tensors(field: str, tensors: Sequence[TensorSpec]) -> str:
    labels = {"probabilities": f' label_filename: "{_LABELS}"'}
    return "\n".join(
        f'{field} {{ name: "{tensor.name}" {_type_and_dims(tensor)}{labels.get(tensor.name, "")} }}'
        for tensor in tensors
    )


def _warm_up(size: int, inputs: Sequence[TensorSpec]) -> str:
    zeros = " ".join(
        f'inputs {{ key: "{tensor.name}" value {{ {_type_and_dims(tensor)} zero_data: true }} }}' for tensor in inputs
    )
    return f'model_warmup {{ name: "batch of {size}" batch_size: {size} {zeros} }}'


def _type_and_dims(tensor: TensorSpec) -> str:
    """Without the batch, which Triton adds."""
    return f"data_type: {_TYPES[tensor.dtype]} dims: {list(tensor.shape[1:])}"


def _json(preprocess: PreprocessSpec) -> str:
    return json.dumps(asdict(preprocess), sort_keys=True)
