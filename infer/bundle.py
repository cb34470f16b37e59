"""The bundle: a folder with everything inference needs, described by ``manifest.json`` (schema 1).

    manifest.json   classes, preprocessing, the hash of every file, one entry per artefact, provenance
    model.onnx      images: uint8 (N, H, W, 3) RGB → logits, probabilities: float32 (N, K) [→ features (N, D)]
    …               more artefacts: other precisions, other formats
    verify.npz      images, and what each precision answered for them where the bundle was made

Writer and reader stand side by side, so the format changes in one place; ``docs/bundle.md`` describes it. A file is
hashed before it is parsed; a manifest is data: no pickle, no eval, no path that leaves the folder.
"""

import hashlib
import json
import os
import re
import unicodedata
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from dann.infer.errors import DannError, UsageError
from dann.infer.json_schema import check
from dann.infer.preprocess import PreprocessSpec

SCHEMA = 1
MANIFEST = "manifest.json"
VERIFY = "verify.npz"

_ZEROS = "0" * 64


class BundleError(DannError):
    """The bundle is damaged, incomplete, or was written by a newer dann."""


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output of an artefact."""

    name: str
    dtype: str
    """NumPy name of the element type: ``uint8``, ``float32``."""
    shape: tuple[int | str, ...]
    """The first is free, and the batch: ``("batch", 64, 64, 3)``."""


@dataclass(frozen=True, kw_only=True)
class FileHash:
    """What a file of the bundle has to be."""

    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """One network of the bundle, ready for one kind of runtime."""

    files: tuple[str, ...]
    """Names of its files, relative to the bundle; the first is the one to open."""
    format: str
    """``onnx``, ``openvino``, ``tensorrt``, ``tensorrt-rtx`` or ``triton``."""
    role: str = "classifier"
    """``classifier`` is the whole network; ``feature_extractor`` and ``label_classifier`` are its two
    halves."""
    precision: str = "fp32"
    opset: int | None = None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: dict[str, int | None]
    """Smallest, usual and largest batch: ``min``, ``opt``, ``max``; ``None`` for the largest is no limit."""
    requires: dict[str, str] = field(default_factory=dict)
    """What running it needs, by name: ``{"onnxruntime": ">=1.20"}``."""
    verdict: dict[str, Any] = field(default_factory=dict)
    """How it was compared with the trained model: numbers, images, batch sizes, executor; or why it was not:
    ``{"unverified": "…"}``."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What ``manifest.json`` says."""

    classes: tuple[str, ...]
    """Class names in the order of the network's outputs."""
    preprocess: PreprocessSpec
    files: dict[str, FileHash]
    """Every file of the bundle but the manifest."""
    artefacts: tuple[Artefact, ...]
    provenance: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise BundleError(f"the manifest's classes are {list(self.classes)}; expected two or more different names")
        if not all(is_one_line(name) for name in self.classes):
            raise BundleError(f"the manifest's classes are {list(self.classes)}; expected names that can be printed")
        for name in self.files:
            if not is_plain_relative(name):
                raise BundleError(f"the manifest names {name!r}, which is not a path inside the bundle")
        for artefact in self.artefacts:
            if not artefact.files or not self.files.keys() >= set(artefact.files):
                raise BundleError(f"the manifest has no hash of an artefact's files {list(artefact.files)}")
            limits = [artefact.batch[name] for name in ("min", "opt", "max")]
            if limits != sorted(limits, key=lambda limit: limit or float("inf")):
                raise BundleError(f"the manifest has the batch {artefact.batch}; expected min ≤ opt ≤ max")

    def artefact(self, *, format: str = "onnx", precision: str | None = None, role: str = "classifier") -> Artefact:
        """The artefact of that format, precision and role; :class:`UsageError` listing what there is.

        Without ``precision`` that in float32, else the first.
        """
        fitting = [
            a for a in self.artefacts if (a.format, a.role, precision or a.precision) == (format, role, a.precision)
        ]
        if fitting:
            return min(fitting, key=lambda artefact: artefact.precision != "fp32")
        have = ", ".join(f"{a.format}/{a.precision}/{a.role}" for a in self.artefacts) or "none"
        asked = "/".join(name for name in (format, precision, role) if name)
        raise UsageError(f"the bundle has no {asked} artefact; it has: {have}. Export it first")

    def to_json(self) -> bytes:
        """The manifest as UTF-8 JSON, keys in a fixed order, sealed by its own hash, ending in a newline.

        Raises :class:`ValueError` for a number that is not finite, as JSON has none.
        """
        tree = {"manifest_sha256": _ZEROS, "schema": self.schema, **asdict(self)}
        text = json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        # a name that is not UTF-8 becomes a JSON escape
        return sealed(text.encode("utf-8", "backslashreplace"))

    @classmethod
    def from_json(cls, data: bytes, *, where: str = MANIFEST) -> "Manifest":
        """Parse and check; ``where`` names the file in messages. Raises :class:`BundleError`."""
        try:
            tree = json.loads(str(data, "utf-8"), parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{where} is not JSON ({error}); re-export the bundle") from error
        if not isinstance(tree, dict) or type(tree.get("schema")) is not int:
            raise BundleError(f"{where} has no schema number; it is not a dann manifest")
        if not 1 <= tree["schema"] <= SCHEMA:
            raise BundleError(
                f"{where} has schema {tree['schema']}, this dann reads {SCHEMA}; upgrade dann or re-export"
            )
        if not _is_sealed(data, tree.get("manifest_sha256")):
            raise BundleError(
                f"{where} is not as it was written (its own SHA-256 differs); copy the bundle again or re-export"
            )
        try:
            check(tree, _schema(), _schema(), "the manifest")
        except ValueError as error:
            raise BundleError(f"{where} has a missing or wrong field ({error}); re-export the bundle") from error
        return cls(
            schema=tree["schema"],
            classes=tuple(tree["classes"]),
            preprocess=PreprocessSpec(**tree["preprocess"]),
            files={name: FileHash(**entry) for name, entry in tree["files"].items()},
            artefacts=tuple(map(_artefact, tree["artefacts"])),
            provenance=tree["provenance"],
        )


@cache
def _schema() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("manifest.schema.json").read_text("utf-8"))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def sealed(unsealed: bytes) -> bytes:
    """The manifest with its own SHA-256 in the place of the first 64 zeros, with which that is taken.

    Against accidents: whoever changes a manifest on purpose can seal it again.
    """
    return unsealed.replace(_ZEROS.encode(), hashlib.sha256(unsealed).hexdigest().encode(), 1)


def _is_sealed(manifest: bytes, stated: object) -> bool:
    if not isinstance(stated, str) or not re.fullmatch("[0-9a-f]{64}", stated):
        return False
    return hashlib.sha256(manifest.replace(stated.encode(), _ZEROS.encode(), 1)).hexdigest() == stated


def _artefact(entry: dict[str, Any]) -> Artefact:
    tensors = {
        side: tuple(TensorSpec(**{**tensor, "shape": tuple(tensor["shape"])}) for tensor in entry[side])
        for side in ("inputs", "outputs")
    }
    return Artefact(**{**entry, **tensors, "files": tuple(entry["files"])})


@dataclass(frozen=True)
class Bundle:
    """A bundle folder whose manifest was read and checked."""

    root: Path
    manifest: Manifest

    def file(self, artefact: Artefact) -> Path:
        """Where the artefact's first file lies, all of them checked as :meth:`checked` does."""
        return [self.checked(name) for name in artefact.files][0]

    def checked(self, name: str) -> Path:
        """Where a file of the manifest lies, its size and SHA-256 checked; raises :class:`BundleError`."""
        path, expected = self.root / name, self.manifest.files[name]
        if not os.path.isfile(path):
            raise BundleError(f"{path} is named in the manifest but missing; copy the whole bundle or re-export")
        if path.stat().st_size != expected.bytes or sha256_of(path) != expected.sha256:
            raise BundleError(
                f"{path} is not the file that was exported (SHA-256 differs from the manifest's); "
                "copy the bundle again or re-export"
            )
        return path


def read_bundle(root: Path | str) -> Bundle:
    """Read ``root/manifest.json``.

    Raises :class:`UsageError` where there is no bundle, :class:`BundleError` where it is damaged or too new.
    Model files are not opened here: :meth:`Bundle.file` hashes one before it is used.
    """
    root = Path(root)
    path = root / MANIFEST
    if not os.path.isfile(path):
        raise UsageError(f"no bundle at {str(root)!r}: {MANIFEST} is missing; `dann export` writes one")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}; check its permissions") from error
    return Bundle(root, Manifest.from_json(data, where=str(path)))


def file_hash(path: Path) -> FileHash:
    """Of a file that was just written."""
    return FileHash(sha256=sha256_of(path), bytes=path.stat().st_size)


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_one_line(name: str) -> bool:
    """Whether ``name`` can be shown and written as text in one line: not blank, nothing that controls or breaks it."""
    return bool(name.strip()) and not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name)


def is_plain_relative(name: str) -> bool:
    """Whether ``name`` is a relative ``/``-separated path without ``.``, ``..``, drive or backslash."""
    return bool(re.fullmatch(r"[^/\\:\0]+(/[^/\\:\0]+)*", name)) and not {".", ".."} & set(name.split("/"))
