"""What cannot be exported is refused before anything is opened."""

from pathlib import Path

import pytest

import dann.export
from dann.export.settings import BatchRange, EngineConfig, ExportConfig
from dann.infer.errors import UsageError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"formats": ("onx",)}, "unknown export format 'onx'; did you mean 'onnx'"),
        ({"formats": ()}, r"the export formats are \[\]; expected one or more"),
        ({"formats": ("trt", "trt")}, "expected one or more, each once"),
        ({"precisions": ("fp61",)}, "unknown precision 'fp61'; did you mean 'fp16'"),
        ({"precisions": ()}, r"the precisions are \[\]; expected one or more"),
        ({"precisions": ("fp16", "fp16")}, "expected one or more, each once"),
        ({"precisions": ("fp32", "bf16")}, r"bf16 is a precision of the format openvino alone; .* \['onnx'\]"),
        ({"precisions": ("bf16",), "formats": ("openvino",)}, "ask for another one too: fp32,bf16"),
        ({"verify_images": 0}, "0 images asked for the verdict; expected at least 1"),
        ({"calib_images": 0}, "0 images asked for calibration; expected at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, message: str):
    with pytest.raises(UsageError, match=message):
        ExportConfig(**settings)


def test_less_workspace_than_there_can_be_is_refused():
    with pytest.raises(UsageError, match="0 MiB of workspace"):
        EngineConfig(workspace_mib=0)


@pytest.mark.parametrize(("text", "numbers"), [("1:32:64", (1, 32, 64)), ("8", (8, 8, 8)), (" 1 : 2 : 3", (1, 2, 3))])
def test_a_batch_is_three_numbers_or_one(text: str, numbers: tuple[int, ...]):
    batch = BatchRange.parse(text)
    assert (batch.min, batch.opt, batch.max) == numbers


@pytest.mark.parametrize("text", ["", "a", "1:2", "1:2:3:4", "1:-2:3", "1::3", "²"])
def test_what_is_no_batch_is_refused(text: str):
    with pytest.raises(UsageError, match="expected MIN:OPT:MAX, as in 1:32:64"):
        BatchRange.parse(text)


@pytest.mark.parametrize("batch", [(0, 1, 2), (4, 2, 8), (1, 9, 8)])
def test_a_batch_that_makes_no_sense_is_refused(batch: tuple[int, int, int]):
    with pytest.raises(UsageError, match=rf"the batch is {batch[0]}:{batch[1]}:{batch[2]}; expected 1 ≤ MIN"):
        BatchRange(min=batch[0], opt=batch[1], max=batch[2])


def test_a_verdict_is_on_small_batches_the_usual_and_the_largest():
    assert BatchRange().sizes() == (1, 2, 3, 32, 64)
    assert BatchRange(min=8, opt=8, max=256).sizes() == (1, 2, 3, 8, 256)  # for what takes any batch
    assert BatchRange(min=2, opt=2, max=2).sizes(smallest=2) == (2,)
    assert BatchRange(min=3, opt=4, max=8).sizes(smallest=3) == (3, 4, 8)


@pytest.mark.parametrize(
    ("engine", "option"),
    [
        (EngineConfig(gpus=("sm86",)), "--gpu"),
        (EngineConfig(workspace_mib=1), "--workspace-mib"),
        (EngineConfig(hardware_compatible=True), "--hardware-compatible"),
        (EngineConfig(version_compatible=True), "--version-compatible"),
        (EngineConfig(timing_cache=Path("cache")), "--timing-cache"),
    ],
)
def test_options_of_engines_are_refused_where_none_is_built(engine: EngineConfig, option: str):
    with pytest.raises(UsageError, match=f"{option} says how to build engines of TensorRT; .*: add trt"):
        ExportConfig(engine=engine)
    assert ExportConfig(engine=engine, formats=("trt",)).engine == engine


def test_engines_that_refuse_a_single_image_are_refused_for_triton_before_they_are_built():
    with pytest.raises(UsageError, match="the batch is 8:8:16, and Triton may send a single image; .* 1:8:16"):
        ExportConfig(formats=("trt", "triton"), batch=BatchRange(min=8, opt=8, max=16))


@pytest.mark.parametrize("name", dann.export.__all__)
def test_every_public_name_can_be_had(name: str):
    assert getattr(dann.export, name).__name__ == name
