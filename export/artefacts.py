"""Every artefact that was asked for: made, written, judged, and kept or removed."""

import time
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np

from dann.export.first_difference import first_difference
from dann.export.formats import MAKERS, Made, OnProgress
from dann.export.judge import Judge, Judged
from dann.export.network import outputs
from dann.export.precisions import OnnxGraphs
from dann.export.settings import ExportConfig
from dann.export.triton_repository import BACKENDS, write_model
from dann.infer.bundle import Artefact
from dann.infer.errors import DannError, UnavailableError, UsageError

_BLAMED_ON = 8  # images
_LAYER_TOLERANCE = {"fp32": 1e-4, "fp16": 0.02, "int8": 0.2}
"""By precision, how far a layer may be from the trained network before it is named: a share of its largest value."""


@dataclass(frozen=True)
class Outcome:
    """What became of them."""

    judged: list[Judged] = field(default_factory=list)
    """Every verdict; the files of one that failed are removed."""
    failed: list[DannError] = field(default_factory=list)
    """Why what is missing beside them could not be made, or opened."""

    @property
    def kept(self) -> list[Artefact]:
        """What is in the bundle's folder."""
        return [artefact for judged in self.judged if judged.passed for artefact in judged.artefacts]

    def rejected(self, precision: str, split: bool) -> bool:
        """Whether ONNX of this precision, whole or split, failed its verdict."""
        return any(
            not judged.passed
            and (judged.format, judged.precision, len(judged.artefacts) > 1) == ("onnx", precision, split)
            for judged in self.judged
        )


def make_artefacts(graphs: OnnxGraphs, judge: Judge, config: ExportConfig, on_progress: OnProgress) -> Outcome:
    """Every network, whole or as two halves, in every precision and format; ONNX first.

    What failed its verdict as ONNX is not made in another format. Raises :class:`DannError` where ONNX cannot be made,
    :class:`UsageError` for what makes no sense.
    """
    outcome = Outcome()
    splits = (False, True) if config.split else (False,)
    for format in dict.fromkeys(["onnx", *config.formats]):
        for precision, split in product(config.precisions, splits):
            try:
                judged = _make(format, precision, split, graphs, judge, config, on_progress, outcome)
            except DannError as error:
                if format == "onnx" or isinstance(error, UsageError):
                    raise
                outcome.failed.append(error)
                if isinstance(error, UnavailableError):
                    break
                continue
            if judged is not None:
                outcome.judged.append(judged)
    return outcome


def _make(
    name: str,
    precision: str,
    split: bool,
    graphs: OnnxGraphs,
    judge: Judge,
    config: ExportConfig,
    on_progress: OnProgress,
    outcome: Outcome,
) -> Judged | None:
    """The verdict on one network; ``None`` where the format has not the precision, or its graph is not the network."""
    format = MAKERS.get(name)
    if format is None or precision not in format.precisions or outcome.rejected(format.graph(precision), split):
        return None
    start = time.perf_counter()
    made = [
        format.make(role, precision, graph, config, on_progress)
        for role, graph in graphs.graphs(format.graph(precision), split)
    ]
    seconds = time.perf_counter() - start
    judged = replace(_keep(judge, made), seconds=seconds)
    if judged.passed or name != "onnx":
        return judged
    return replace(judged, first_difference=_blame(graphs, precision, split, judge.sample.images_NHWC[:_BLAMED_ON]))


def _keep(judge: Judge, made: list[Made]) -> Judged:
    """Write and judge; what fails is removed again."""
    files = {judge.folder / name: content for each in made for name, content in each.files.items()}
    for path, content in files.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    passed = False
    try:
        judged = judge.judge([each.artefact for each in made])
        passed = judged.passed
        return judged
    finally:
        if not passed:
            for path in files:
                path.unlink()


def _blame(graphs: OnnxGraphs, precision: str, split: bool, images_NHWC: np.ndarray) -> str:
    """The first layer that differs from the trained network."""
    inputs, found = images_NHWC, []
    for (_, graph), module in zip(graphs.graphs(precision, split), graphs.modules("fp32", split=split), strict=True):
        found.append(first_difference(module, graph, inputs, tolerance=_LAYER_TOLERANCE[precision]))
        inputs = outputs(module, inputs)[module.output_names[0]]
    return str(next((each for each in found if each.over), max(found, key=lambda each: each.difference)))


def triton_artefacts(judge: Judge, kept: list[Artefact]) -> list[Artefact]:
    """A repository of the whole classifiers that Triton serves, with the verdicts on the files that it copies."""
    served = []
    for artefact in kept:
        if artefact.role == "classifier" and artefact.format in BACKENDS:
            files = write_model(
                judge.folder / "triton",
                name=f"classifier_{artefact.format}",
                artefact=artefact,
                model=judge.folder / artefact.files[0],
                classes=judge.classes,
                preprocess=judge.preprocess,
                largest=judge.batch.max,
            )
            served.append(replace(artefact, format="triton", files=tuple(f"triton/{file}" for file in files)))
    return served
