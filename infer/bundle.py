"""The bundle: a folder with everything inference needs, described by ``manifest.json`` (schema 1).

    manifest.json   classes, preprocessing, one entry per artefact, provenance
    model.onnx      images: uint8 (N, H, W, 3) RGB → logits, probabilities: float32 (N, K) [→ features (N, D)]

Writer and reader stand side by side, so the format changes in one place. A file is hashed before it is
parsed; a manifest is data: no pickle, no eval, no path that leaves the folder.
"""

import hashlib
import json
import os
import re
import unicodedata
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dann.infer.errors import DannError, UsageError
from dann.infer.preprocess import PreprocessSpec

SCHEMA = 1
MANIFEST = "manifest.json"


class BundleError(DannError):
    """The bundle is damaged, incomplete, or was written by a newer dann."""


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output of an artefact."""

    name: str
    dtype: str
    """NumPy name of the element type: ``uint8``, ``float32``."""
    shape: tuple[int | str, ...]
    """A string stands for a free dimension, always the batch: ``("batch", 64, 64, 3)``."""


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """One model file of the bundle."""

    file: str
    """Name of the file, relative to the bundle."""
    sha256: str
    bytes: int
    format: str
    """``onnx``; other formats name themselves."""
    role: str = "classifier"
    """``classifier`` is the whole network; ``feature_extractor`` and ``label_classifier`` are its two
    halves."""
    precision: str = "fp32"
    opset: int | None = None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: dict[str, int | None]
    """Smallest, usual and largest batch: ``min``, ``opt``, ``max``; ``None`` is no limit."""
    requires: dict[str, str] = field(default_factory=dict)
    """What running it needs, by name: ``{"onnxruntime": ">=1.20"}``."""
    verdict: dict[str, Any] = field(default_factory=dict)
    """How it was compared with the trained model: numbers, images, batch sizes, executor."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What ``manifest.json`` says."""

    classes: tuple[str, ...]
    """Class names in the order of the network's outputs."""
    preprocess: PreprocessSpec
    artefacts: tuple[Artefact, ...]
    provenance: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise BundleError(f"the manifest's classes are {list(self.classes)}; expected two or more different names")
        if not all(is_one_line(name) for name in self.classes):
            raise BundleError(f"the manifest's classes are {list(self.classes)}; expected names that can be printed")
        for artefact in self.artefacts:
            if not is_plain_relative(artefact.file):
                raise BundleError(f"artefact file {artefact.file!r} is not a path inside the bundle")

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

    def to_json(self) -> str:
        """The manifest as UTF-8 JSON text, keys in a fixed order, ending in a newline."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str = MANIFEST) -> "Manifest":
        """Parse and check; ``where`` names the file in messages. Raises :class:`BundleError`."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{where} is not JSON ({error}); re-export the bundle") from error
        if not isinstance(data, dict) or type(data.get("schema")) is not int:
            raise BundleError(f"{where} has no schema number; it is not a dann manifest")
        if not 1 <= data["schema"] <= SCHEMA:
            raise BundleError(
                f"{where} has schema {data['schema']}, this dann reads {SCHEMA}; upgrade dann or re-export"
            )
        try:
            return cls(
                schema=data["schema"],
                classes=tuple(_typed(name, str) for name in _typed(data["classes"], list)),
                preprocess=PreprocessSpec(**data["preprocess"]),
                artefacts=tuple(_artefact(entry) for entry in _typed(data["artefacts"], list)),
                provenance=_typed(data["provenance"], dict),
            )
        except (KeyError, TypeError, UsageError) as error:
            raise BundleError(f"{where} has a missing or wrong field ({error}); re-export the bundle") from error


def _artefact(entry: dict[str, Any]) -> Artefact:
    for name, kind in _ARTEFACT_TYPES.items():
        if name in entry:
            _typed(entry[name], kind)
    for limit in entry["batch"].values():
        _typed(limit, int | None)
    return Artefact(**{**entry, "inputs": _tensors(entry["inputs"]), "outputs": _tensors(entry["outputs"])})


_ARTEFACT_TYPES = {
    **dict.fromkeys(("file", "sha256", "format", "role", "precision"), str),
    **dict.fromkeys(("batch", "requires", "verdict"), dict),
    **dict.fromkeys(("inputs", "outputs"), list),
    "bytes": int,
    "opset": int | None,
}


def _tensors(entries: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            name=_typed(entry["name"], str),
            dtype=_typed(entry["dtype"], str),
            shape=tuple(_typed(side, int | str) for side in _typed(entry["shape"], list)),
        )
        for entry in entries
    )


def _typed(value: Any, kind: Any) -> Any:
    """``value``; :class:`TypeError` where it is not of that type."""
    if not isinstance(value, kind):
        raise TypeError(f"{value!r:.80} is not of type {getattr(kind, '__name__', kind)}")
    return value


@dataclass(frozen=True)
class Bundle:
    """A bundle folder whose manifest was read and checked."""

    root: Path
    manifest: Manifest

    def file(self, artefact: Artefact) -> Path:
        """Where the artefact lies, its size and SHA-256 checked; raises :class:`BundleError`."""
        path = self.root / artefact.file
        if not os.path.isfile(path):
            raise BundleError(f"{path} is named in the manifest but missing; copy the whole bundle or re-export")
        if path.stat().st_size != artefact.bytes or sha256_of(path) != artefact.sha256:
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
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}; check its permissions") from error
    except UnicodeDecodeError as error:
        raise BundleError(f"{path} is not UTF-8 text; re-export the bundle") from error
    return Bundle(root, Manifest.from_json(text, where=str(path)))


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_one_line(name: str) -> bool:
    """Whether ``name`` can be shown and written as text in one line: not blank, nothing that controls or breaks it."""
    return bool(name.strip()) and not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name)


def is_plain_relative(name: str) -> bool:
    """Whether ``name`` is a relative ``/``-separated path without ``..``, drive or backslash."""
    return bool(re.fullmatch(r"[^/\\:\0]+(/[^/\\:\0]+)*", name)) and ".." not in name.split("/")
