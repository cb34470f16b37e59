"""From a trained run to a verified bundle.

    run → inference network → ONNX in each precision → verdict on real images → bundle

What fails its verdict is not in the bundle. Where nothing passes none is written, and an earlier one stays.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dann.export.bundle_folder import VERIFY, replacing
from dann.export.network import ExportedModule, FeatureExtractor, InferenceNetwork, LabelClassifier
from dann.export.onnx_graph import OnnxGraph, to_onnx
from dann.export.parity import Verdict, compare, outputs
from dann.export.precisions import STANDARDS, check_precisions, in_precision
from dann.export.provenance import provenance
from dann.export.verify_images import Sample, synthetic_images, verify_npz, verify_sample
from dann.infer.bundle import MANIFEST, Artefact, Bundle, Manifest, read_bundle
from dann.infer.errors import DannError, UnavailableError, UsageError, missing_extra, unknown_name
from dann.infer.preprocess import PreprocessSpec
from dann.train.batch_norm import TARGET, single_domain
from dann.train.run_dir import RunDir
from dann.train.trained import load_trained

if TYPE_CHECKING:
    from dann.export.ort_chain import OrtChain

FORMATS = ("onnx", "openvino", "triton", "trt")
_NAMES = {"classifier": "model"}  # of files; others are called as their role
_BATCH = {"min": 1, "opt": 32, "max": None}
_REQUIRES = {"onnxruntime": ">=1.21"}


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The verdict on the whole classifier, or on its two halves one after the other, in a precision."""

    files: tuple[str, ...]
    precision: str
    verdict: Verdict

    def __str__(self) -> str:
        return f"{' + '.join(self.files)}: {self.verdict}"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What :func:`export_run` wrote."""

    bundle: Bundle
    judged: tuple[Judged, ...]
    """Every verdict; files of one that failed are not in the bundle."""
    notes: tuple[str, ...]
    """What a reader of the verdicts should know."""

    @property
    def root(self) -> Path:
        """The bundle's folder."""
        return self.bundle.root

    @property
    def rejected(self) -> tuple[Judged, ...]:
        """The verdicts that failed."""
        return tuple(judged for judged in self.judged if not judged.verdict.passed)

    def report(self) -> list[str]:
        """Lines for people: artefacts, verdicts, notes."""
        artefacts = [
            f"{artefact.file}: {artefact.bytes:,} bytes, {artefact.precision}, opset {artefact.opset}"
            for artefact in self.bundle.manifest.artefacts
        ]
        return [*artefacts, *(f"verdict on {judged}" for judged in self.judged), *self.notes]


def export_run(
    run: RunDir,
    *,
    format: str = "onnx",
    precisions: Sequence[str] = ("fp32", "fp16"),
    out: Path | None = None,
    with_features: bool = False,
    split: bool = False,
    verify_data: str | None = None,
    images: int = 256,
) -> Exported:
    """Export the network of ``run`` to the bundle ``out``, by default ``RUN/bundle``, and compare the two.

    ``precisions`` are those of :data:`~.precisions.STANDARDS`, which says what each has to reach. ``with_features``
    adds the output ``features``; ``split`` adds feature extractor and label classifier as two more graphs. The verdict
    is on up to ``images`` images of ``verify_data``, by default the run's target, else its source. Raises
    :class:`UsageError` for an unknown format or precision, a missing run or images, or an ``out`` that is no bundle,
    :class:`UnavailableError` for what is not installed or not built, :class:`DannError` where every verdict fails.
    """
    _check_format(format)
    check_precisions(precisions)
    if images < 1:
        raise UsageError(f"{images} images asked for the verdict; expected at least 1")
    config, classes, trained = load_trained(run)
    preprocess = config.data.preprocess
    sample = verify_sample(config, verify_data, images)
    reference = InferenceNetwork(trained, with_features=True)
    expected = outputs(reference, sample.images_NHWC)
    if not all(np.isfinite(values).all() for values in expected.values()):
        raise DannError(
            f"the network of {run.root} gives no finite numbers: it has diverged; train with a smaller --lr"
        )
    metadata = {"classes": _json(classes), "preprocess": _json(asdict(preprocess))}

    root = run.bundle if out is None else out
    artefacts: list[Artefact] = []
    judged: list[Judged] = []
    with replacing(root) as folder:
        for precision in precisions:
            network = in_precision(single_domain(trained, TARGET), precision)
            chains: list[list[ExportedModule]] = [[InferenceNetwork(network, with_features=with_features)]]
            if split:
                chains.append([FeatureExtractor(network), LabelClassifier(network)])
            for modules in chains:
                written, verdict = _write_verified(folder, modules, precision, metadata, expected, sample)
                artefacts += written
                judged.append(verdict)
        if not any(artefact.role == "classifier" for artefact in artefacts):
            raise DannError(
                f"the export does not do what the trained network does: {judged[0]}; no bundle was written, an "
                "earlier one is kept. Update torch, onnxscript and onnxruntime, or choose another --backbone"
            )
        verify = _write_verify(folder, reference, preprocess)
        manifest = Manifest(
            classes=classes,
            preprocess=preprocess,
            artefacts=tuple(artefacts),
            provenance={**provenance(run), "verified_on": sample.to_dict(), "verify": verify},
        )
        # the name of a folder of images may not be UTF-8
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8", errors="backslashreplace")
    return Exported(bundle=read_bundle(root), judged=tuple(judged), notes=_notes(run, sample, images))


def _check_format(name: str) -> None:
    if name not in FORMATS:
        raise unknown_name("export format", name, FORMATS)
    if name != "onnx":
        raise UnavailableError(f"this version of dann does not build {name!r}; it builds --format onnx")


def _write_verified(
    folder: Path,
    modules: Sequence[ExportedModule],
    precision: str,
    metadata: dict[str, str],
    expected: dict[str, np.ndarray],
    sample: Sample,
) -> tuple[list[Artefact], Judged]:
    """Write each module, which feeds the next, as ONNX, and judge them as one chain; files that fail are removed."""
    inputs = torch.from_numpy(sample.images_NHWC.take(range(2), axis=0, mode="wrap"))
    artefacts, files = [], []
    for module in modules:
        graph = to_onnx(module, inputs, metadata)
        file = folder / f"{_NAMES.get(module.role, module.role)}{'' if precision == 'fp32' else f'.{precision}'}.onnx"
        file.write_bytes(graph.data)
        files.append(file)
        artefacts.append(_artefact(file.name, module.role, precision, graph))
        with torch.inference_mode():
            inputs = module(inputs)[0]
    chain = _open_chain(files)
    executor = chain.executor + (", float16 through casts" if precision == "fp16" else "")
    verdict = compare(expected, chain, sample.images_NHWC, executor=executor, standard=STANDARDS[precision])
    judged = Judged(files=tuple(file.name for file in files), precision=precision, verdict=verdict)
    if not verdict.passed:
        for file in files:
            file.unlink()
        return [], judged
    return [replace(artefact, verdict=verdict.to_dict()) for artefact in artefacts], judged


def _artefact(file: str, role: str, precision: str, graph: OnnxGraph) -> Artefact:
    return Artefact(
        file=file,
        sha256=hashlib.sha256(graph.data).hexdigest(),
        bytes=len(graph.data),
        format="onnx",
        role=role,
        precision=precision,
        opset=graph.opset,
        inputs=graph.inputs,
        outputs=graph.outputs,
        batch=_BATCH,
        requires=_REQUIRES,
    )


def _open_chain(files: Sequence[Path]) -> "OrtChain":
    try:
        from dann.export.ort_chain import OrtChain
    except ModuleNotFoundError as error:
        raise missing_extra("cpu", "onnxruntime", "comparing the export with the trained network") from error
    return OrtChain(files)


def _write_verify(folder: Path, reference: InferenceNetwork, preprocess: PreprocessSpec) -> dict[str, Any]:
    """Write ``verify.npz``; what the manifest says of it."""
    images_NHWC = synthetic_images(preprocess)
    data = verify_npz(images_NHWC, outputs(reference, images_NHWC)["logits"])
    (folder / VERIFY).write_bytes(data)
    return {"file": VERIFY, "sha256": hashlib.sha256(data).hexdigest(), "images": len(images_NHWC)}


def _notes(run: RunDir, sample: Sample, wanted: int) -> tuple[str, ...]:
    count = len(sample.images_NHWC)
    few = f" (up to {wanted} are taken)" if count < wanted else ""
    unfinished = ["the run has not ended: this is its last checkpoint"] if not run.result.exists() else []
    return (f"verified on {count} {sample.origin}{few}", *unfinished)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
