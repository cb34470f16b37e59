"""``dann bench`` as a library: what is measured, what the limits are, and what cannot run."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Lock
from time import sleep

import numpy as np
import pytest

from dann.infer import bench, bench_images
from dann.infer.bench import bench_bundle
from dann.infer.bench_images import write_photo_like
from dann.infer.bench_result import Bench, DecodeTime, EngineTime, Limit, NotRun, Place, table
from dann.infer.bundle import Bundle, file_hash, read_bundle
from dann.infer.cores import cpu_name, usable_cores
from dann.infer.errors import DannError, UnavailableError, UsageError
from dann.infer.preprocess import decode
from dann.infer.timing import Timing, timed

pytest.importorskip("onnxruntime", reason="needs an ONNX Runtime: dann[cpu] or dann[gpu]")

CPU = Place(engine="ort", precision="fp32", device="cpu", file="model.onnx")
GPU = replace(CPU, engine="trt", device="cuda:0", file="model.engine")


def quick(bundle: Path | Bundle, **options) -> Bench:
    bundle = bundle if isinstance(bundle, Bundle) else read_bundle(bundle)
    return bench_bundle(bundle, seconds=0.01, **options)


def changed(bundle: Path, **artefact) -> Bundle:
    """``bundle``, whose one artefact says otherwise."""
    manifest = read_bundle(bundle).manifest
    return Bundle(bundle, replace(manifest, artefacts=(replace(manifest.artefact(), **artefact),)))


# ---- what is measured -----------------------------------------------------------------------------------------------


def test_every_batch_size_and_number_of_threads_is_timed(bundle: Path, pictures: Path):
    found = quick(bundle, images=pictures, batch_sizes=[5, 2], threads=[2, 1])
    assert [(time.threads, time.batch) for time in found.engines] == [(1, 2), (1, 5), (2, 2), (2, 5)]
    for time in found.engines:
        assert time.place == CPU and time.batches >= 3 * time.at_once
        assert 0 < time.p50_ms <= time.p95_ms <= time.p99_ms
        assert time.images_per_second > 0
    assert {time.at_once for time in found.engines if time.threads == 1} == {1}
    assert {time.at_once for time in found.engines if time.threads == 2} == {min(2, usable_cores())}
    assert [time.threads for time in found.decode] == [1, 2]


def test_numbers_are_of_batches_and_of_images(bundle: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch):
    calls = [number / 1000 for number in range(1, 102)]
    monkeypatch.setattr(bench, "timed", lambda call, **_: Timing(calls_s=calls, per_second=20))
    [time] = quick(bundle, images=pictures, batch_sizes=[5], threads=[1]).engines
    assert [time.p50_ms, time.p95_ms, time.p99_ms] == pytest.approx([51, 96, 100])
    assert (time.batches, time.images_per_second) == (101, 100)


def test_the_limit_is_that_of_the_best_of_each(bundle: Path, pictures: Path):
    found = quick(bundle, images=pictures, batch_sizes=[2, 4])
    [limit] = found.limits
    assert limit.decode == max(time.images_per_second for time in found.decode)
    assert limit.engine == max(time.images_per_second for time in found.engines)
    assert 1 / limit.joint == pytest.approx(1 / limit.decode + 1 / limit.engine)
    assert limit.share == limit.end_to_end / limit.joint > 0
    assert (limit.batch, limit.workers) == (8, usable_cores())


def test_by_default_it_draws_images_and_takes_one_thread_and_all(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench_images, "_DRAWN_IMAGES", 2)
    found = quick(bundle)
    assert found.images.startswith("2 drawn JPEGs of 640 x 480, as no --images were named, ")
    counts = sorted({1, usable_cores()})
    assert [(time.threads, time.batch) for time in found.engines] == [(c, n) for c in counts for n in (1, 8, 32)]


def test_default_batch_sizes_keep_within_what_the_network_takes(bundle: Path, pictures: Path):
    fixed = changed(bundle, batch={"min": 4, "opt": 4, "max": 4})
    assert {time.batch for time in quick(fixed, images=pictures).engines} == {4}


def test_images_that_cannot_be_read_are_left_out(bundle: Path, pictures: Path):
    assert quick(bundle, images=pictures).images.startswith(f"6 of 9 images at {str(pictures)!r}, ")


def test_of_many_images_some_from_all_over_are_taken(bundle: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench_images, "_MOST_IMAGES", 5)
    assert quick(bundle, images=pictures).images.startswith("4 of 9 images at ")  # every second, one is bad


def test_callers_are_at_work_at_once():
    lock, inside, most = Lock(), 0, 0

    def call() -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        sleep(0.01)
        with lock:
            inside -= 1

    found = timed(call, at_once=3, seconds=0.1)
    assert most == 3 and len(found.calls_s) >= 9
    assert 0 < found.per_second < 300 and min(found.calls_s) >= 0.01


# ---- what cannot run ------------------------------------------------------------------------------------------------


def test_a_device_that_is_not_there_gives_a_reason(bundle: Path, pictures: Path):
    found = quick(bundle, images=pictures, batch_sizes=[1])
    if len(found.limits) == 1:
        [missing] = found.not_run
        assert str(missing).startswith("not run: model.onnx on cuda:0: ") and not missing.broken


def test_a_batch_size_that_the_network_does_not_take_gives_a_reason(bundle: Path, pictures: Path):
    limited = changed(bundle, batch={"min": 1, "opt": 4, "max": 4})
    found = quick(limited, images=pictures, batch_sizes=[2, 64])
    assert {time.batch for time in found.engines} == {2}
    assert "not run: model.onnx on cpu, batch 64: it takes 1 to 4" in map(str, found.not_run)


def test_where_nothing_can_run_it_says_why(bundle: Path, pictures: Path):
    with pytest.raises(UnavailableError, match=r"can run here: not run: model.onnx on cpu: .* needs onnxruntime 99;"):
        quick(changed(bundle, requires={"onnxruntime": "99"}), images=pictures)


def test_what_should_run_and_does_not_is_broken_and_the_others_are_measured(bundle: Path, pictures: Path):
    manifest = read_bundle(bundle).manifest
    (bundle / "second.onnx").write_bytes((bundle / "model.onnx").read_bytes())
    second = replace(manifest.artefact(), files=("second.onnx",), precision="fp16")
    files = {**manifest.files, "second.onnx": file_hash(bundle / "second.onnx")}
    both = Bundle(bundle, replace(manifest, files=files, artefacts=(manifest.artefact(), second)))
    (bundle / "model.onnx").write_bytes(b"hello world")
    found = quick(both, images=pictures)
    assert [(limit.place.file, limit.place.precision) for limit in found.limits] == [("second.onnx", "fp16")]
    assert found.broken and "SHA-256 differs" in str(found.broken[0])
    assert {limit.place.precision for limit in quick(both, images=pictures, precision="fp16").limits} == {"fp16"}


def test_an_engine_that_gives_up_is_broken(bundle: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise DannError("out of memory")

    monkeypatch.setattr("dann.infer.ort_engine.OrtEngine.run", fail)
    found = quick(bundle, images=pictures)
    assert not found.engines and "BROKEN: model.onnx on cpu: out of memory" in map(str, found.not_run)


def test_an_image_that_goes_bad_meanwhile_is_told(bundle: Path, tmp_path: Path, draw, monkeypatch: pytest.MonkeyPatch):
    image = draw(tmp_path / "a.png")
    measured = bench._engine_time

    def spoil(*arguments) -> EngineTime:
        image.write_bytes(b"")
        return measured(*arguments)

    monkeypatch.setattr(bench, "_engine_time", spoil)
    assert "which was not so before" in str(quick(bundle, images=image, engine="ort").broken[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "onnx"}, r"unknown engine 'onnx'; .*Known: openvino, ort, trt, trt-rtx"),
        ({"engine": "openvino"}, r"has no openvino/classifier artefact; it has: onnx/fp32/classifier"),
        ({"engine": "ort", "precision": "fp16"}, "has no onnx/fp16/classifier artefact"),
        ({"precision": "fp23"}, "unknown precision 'fp23'; did you mean 'fp32'?"),
        ({"batch_sizes": [0]}, "batch sizes to measure with are 0; expected 1 to 1024 each"),
        ({"threads": [1, 2000]}, "threads to measure with are 1, 2000; expected 1 to 1024 each"),
        ({"images": "nowhere"}, "no such file or folder: 'nowhere'"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict, message: str, bundle: Path):
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        quick(bundle, **options)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), 1e9])
def test_a_time_that_makes_no_sense_is_refused(seconds: float, bundle: Path):
    with pytest.raises(UsageError, match="expected more than 0, and at most 3600"):
        bench_bundle(read_bundle(bundle), seconds=seconds)


def test_images_of_which_none_can_be_read_are_refused(bundle: Path, tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DannError, match="none of 1 images can be read; the first: 'a.png' "):
        quick(bundle, images=tmp_path / "a.png")


# ---- what it looks like ---------------------------------------------------------------------------------------------


@pytest.fixture
def result() -> Bench:
    time = EngineTime(
        place=CPU, threads=1, batch=8, at_once=1, batches=40, p50_ms=20, p95_ms=25, p99_ms=30, images_per_second=390
    )
    limit = Limit(place=CPU, decode=600, engine=1200, joint=400, end_to_end=380, batch=8, workers=2)
    return Bench(
        machine="dann 1",
        cpu="A CPU (AVX2)",
        gpus=("cuda:0 Fast",),
        packages={"numpy": "2"},
        date="2026-12-01",
        seconds=1.0,
        images="64 images",
        decode=(DecodeTime(threads=2, images_per_second=600),),
        engines=(time, replace(time, place=GPU, threads=None)),
        limits=(limit,),
        not_run=(NotRun(place=GPU, batch=9, reason="it takes 1 to 8", broken=False),),
    )


def test_tables_have_a_row_for_each(result: Bench):
    lines = result.lines()
    assert lines[:3] == ["dann 1", "A CPU (AVX2); cuda:0 Fast", "64 images"]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert ["ort", "fp32", "cpu", "1", "8", "1", "40", "20.00", "25.00", "30.00", "390.0"] in cells
    assert ["trt", "fp32", "cuda:0", "–", "8", "1", "40", "20.00", "25.00", "30.00", "390.0"] in cells
    assert ["ort", "fp32", "cpu", "600.0", "1,200.0", "400.0", "380.0", "0.95"] in cells
    assert lines[-1] == "not run: model.engine on cuda:0, batch 9: it takes 1 to 8"


def test_json_has_everything(result: Bench, tmp_path: Path):
    result.write(tmp_path / "bench.json")
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["engines"][1]["place"] == {
        "engine": "trt",
        "precision": "fp32",
        "device": "cuda:0",
        "file": "model.engine",
    }
    assert found["limits"][0]["share"] == pytest.approx(0.95) and found["packages"] == {"numpy": "2"}


def test_columns_of_a_table_stand_below_each_other():
    assert table(["a", "long"], [["wide cell", "1"]]) == [
        "| a         | long |",
        "|-----------|------|",
        "| wide cell | 1    |",
    ]


def test_on_a_gpu_the_slower_of_the_two_is_the_limit(bundle: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch):
    """The CPU stands in for it."""
    opened: Callable = bench.open_artefact
    monkeypatch.setattr(bench, "open_artefact", lambda *given, device, **more: opened(*given, device="cpu", **more))
    monkeypatch.setattr(bench, "DEVICES", {"onnx": ("cuda:0",)})
    found = quick(bundle, images=pictures)
    assert {time.threads for time in found.engines} == {None}
    assert found.limits[0].joint == min(found.limits[0].decode, found.limits[0].engine)


# ---- what it is measured on -----------------------------------------------------------------------------------------


def test_drawn_images_are_the_same_ones_each_time_and_as_large_as_photos(tmp_path: Path):
    for name in "ab":
        (tmp_path / name).mkdir()
        write_photo_like(tmp_path / name, 3, spread=0.1)
    first, again = ([path.read_bytes() for path in sorted((tmp_path / name).iterdir())] for name in "ab")
    assert first == again and len(set(first)) == 3
    shapes = [decode(data).shape for data in first]
    assert len(set(shapes)) == 3 and all(432 <= height <= 528 and 576 <= width <= 704 for height, width, _ in shapes)
    assert 55_000 < np.mean([len(data) for data in first]) < 95_000


def test_the_processor_is_named():
    assert cpu_name().strip()
