"""From a trained run to a verified bundle.

    run → inference network → ONNX graph in each precision → files of each format → verdict on real images → bundle

What fails its verdict is not in the bundle. Where nothing passes none is written, and an earlier one stays.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dann.export.artefacts import make_artefacts, triton_artefacts
from dann.export.bundle_folder import replacing
from dann.export.engine_target import check_target
from dann.export.formats import OnProgress
from dann.export.judge import Judge, Judged
from dann.export.network import InferenceNetwork, outputs
from dann.export.precisions import OnnxGraphs
from dann.export.provenance import provenance
from dann.export.quantise import Quantised
from dann.export.settings import ExportConfig
from dann.export.verify_images import (
    Sample,
    calibration_images,
    labelled_images,
    sample_images,
    synthetic_images,
    verify_npz,
)
from dann.infer.bundle import MANIFEST, VERIFY, Artefact, Bundle, read_bundle
from dann.infer.errors import DannError, UnavailableError
from dann.infer.tensorrt_names import installed
from dann.infer.verdict import Labelled, run_in_batches
from dann.train.batch_norm import TARGET, single_domain
from dann.train.run_dir import RunDir
from dann.train.settings import TrainConfig
from dann.train.trained import load_trained

_PHOTOS = 32  # that go into the bundle where asked for


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What :func:`export_run` wrote."""

    bundle: Bundle
    judged: tuple[Judged, ...]
    """Every verdict; files of one that failed are not in the bundle."""
    failed: tuple[DannError, ...]
    """Why what is missing beside them could not be made."""
    notes: tuple[str, ...]
    """What a reader of the verdicts should know."""

    @property
    def root(self) -> Path:
        """The bundle's folder."""
        return self.bundle.root

    @property
    def rejected(self) -> tuple[Judged, ...]:
        """The verdicts that failed."""
        return tuple(judged for judged in self.judged if not judged.passed)

    def report(self) -> list[str]:
        """Lines for people: artefacts, verdicts, notes."""
        manifest = self.bundle.manifest
        made = {name: f", made in {judged.seconds:.1f} s" for judged in self.judged for name in judged.files}
        artefacts = [
            f"{artefact.files[0]}: {sum(manifest.files[name].bytes for name in artefact.files):,} bytes, "
            f"{artefact.format}, {artefact.precision}{made.get(artefact.files[0], '')}"
            for artefact in manifest.artefacts
        ]
        return [*artefacts, *(f"verdict on {judged}" for judged in self.judged), *self.notes]


def export_run(
    run: RunDir, config: ExportConfig | None = None, *, out: Path | None = None, on_progress: OnProgress | None = None
) -> Exported:
    """Export the network of ``run`` to the bundle ``out``, by default ``RUN/bundle``, and compare the two.

    What each precision has to reach is in :data:`~dann.infer.verdict.STANDARDS`. A format whose tools are not installed
    is left out and named in :attr:`Exported.failed`, as is what refuses the network. Raises :class:`UsageError` for a
    missing run or images, or an ``out`` that is no bundle, :class:`UnavailableError` where onnxruntime is not
    installed, :class:`DannError` where every verdict fails.
    """
    config = config or ExportConfig()
    if "trt" in config.formats:
        with suppress(UnavailableError):  # which is said when the engines are to be built
            check_target(installed(), config.engine)
    trained_as, classes, trained = load_trained(run)
    preprocess = trained_as.data.preprocess
    sample = sample_images(trained_as, config.verify_data, config.verify_images, option="--verify-data")
    network = single_domain(trained, TARGET)
    reference = InferenceNetwork(network, with_features=True)
    calibration = sample
    if "int8" in config.precisions:
        calibration = calibration_images(trained_as, config.calib, config.calib_images, classes)
    graphs = OnnxGraphs(
        network,
        calibration.images_NHWC,
        {"classes": _json(classes), "preprocess": _json(asdict(preprocess))},
        with_features=config.with_features,
    )
    root = run.bundle if out is None else out
    with replacing(root) as folder:
        judge = Judge(
            folder=folder,
            classes=classes,
            preprocess=preprocess,
            network=reference,
            sample=sample,
            labelled=_labelled(trained_as, config, classes, reference),
            batch=config.batch,
        )
        if not all(np.isfinite(values).all() for values in judge.expected.values()):
            raise DannError(
                f"the network of {run.root} gives no finite numbers: it has diverged; train with a smaller --lr"
            )
        outcome = make_artefacts(graphs, judge, config, on_progress or (lambda phase, done, steps: None))
        kept = outcome.kept
        if not any(artefact.role == "classifier" for artefact in kept):
            raise DannError(
                f"the export does not do what the trained network does: {outcome.judged[0]}; no bundle was written, an "
                "earlier one is kept. Update torch, onnxscript and onnxruntime, or choose another --backbone"
            )
        if "triton" in config.formats:
            kept += triton_artefacts(judge, kept)
        (folder / VERIFY).write_bytes(_verify_npz(judge, kept, config))
        origin = {**provenance(run), "verified_on": sample.to_dict()}
        if "int8" in config.precisions:
            origin |= {"calibrated_on": calibration.to_dict(), "in_float16": list(graphs.quantised().kept)}
        manifest = replace(judge.manifest(kept, VERIFY), provenance=origin)
        (folder / MANIFEST).write_bytes(manifest.to_json())
    return Exported(
        bundle=read_bundle(root),
        judged=tuple(outcome.judged),
        failed=tuple(outcome.failed),
        notes=(
            *_notes(run, sample, config),
            *(_about_int8(graphs.quantised(), calibration) if "int8" in config.precisions else ()),
            *_about_engines(kept),
        ),
    )


def _verify_npz(judge: Judge, kept: list[Artefact], config: ExportConfig) -> bytes:
    """What another machine compares itself with: images, and what each precision answers for them here."""
    photos_NHWC = judge.sample.images_NHWC[: _PHOTOS if config.verify_photos else 0]
    images_NHWC = np.concatenate([synthetic_images(judge.preprocess), photos_NHWC])
    logits = {"fp32": outputs(judge.network, images_NHWC)["logits"]}
    for artefact in kept:
        if (artefact.format, artefact.role) == ("onnx", "classifier") and artefact.precision not in logits:
            [engine] = judge.open([artefact])
            logits[artefact.precision] = run_in_batches(engine.run, images_NHWC, config.batch.opt)["logits"]
            engine.close()
    return verify_npz(images_NHWC, logits)


def _labelled(
    trained_as: TrainConfig, config: ExportConfig, classes: tuple[str, ...], network: InferenceNetwork
) -> Labelled | None:
    if "int8" not in config.precisions:
        return None
    found = labelled_images(trained_as, config.verify_data, classes)
    if found is None:
        return None
    images_NHWC, labels_N = found
    return Labelled(images_NHWC=images_NHWC, labels_N=labels_N, logits_NK=outputs(network, images_NHWC)["logits"])


def _notes(run: RunDir, sample: Sample, config: ExportConfig) -> tuple[str, ...]:
    count, wanted = len(sample.images_NHWC), config.verify_images
    few = f" (up to {wanted} are taken)" if count < wanted else ""
    unfinished = ["the run has not ended: this is its last checkpoint"] if not run.result.exists() else []
    return (f"verified on {count} {sample.origin}{few}", *unfinished)


def _about_int8(quantised: Quantised, calibration: Sample) -> list[str]:
    """What was measured of it."""
    kept = f"; left in float16: {', '.join(quantised.kept)}" if quantised.kept else ""
    images = f"{len(calibration.images_NHWC)} {calibration.origin}"
    return [f"int8: {quantised.layers} layers, calibrated on {images}{kept}"]


def _about_engines(kept: list[Artefact]) -> list[str]:
    """What to know of engines that another TensorRT built than one might think."""
    rtx = [artefact.requires for artefact in kept if artefact.format == "tensorrt-rtx"]
    return [
        f"tensorrt is not installed: the engines are of TensorRT for RTX {needs['tensorrt-rtx']}, for GPUs of compute "
        f"capability {needs['compute_capability']}; others, as 9.0 and 10.0, need tensorrt"
        for needs in rtx[:1]
    ] + ["Triton does not run engines of TensorRT for RTX: its repository has the ONNX models"] * bool(
        rtx and any(artefact.format == "triton" for artefact in kept)
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
