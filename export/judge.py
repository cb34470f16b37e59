"""Judging what was written: whatever can run on this machine is compared with the trained network, on real images."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from dann.export.network import InferenceNetwork, outputs
from dann.export.settings import BatchRange
from dann.export.verify_images import Sample
from dann.infer.bundle import Artefact, Bundle, Manifest, file_hash
from dann.infer.engine import Chain, Engine, open_artefact
from dann.infer.errors import UnavailableError
from dann.infer.preprocess import PreprocessSpec
from dann.infer.verdict import STANDARDS, Labelled, Verdict, compare

DEVICES = {"onnx": "cpu", "openvino": "cpu", "tensorrt": "cuda:0", "tensorrt-rtx": "cuda:0"}
"""By format, where its artefacts are judged."""

_CASTS = dict.fromkeys((("onnx", "fp16"), ("onnx", "int8")), ", float16 through casts")
"""What an executor does that another one may not."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The whole classifier, or its two halves one after the other, in a format and a precision."""

    artefacts: tuple[Artefact, ...]
    verdict: Verdict | None
    """``None`` for what cannot run on this machine."""
    unverified: str | None = None
    """Why there is no verdict."""
    first_difference: str | None = None
    """Where in the network a failed verdict begins."""
    seconds: float = 0.0
    """What making the files took: exporting, quantising, converting or building."""

    @property
    def passed(self) -> bool:
        """Whether nothing is known to be wrong."""
        return self.verdict is None or self.verdict.passed

    @property
    def format(self) -> str:
        return self.artefacts[0].format

    @property
    def precision(self) -> str:
        return self.artefacts[0].precision

    @property
    def files(self) -> tuple[str, ...]:
        """Of all artefacts."""
        return tuple(name for artefact in self.artefacts for name in artefact.files)

    def __str__(self) -> str:
        names = " + ".join(artefact.files[0] for artefact in self.artefacts)
        said = self.verdict or f"UNVERIFIED: {self.unverified}"
        return f"{names}: {said}" + (f"; {self.first_difference}" if self.first_difference else "")


@dataclass(frozen=True, kw_only=True)
class Judge:
    """What the artefacts of one export are compared with."""

    folder: Path
    """Where they are written."""
    classes: tuple[str, ...]
    preprocess: PreprocessSpec
    network: InferenceNetwork
    sample: Sample
    labelled: Labelled | None
    """For precisions whose accuracy may drop."""
    batch: BatchRange
    expected: dict[str, np.ndarray] = field(init=False)
    """What the trained network answers for the sample."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "expected", outputs(self.network, self.sample.images_NHWC))

    def judge(self, artefacts: Sequence[Artefact]) -> Judged:
        """The verdict on artefacts of which each feeds the next, with it put into them; they may be one."""
        try:
            engines = self.open(artefacts)
        except UnavailableError as error:
            if artefacts[0].format == "onnx":
                raise
            noted = {"unverified": str(error)}
            return Judged(
                artefacts=tuple(replace(artefact, verdict=noted) for artefact in artefacts),
                verdict=None,
                unverified=str(error),
            )
        standard = STANDARDS[artefacts[0].precision]
        chain = Chain(engines)
        try:
            verdict = compare(
                self.expected,
                chain,
                self.sample.images_NHWC,
                executor=chain.description + _CASTS.get((artefacts[0].format, artefacts[0].precision), ""),
                standard=standard,
                batch_sizes=self.batch.sizes(max(artefact.batch["min"] or 1 for artefact in artefacts)),
                labelled=self.labelled if standard.accuracy_drop is not None else None,
            )
        finally:
            for engine in engines:
                engine.close()
        return Judged(
            artefacts=tuple(replace(artefact, verdict=verdict.to_dict()) for artefact in artefacts), verdict=verdict
        )

    def open(self, artefacts: Sequence[Artefact]) -> list[Engine]:
        """Engines for artefacts that are not in a manifest yet."""
        bundle = Bundle(self.folder, self.manifest(artefacts))
        return [open_artefact(bundle, artefact, device=DEVICES[artefact.format]) for artefact in artefacts]

    def manifest(self, artefacts: Sequence[Artefact], *more: str) -> Manifest:
        """Of a bundle of these artefacts, and files that are none."""
        names = [*more, *(name for artefact in artefacts for name in artefact.files)]
        return Manifest(
            classes=self.classes,
            preprocess=self.preprocess,
            files={name: file_hash(self.folder / name) for name in names},
            artefacts=tuple(artefacts),
        )
