"""The repository as Triton reads it: the configuration by Triton's own schema, the model by onnxruntime."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from project import ROOT

from dann.export.triton_repository import write_model
from dann.infer.bundle import Artefact, TensorSpec
from dann.infer.errors import UsageError
from dann.infer.preprocess import PreprocessSpec

schema = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason='needs pip install "tritonclient[grpc]"')
text_format = pytest.importorskip("google.protobuf.text_format")

MODEL = ROOT / "tests" / "infer" / "golden" / "conv.onnx"
CLASSES = ('coupé "GT"', "break: long", "van")
SPEC = PreprocessSpec(height=8, width=8, resize="letterbox")
ONNX = Artefact(
    files=("model.onnx",),
    format="onnx",
    inputs=(TensorSpec(name="images", dtype="uint8", shape=("batch", 8, 8, 3)),),
    outputs=tuple(
        TensorSpec(name=name, dtype="float32", shape=("batch", width))
        for name, width in {"logits": 3, "probabilities": 3, "features": 16}.items()
    ),
    batch={"min": 1, "opt": 32, "max": None},
)
# what a manifest says of an engine of that network, which cannot be built here
ENGINE = replace(
    ONNX, format="tensorrt", files=("model.engine",), precision="fp16", batch={"min": 1, "opt": 8, "max": 24}
)


def write(root: Path, artefact: Artefact = ONNX, *, name: str = "cars", model: Path = MODEL) -> tuple[str, ...]:
    return write_model(root, name=name, artefact=artefact, model=model, classes=CLASSES, preprocess=SPEC, largest=64)


def written(root: Path, artefact: Artefact = ONNX):
    """The configuration that is written, a ModelConfig; a field that the schema does not have is an error."""
    config, *_ = write(root, artefact)
    return text_format.Parse((root / config).read_text(encoding="utf-8"), schema.ModelConfig())


def tensors(entries) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(entry.name, schema.DataType.Name(entry.data_type), tuple(entry.dims)) for entry in entries]


def test_the_configuration_describes_the_artefact(tmp_path: Path):
    config = written(tmp_path)
    assert (config.name, config.backend, config.platform) == ("cars_fp32", "onnxruntime", "")
    assert tensors(config.input) == [("images", "TYPE_UINT8", (8, 8, 3))]
    assert tensors(config.output) == [
        ("logits", "TYPE_FP32", (3,)),
        ("probabilities", "TYPE_FP32", (3,)),
        ("features", "TYPE_FP32", (16,)),
    ]
    assert [output.label_filename for output in config.output] == ["", "labels.txt", ""]
    assert config.max_batch_size == 64 and config.version_policy.latest.num_versions == 1
    assert list(config.dynamic_batching.preferred_batch_size) == [32]
    assert config.dynamic_batching.max_queue_delay_microseconds == 100
    assert [(group.kind, group.count) for group in config.instance_group] == [(schema.ModelInstanceGroup.KIND_AUTO, 1)]
    assert json.loads(config.parameters["preprocess"].string_value) == asdict(SPEC)


def test_the_usual_batch_and_one_image_are_warmed_up(tmp_path: Path):
    warm_up = written(tmp_path).model_warmup
    assert [sample.batch_size for sample in warm_up] == [1, 32] and len({sample.name for sample in warm_up}) == 2
    for sample in warm_up:
        ((name, data),) = sample.inputs.items()
        assert (name, schema.DataType.Name(data.data_type), list(data.dims)) == ("images", "TYPE_UINT8", [8, 8, 3])
        assert data.zero_data


def test_onnxruntime_is_told_what_dann_infer_tells_it(tmp_path: Path):
    config = written(tmp_path)
    (cuda,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert (cuda.name, dict(cuda.parameters)) == ("cuda", {"use_tf32": "0"})
    assert config.parameters["cudnn_conv_algo_search"].string_value == "1"  # HEURISTIC


def test_the_files_are_named_and_are_all_that_is_written(tmp_path: Path):
    root = tmp_path / "triton"
    files = write(root)
    assert files == ("cars_fp32/config.pbtxt", "cars_fp32/labels.txt", "cars_fp32/1/model.onnx")
    assert {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} == set(files)
    assert (root / files[1]).read_bytes() == 'coupé "GT"\nbreak: long\nvan\n'.encode()
    assert (root / files[2]).read_bytes() == MODEL.read_bytes()


def test_the_model_takes_and_gives_what_the_configuration_says(tmp_path: Path):
    config = written(tmp_path)
    model = tmp_path / "cars_fp32" / "1" / "model.onnx"
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for size in (*(sample.batch_size for sample in config.model_warmup), config.max_batch_size):
        images_NHWC = np.zeros((size, *config.input[0].dims), np.uint8)
        answers = session.run([output.name for output in config.output], {config.input[0].name: images_NHWC})
        for output, values in zip(config.output, map(np.asarray, answers), strict=True):
            assert values.shape == (size, *output.dims) and values.dtype == np.float32


def test_an_engine_is_served_by_tensorrt_on_gpus_within_its_batches(tmp_path: Path):
    config = written(tmp_path, ENGINE)
    assert (config.name, config.backend, config.max_batch_size) == ("cars_fp16", "tensorrt", 24)
    assert (tmp_path / "cars_fp16" / "1" / "model.plan").read_bytes() == MODEL.read_bytes()
    assert [group.kind for group in config.instance_group] == [schema.ModelInstanceGroup.KIND_GPU]
    assert list(config.dynamic_batching.preferred_batch_size) == [8]
    assert [sample.batch_size for sample in config.model_warmup] == [1, 8]
    assert config.optimization.cuda.graphs and not config.optimization.HasField("execution_accelerators")


def test_a_model_without_a_limit_has_the_one_that_was_asked_for(tmp_path: Path):
    artefact = replace(ENGINE, format="onnx", batch={"min": 1, "opt": 8, "max": None})
    assert written(tmp_path, artefact).max_batch_size == 64


def test_an_engine_for_one_image_is_warmed_up_once(tmp_path: Path):
    config = written(tmp_path, replace(ENGINE, batch={"min": 1, "opt": 1, "max": 1}))
    assert config.max_batch_size == 1 and [sample.batch_size for sample in config.model_warmup] == [1]


def test_the_same_artefact_gives_the_same_bytes(tmp_path: Path):
    files = write(tmp_path / "one")
    assert write(tmp_path / "two") == files
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)


@pytest.mark.parametrize("name", ["", "a b", "../up", "-x", 'a"b', "größe"])
def test_a_name_that_is_no_folders_is_refused(tmp_path: Path, name: str):
    with pytest.raises(UsageError, match="expected letters, digits"):
        write(tmp_path, name=name)
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_taken_is_refused(tmp_path: Path):
    write(tmp_path)
    with pytest.raises(UsageError, match="has a model 'cars_fp32' already"):
        write(tmp_path)


@pytest.mark.parametrize("format", ["openvino", "tensorrt-rtx"])
def test_what_triton_cannot_load_is_refused(tmp_path: Path, format: str):
    with pytest.raises(UsageError, match=f"model.onnx is of the format '{format}', .* expected one of onnx, tensorrt"):
        write(tmp_path, replace(ONNX, format=format))
    assert not list(tmp_path.iterdir())


def test_an_engine_that_refuses_one_image_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="model.engine takes 2 images or more, and Triton may send one"):
        write(tmp_path, replace(ENGINE, batch={"min": 2, "opt": 8, "max": 24}))
