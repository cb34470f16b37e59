"""The whole way: a trained run becomes a bundle that answers as the network does, or no bundle at all."""

import dataclasses
import json
import re
import resource
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from dann.export import precisions as module
from dann.export.network import InferenceNetwork
from dann.export.onnx_graph import OnnxGraph
from dann.export.run_export import Exported, export_run
from dann.export.settings import BatchRange, EngineConfig, ExportConfig
from dann.infer.bundle import read_bundle, sha256_of
from dann.infer.errors import DannError, UnavailableError, UsageError
from dann.infer.predict import Classifier
from dann.infer.preprocess import load_image
from dann.infer.verify import verify_bundle
from dann.train import checkpoint
from dann.train.batch_norm import SOURCE, TARGET
from dann.train.evaluate import to_float
from dann.train.loop import fit
from dann.train.run_dir import RunDir
from dann.train.settings import ModelConfig
from dann.train.trained import load_trained

SMALL = ExportConfig(precisions=("fp32",), verify_images=4)


def content(folder: Path) -> dict[str, str]:
    return {file.name: sha256_of(file) for file in folder.iterdir()}


def torch_outputs(run: RunDir, images_NHWC: np.ndarray) -> list[np.ndarray]:
    network = InferenceNetwork(load_trained(run)[2], with_features=True).eval()
    with torch.no_grad():
        return [output.numpy() for output in network(torch.from_numpy(images_NHWC))]


def test_bundle_classifies_files_as_the_trained_network_does(run: RunDir, exported: Exported, data: Path):
    files = sorted((data / "photos").iterdir())
    config, classes, _ = load_trained(run)
    images_NHWC = np.stack([load_image(file, config.data.preprocess) for file in files])
    logits_NK, probabilities_NK, features_ND = torch_outputs(run, images_NHWC)
    with Classifier.load(exported.root, device="cpu", batch_size=3) as classifier:
        predictions = list(classifier.predict(files))
    for prediction, probabilities_K, features_D in zip(predictions, probabilities_NK, features_ND, strict=True):
        assert prediction.probabilities is not None and prediction.features is not None
        np.testing.assert_allclose(prediction.probabilities, probabilities_K, rtol=0, atol=1e-5)
        np.testing.assert_allclose(prediction.features, features_D, rtol=0, atol=1e-5)
    assert [p.label for p in predictions] == [classes[best] for best in logits_NK.argmax(1)]


@pytest.mark.parametrize("bn", [pytest.param("shared", marks=pytest.mark.slow), "split", "domain"])
def test_batch_normalisation_of_two_domains_becomes_the_targets(bn: str, configure, data: Path, tmp_path: Path):
    model = ModelConfig(backbone="conv6", width=0.25, bn=bn, label_hidden=(8,))  # type: ignore[arg-type]
    run = fit(configure(model=model), runs=tmp_path).run
    exported = export_run(run, SMALL)
    assert (exported.root / "model.onnx").read_bytes().count(b"running") == 0  # folded into the convolutions
    config, _, network = load_trained(run)
    photos = sorted((data / "photos").iterdir())[:3]
    images_NCHW = to_float(torch.from_numpy(np.stack([load_image(file, config.data.preprocess) for file in photos])))
    with Classifier.load(exported.root, device="cpu") as classifier, torch.no_grad():
        found = np.array([prediction.probabilities for prediction in classifier.predict(photos)])
        np.testing.assert_allclose(found, network(images_NCHW, TARGET).softmax(1).numpy(), rtol=0, atol=1e-5)
        if bn != "shared":
            assert not np.allclose(found, network(images_NCHW, SOURCE).softmax(1).numpy(), rtol=0, atol=1e-4)


def test_the_selected_checkpoint_is_what_is_exported(run: RunDir, tmp_path: Path):
    copy = RunDir(Path(shutil.copytree(run.root, tmp_path / "copy")))
    config, classes, network = load_trained(run)
    network.label_classifier[-1].bias.data += 1.0  # type: ignore[union-attr]
    checkpoint.save_network(copy.selected, network, step=1, classes=classes)
    exported = export_run(copy, SMALL)
    stored = np.load(exported.root / "verify.npz", allow_pickle=False)
    np.testing.assert_allclose(stored["fp32"], torch_outputs(copy, stored["images"])[0], rtol=0, atol=1e-6)
    assert not np.allclose(stored["fp32"], torch_outputs(run, stored["images"])[0])
    origin = exported.bundle.manifest.provenance
    assert (origin["checkpoint"], origin["checkpoint_sha256"]) == ("selected", sha256_of(copy.selected))
    assert copy.has_current_bundle() and not copy.has_older_bundle()
    copy.selected.unlink()
    assert copy.has_older_bundle() and not copy.has_current_bundle()


def test_manifest_describes_every_file(exported: Exported):
    bundle = read_bundle(exported.root)
    assert bundle.manifest == exported.bundle.manifest
    assert bundle.manifest.classes == ("bus", "car")
    roles = ("classifier", "feature_extractor", "label_classifier")
    assert [(artefact.precision, artefact.role) for artefact in bundle.manifest.artefacts] == [
        (precision, role) for precision in ("fp32", "fp16") for role in roles
    ]
    for artefact in bundle.manifest.artefacts:
        assert bundle.file(artefact).read_bytes()
        assert artefact.verdict["passed"] and artefact.verdict["images"] == 16
        assert artefact.batch == {"min": 1, "opt": 32, "max": None}
    whole, extractor, classifier = bundle.manifest.artefacts[:3]
    assert [(a.inputs, a.outputs) for a in bundle.manifest.artefacts[3:]] == [
        (a.inputs, a.outputs) for a in (whole, extractor, classifier)
    ]
    assert [(t.name, t.dtype, t.shape) for t in whole.inputs] == [("images", "uint8", ("batch", 16, 16, 3))]
    assert [(t.name, t.dtype, t.shape) for t in whole.outputs] == [
        ("logits", "float32", ("batch", 2)),
        ("probabilities", "float32", ("batch", 2)),
        ("features", "float32", ("batch", 64)),
    ]
    assert extractor.outputs == whole.outputs[2:] and extractor.inputs == whole.inputs
    assert classifier.inputs == whole.outputs[2:] and classifier.outputs == whole.outputs[:2]
    assert set(content(exported.root)) == {"manifest.json", *bundle.manifest.files}
    named = {name for artefact in bundle.manifest.artefacts for name in artefact.files}
    assert set(bundle.manifest.files) == {"verify.npz", *named}
    for name in bundle.manifest.files:
        assert bundle.checked(name).is_file()


def test_provenance_names_the_training_and_no_path(run: RunDir, exported: Exported):
    origin = exported.bundle.manifest.provenance
    result = json.loads(run.result.read_text())
    assert origin["run"] == "tiny" and origin["mode"] == "dann"
    assert origin["oracle"] is False and origin["simulated_target"] is False
    assert origin["scores"]["source_accuracy"] == result["source"]["accuracy"]
    assert origin["data"] == json.loads(run.config.read_text())["data"]
    assert (origin["checkpoint"], origin["checkpoint_sha256"]) == ("last", sha256_of(run.last))
    history = ("last", "selected", "best_on_test_labels")
    assert [origin["scores"][name] for name in history] == [result[name] for name in history]
    assert set(origin["versions"]) == {"python", "dann", "torch", "onnx", "onnxscript"}
    for file in exported.root.iterdir():
        assert str(run.root.parent.parent).encode() not in file.read_bytes(), file.name


@pytest.mark.slow
def test_two_exports_are_the_same_to_the_last_byte(run: RunDir, exported: Exported, tmp_path: Path):
    export_run(run, ExportConfig(with_features=True, split=True), out=tmp_path / "again")
    assert content(tmp_path / "again") == content(exported.root)


def test_verify_npz_holds_what_the_trained_network_answers(run: RunDir, exported: Exported):
    stored = np.load(exported.root / "verify.npz", allow_pickle=False)
    assert stored["images"].shape == (16, 16, 16, 3) and stored["images"].dtype == np.uint8
    np.testing.assert_allclose(stored["fp32"], torch_outputs(run, stored["images"])[0], rtol=0, atol=1e-6)


def test_report_has_the_artefacts_the_numbers_and_how_few_images(exported: Exported):
    report = exported.report()
    assert re.fullmatch(r"model.onnx: [\d,]+ bytes, onnx, fp32, made in \d+\.\d s", report[0])
    assert re.fullmatch(r"model.fp16.onnx: [\d,]+ bytes, onnx, fp16, made in \d+\.\d s", report[3])
    assert report[6].startswith("verdict on model.onnx: passed, max |Δ logit| ")
    assert "same top-1 on 16 of 16 images, batches 1, 2, 3, 32, 64, onnxruntime" in report[6]
    assert report[7].startswith("verdict on feature_extractor.onnx + label_classifier.onnx: passed,")
    assert report[8].startswith("verdict on model.fp16.onnx: passed,")
    assert report[8].endswith(" on cpu, float16 through casts")
    assert report[9].startswith("verdict on feature_extractor.fp16.onnx + label_classifier.fp16.onnx: passed,")
    assert report[10:] == ["verified on 16 target images (up to 256 are taken)"]


def test_half_precision_is_in_the_graph_and_halves_the_file(exported: Exported):
    for name in ("model", "feature_extractor", "label_classifier"):
        sizes, kinds = [], []
        for suffix in ("", ".fp16"):
            graph = onnx.load(exported.root / f"{name}{suffix}.onnx").graph
            weights = [tensor for tensor in graph.initializer if len(tensor.dims) > 1 and max(tensor.dims) > 3]
            kinds.append({onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in weights})
            sizes.append((exported.root / f"{name}{suffix}.onnx").stat().st_size)
        assert kinds == [{"FLOAT"}, {"FLOAT16"}] and sizes[1] < 0.75 * sizes[0], (name, sizes)


def test_half_precision_alone_can_be_asked_for(run: RunDir, tmp_path: Path):
    exported = export_run(run, ExportConfig(verify_images=4, precisions=("fp16",)), out=tmp_path / "bundle")
    assert set(content(exported.root)) == {"manifest.json", "verify.npz", "model.fp16.onnx"}


def test_default_place_is_in_the_run_and_an_unfinished_run_is_called_so(run: RunDir, tmp_path: Path):
    copy = RunDir(Path(shutil.copytree(run.root, tmp_path / "copy")))
    copy.result.unlink()
    exported = export_run(copy, ExportConfig(verify_images=4))
    assert exported.root == copy.root / "bundle"
    assert [artefact.role for artefact in exported.bundle.manifest.artefacts] == ["classifier", "classifier"]
    assert [tensor.name for tensor in exported.bundle.manifest.artefacts[0].outputs] == ["logits", "probabilities"]
    assert exported.bundle.manifest.provenance["scores"] is None
    assert exported.report()[-2:] == [
        "verified on 4 target images",
        "the run has not ended: this is its last checkpoint",
    ]


def damage(monkeypatch: pytest.MonkeyPatch, role: str, *precisions: str) -> None:
    """Let the exporter add a thousandth (fp32), or what is no number (fp16), to the bias of the last layer."""
    real = module.to_onnx

    def broken(network, example, metadata) -> OnnxGraph:
        graph = real(network, example, metadata)
        if network.role != role:
            return graph
        model = onnx.load_from_string(graph.data)
        name = [node for node in model.graph.node if node.op_type == "Gemm"][-1].input[2]
        bias = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        half = bias.data_type == onnx.TensorProto.FLOAT16
        if ("fp16" if half else "fp32") not in precisions:
            return graph
        values = numpy_helper.to_array(bias) + (np.float16(np.nan) if half else np.float32(1e-3))
        bias.CopyFrom(numpy_helper.from_array(values, name))
        return dataclasses.replace(graph, data=model.SerializeToString())

    monkeypatch.setattr(module, "to_onnx", broken)


def test_where_every_verdict_fails_the_export_stops_and_keeps_the_earlier_bundle(
    run: RunDir, exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    earlier = Path(shutil.copytree(exported.root, tmp_path / "bundle"))
    damage(monkeypatch, "classifier", "fp32", "fp16")
    with pytest.raises(DannError, match=r"model.onnx: FAILED, max .* 1.0e-03 .*no bundle was written") as caught:
        export_run(run, out=earlier)
    assert caught.value.exit_code == 1
    assert content(earlier) == content(exported.root)
    assert list(tmp_path.iterdir()) == [earlier]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("role", "precision", "files"),
    [
        ("classifier", "fp16", {"model.fp16.onnx"}),
        ("label_classifier", "fp32", {"feature_extractor.onnx", "label_classifier.onnx"}),
    ],
)
def test_what_fails_its_verdict_is_not_in_the_bundle(
    run: RunDir, exported: Exported, tmp_path: Path, monkeypatch, role: str, precision: str, files: set[str]
):
    damage(monkeypatch, role, precision)
    rest = export_run(run, ExportConfig(with_features=True, split=True), out=tmp_path / "bundle")
    assert set(content(rest.root)) == set(content(exported.root)) - files
    assert {artefact.files[0] for artefact in rest.bundle.manifest.artefacts} == {
        name for name in content(rest.root) if name.endswith(".onnx")
    }
    [rejected] = rest.rejected
    assert (set(rejected.files), {artefact.precision for artefact in rejected.artefacts}) == (files, {precision})
    assert any(line.startswith(f"verdict on {' + '.join(rejected.files)}: FAILED, ") for line in rest.report())


def test_a_network_that_diverged_is_named_as_such(run: RunDir, exported: Exported, tmp_path: Path):
    copy = RunDir(Path(shutil.copytree(run.root, tmp_path / "diverged")))
    _, classes, network = load_trained(copy)
    with torch.no_grad():
        next(network.label_classifier.parameters()).fill_(torch.nan)
    checkpoint.save_network(copy.selected, network, step=1, classes=classes)
    earlier = Path(shutil.copytree(exported.root, tmp_path / "bundle"))
    with pytest.raises(DannError, match="gives no finite numbers: it has diverged; train with a smaller --lr"):
        export_run(copy, ExportConfig(verify_images=4), out=earlier)
    assert content(earlier) == content(exported.root)


def test_run_without_checkpoint_is_refused(run: RunDir, tmp_path: Path):
    (tmp_path / "config.json").write_bytes(run.config.read_bytes())
    with pytest.raises(UsageError, match="no checkpoint at"):
        export_run(RunDir(tmp_path))


def test_folder_of_somebody_else_is_refused_and_stays(run: RunDir, tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="no bundle's .first: 'notes.txt'"):
        export_run(run, out=tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_name_of_the_verify_data_is_all_that_the_manifest_keeps_of_its_path(run: RunDir, data: Path, tmp_path: Path):
    exported = export_run(
        run, dataclasses.replace(SMALL, verify_data=str(data / "renders"), verify_images=5), out=tmp_path / "bundle"
    )
    assert exported.bundle.manifest.provenance["verified_on"]["data"] == "images of renders"
    assert exported.notes == ("verified on 5 images of renders",)
    assert str(data) not in (exported.root / "manifest.json").read_text()


# other formats ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def everything(run: RunDir, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The run in every format that can be made on a machine without a GPU. Tests must not write to it."""
    pytest.importorskip("tensorrt_rtx", reason='needs TensorRT for RTX: pip install "dann[trt-rtx]"')
    if find_spec("openvino") is None:
        pytest.skip('needs OpenVINO: pip install "dann[openvino]"')
    config = ExportConfig(
        formats=("triton", "openvino", "trt"),
        precisions=("fp32", "fp16", "bf16"),
        batch=BatchRange(min=1, opt=4, max=8),
        verify_photos=True,
    )
    return export_run(run, config, out=tmp_path_factory.mktemp("everything") / "bundle")


def test_every_format_is_in_the_bundle_with_what_it_needs(everything: Exported):
    found = {
        (artefact.format, artefact.precision): (artefact.files[0], artefact.batch, set(artefact.requires))
        for artefact in everything.bundle.manifest.artefacts
    }
    free, bound = {"min": 1, "opt": 4, "max": None}, {"min": 1, "opt": 4, "max": 8}
    gpu = {"tensorrt-rtx", "compute_capability"}
    assert found == {
        ("onnx", "fp32"): ("model.onnx", free, {"onnxruntime"}),
        ("onnx", "fp16"): ("model.fp16.onnx", free, {"onnxruntime"}),
        ("openvino", "fp32"): ("openvino/model.xml", free, {"openvino"}),
        ("openvino", "fp16"): ("openvino/model.fp16.xml", free, {"openvino"}),
        ("openvino", "bf16"): ("openvino/model.bf16.xml", free, {"openvino"}),
        ("tensorrt-rtx", "fp32"): ("model.rtx.engine", bound, gpu),
        ("tensorrt-rtx", "fp16"): ("model.fp16.rtx.engine", bound, gpu),
        ("triton", "fp32"): ("triton/classifier_onnx_fp32/config.pbtxt", free, {"onnxruntime"}),
        ("triton", "fp16"): ("triton/classifier_onnx_fp16/config.pbtxt", free, {"onnxruntime"}),
    }
    assert everything.failed == ()
    on_disk = {file.relative_to(everything.root).as_posix() for file in everything.root.rglob("*") if file.is_file()}
    assert on_disk == {"manifest.json", *everything.bundle.manifest.files}


def test_what_cannot_run_here_is_called_unverified_with_the_reason(everything: Exported):
    for artefact in everything.bundle.manifest.artefacts:
        if artefact.format in ("onnx", "openvino", "triton") and artefact.precision != "bf16":
            assert artefact.verdict["passed"] and artefact.verdict["batch_sizes"] == [1, 2, 3, 4, 8]
        elif artefact.format == "tensorrt-rtx" and "unverified" in artefact.verdict:
            assert artefact.verdict["unverified"].startswith("CUDA does not work here: ")
    lines = "\n".join(everything.report())
    assert "verdict on model.rtx.engine: " in lines and "9.0" in lines and "tensorrt is not installed" in lines


def test_images_of_the_verdict_are_in_the_bundle_only_where_that_was_asked_for(
    everything: Exported, exported: Exported
):
    with np.load(everything.root / "verify.npz") as stored:
        assert len(stored["images"]) == 32 and set(stored.files) == {"images", "fp32", "fp16"}
    with np.load(exported.root / "verify.npz") as stored:
        assert len(stored["images"]) == 16


def test_a_bundle_of_all_formats_is_verified_by_the_runtime_alone(everything: Exported):
    runnable = ("model.onnx", "model.fp16.onnx", "openvino/model.xml", "openvino/model.fp16.xml")
    found = [(checked.name, checked.broken) for checked in verify_bundle(everything.bundle) if checked.verdict]
    assert found[:4] == [(name, False) for name in runnable]


def test_a_bundle_of_all_formats_is_replaced_by_another(everything: Exported, run: RunDir, tmp_path: Path):
    earlier = Path(shutil.copytree(everything.root, tmp_path / "bundle"))
    export_run(run, SMALL, out=earlier)
    assert set(content(earlier)) == {"manifest.json", "verify.npz", "model.onnx"}


def test_a_format_whose_tools_are_missing_is_left_out_and_named(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def missing() -> None:
        raise UnavailableError("not here")

    monkeypatch.setattr("dann.infer.tensorrt_names.installed", missing)
    rest = export_run(run, dataclasses.replace(SMALL, formats=("trt",)), out=tmp_path / "bundle")
    assert set(content(rest.root)) == {"manifest.json", "verify.npz", "model.onnx"}
    assert [str(error) for error in rest.failed] == ["not here"]


# int8 ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quantised(run: RunDir, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The run in int8, halves and all, with labels to lose accuracy on. Tests must not write to it."""
    config = ExportConfig(
        precisions=("fp32", "int8"), split=True, verify_data=str(data / "renders"), calib=str(data / "photos")
    )
    return export_run(run, config, out=tmp_path_factory.mktemp("quantised") / "bundle")


def test_int8_is_calibrated_on_what_was_named_and_says_so(quantised: Exported):
    origin = quantised.bundle.manifest.provenance
    assert origin["calibrated_on"]["data"] == "images of photos" and origin["calibrated_on"]["images"] == 16
    assert origin["verified_on"]["data"] == "images of renders" and origin["in_float16"] == []
    assert quantised.notes[-1] == "int8: 8 layers, calibrated on 16 images of photos"


def test_int8_is_judged_by_the_accuracy_that_it_loses(quantised: Exported):
    by_precision = {
        (artefact.role, artefact.precision): artefact.verdict for artefact in quantised.bundle.manifest.artefacts
    }
    for role in ("classifier", "feature_extractor", "label_classifier"):
        drop = by_precision[role, "int8"]["accuracy_drop"]
        assert drop["images"] == 16 and drop["low"] <= drop["points"] <= drop["high"] <= 100
        assert by_precision[role, "fp32"]["accuracy_drop"] is None
    assert any(" points (95 %: " in line and " on 16 labelled images" in line for line in quantised.report())


def test_int8_weights_are_a_quarter(quantised: Exported):
    size = {name: (quantised.root / name).stat().st_size for name in ("model.onnx", "model.int8.onnx")}
    assert size["model.int8.onnx"] < 0.6 * size["model.onnx"]  # so small a network is half names and shapes
    graph = onnx.load(quantised.root / "model.int8.onnx").graph
    weights = [tensor.data_type for tensor in graph.initializer if len(tensor.dims) > 1 and max(tensor.dims) > 3]
    assert weights.count(onnx.TensorProto.INT8) == 8


# bad input -------------------------------------------------------------------------------------------------------


def test_a_verdict_that_fails_names_the_layer(run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    damage(monkeypatch, "classifier", "fp16")
    rest = export_run(run, ExportConfig(verify_images=4), out=tmp_path / "bundle")
    [rejected] = rest.rejected
    assert rejected.first_difference is not None
    assert rejected.first_difference.startswith("first layer over tolerance: ")
    assert "label_classifier.3 " in rejected.first_difference and "not every value is finite" in str(rejected)
    assert set(content(rest.root)) == {"manifest.json", "verify.npz", "model.onnx"}


def test_a_disk_that_is_full_leaves_the_earlier_bundle(run: RunDir, exported: Exported, tmp_path: Path):
    earlier = Path(shutil.copytree(exported.root, tmp_path / "bundle"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # a file that grows beyond it cannot be written
    try:
        with pytest.raises(DannError, match="bundle' cannot be written: File too large"):
            export_run(run, SMALL, out=earlier)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert content(earlier) == content(exported.root) and list(tmp_path.iterdir()) == [earlier]


def test_an_artefact_that_cannot_be_opened_is_left_out_and_the_rest_is_written(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ir = pytest.importorskip("dann.export.openvino_ir", reason='needs OpenVINO: pip install "dann[openvino]"')
    real = ir.to_ir

    def truncated(onnx: bytes, *, precision: str):
        whole = real(onnx, precision=precision)
        return dataclasses.replace(whole, xml=whole.xml[:-100])

    monkeypatch.setattr(ir, "to_ir", truncated)
    rest = export_run(run, dataclasses.replace(SMALL, formats=("openvino",)), out=tmp_path / "bundle")
    assert "model.xml cannot be loaded by openvino" in str(rest.failed[0])
    assert {artefact.format for artefact in rest.bundle.manifest.artefacts} == {"onnx"}
    assert not any(file.suffix == ".xml" for file in rest.root.rglob("*"))


def test_what_engines_cannot_be_built_for_is_refused_before_anything_is_exported(run: RunDir, monkeypatch):
    pytest.importorskip("tensorrt_rtx", reason='needs TensorRT for RTX: pip install "dann[trt-rtx]"')
    monkeypatch.setattr("dann.export.run_export.load_trained", lambda run: pytest.fail("it began"))
    for engine, message in [
        (EngineConfig(gpus=("sm90",)), "unknown GPU 'sm90'"),
        (EngineConfig(version_compatible=True), "no --version-compatible engines"),
        (EngineConfig(timing_cache=Path("cache")), "leave --timing-cache out"),
    ]:
        with pytest.raises(UsageError, match=message):
            export_run(run, ExportConfig(formats=("trt",), engine=engine))
