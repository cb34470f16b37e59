"""What a training run is made of. ``TrainConfig`` is resolved once, saved as ``config.json``, and rebuilds the run.

A preset (``presets/NAME.toml``) gives the values, ``--config FILE.toml`` overrides it, flags override both.
"""

import dataclasses
import json
import tomllib
import types
import typing
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from dann.infer.errors import UsageError, unknown_name
from dann.infer.preprocess import Interpolation, PreprocessSpec, Resize

Mode = Literal["source", "dann", "target"]
DEFAULT_PRESET = "cars"


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images, and how large the network sees them."""

    source: str = ""
    """Data spec of the labelled source images (the renders)."""
    target: str | None = None
    """Data spec of the unlabelled target images (the photos). Its labels, if any, are read in mode ``target`` only."""
    test: str | None = None
    """Data spec of labelled target images to report accuracy on. ``None``: the target's test split, if it has one."""
    source_test: str | None = None
    """Data spec for source accuracy. ``None``: the source's own test split, else a held-out part of the source."""
    holdout: float = 0.1
    """Share of a source without test split that is held out of training, per class."""
    data_root: str | None = None
    """Where named sets lie. ``None``: ``DANN_DATA``, else the user's cache."""
    layout: Literal["specs", "split"] = "specs"
    """``split`` reads ``train/source``, ``train/target`` and ``test`` under ``data_root`` instead of the specs."""
    height: int = 64
    """Rows of the network's input, in pixels."""
    width: int = 64
    """Columns of the network's input, in pixels."""
    resize: Resize = "stretch"
    interpolation: Interpolation = "area"

    def __post_init__(self) -> None:
        _between("data.holdout", self.holdout, 0.0, 0.5)
        self.preprocess  # noqa: B018  refuses impossible sizes now rather than at the first image

    @property
    def root(self) -> Path | None:
        """``data_root`` as a path."""
        return Path(self.data_root) if self.data_root else None

    @property
    def preprocess(self) -> PreprocessSpec:
        """How every image reaches the network."""
        return PreprocessSpec(
            height=self.height, width=self.width, resize=self.resize, interpolation=self.interpolation
        )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Feature extractor, label classifier, domain classifier."""

    backbone: str = "conv6"
    """One of dann's own networks, or the name of any torchvision classification model."""
    weights: str = "none"
    """``none``: from scratch; ``DEFAULT``: torchvision's pretrained weights; else a safetensors or state-dict file."""
    width: float = 1.0
    """Channel multiplier of dann's own backbones."""
    batch_norm: bool = True
    """Batch normalisation in dann's own backbones (the papers' digit networks have none)."""
    dropout: float = 0.0
    """Dropout probability on the features, and between the layers of the label classifier."""
    normalise: Literal["auto", "half", "imagenet", "instance"] = "auto"
    """Input scaling, inside the network. ``half``: (x − 0.5) / 0.5; ``imagenet``: ImageNet's mean and std;
    ``instance``: each image's own, per channel; ``auto``: ``imagenet`` for torchvision's networks, else ``half``."""
    label_hidden: tuple[int, ...] = (128,)
    """Widths of the hidden layers of the label classifier."""
    domain_hidden: tuple[int, ...] = (128,)
    """Widths of the hidden layers of the domain classifier."""

    def __post_init__(self) -> None:
        _between("model.dropout", self.dropout, 0.0, 0.95)
        _between("model.width", self.width, 0.05, 16.0)
        for name in ("label_hidden", "domain_hidden"):
            for units in getattr(self, name):
                _between(f"model.{name}", units, 1, 65_536)


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """How the weights move."""

    name: Literal["sgd", "adam"] = "adam"
    """``adam`` decouples the weight decay (AdamW)."""
    lr: float = 1e-3
    """Learning rate at the start."""
    lr_schedule: Literal["dann", "constant", "cosine"] = "dann"
    """``dann``: lr / (1 + 10 p)^0.75, the papers'."""
    momentum: float = 0.9
    """Of SGD, and the first beta of Adam."""
    weight_decay: float = 0.0
    clip_norm: float | None = None
    """Largest total gradient norm; ``None`` does not clip."""

    def __post_init__(self) -> None:
        _between("optimiser.lr", self.lr, 1e-9, 100.0)
        _between("optimiser.momentum", self.momentum, 0.0, 0.9999)
        _between("optimiser.weight_decay", self.weight_decay, 0.0, 1.0)
        if self.clip_norm is not None:
            _between("optimiser.clip_norm", self.clip_norm, 1e-9, 1e9)


@dataclass(frozen=True, kw_only=True)
class AdaptConfig:
    """The adversarial part; without effect outside mode ``dann``."""

    lam_schedule: Literal["dann", "constant", "linear"] = "dann"
    """``dann``: 2 / (1 + exp(−10 p)) − 1, the papers'."""
    lam_max: float = 1.0
    """Factor on the schedule. The domain classifier itself always learns at λ = 1."""

    def __post_init__(self) -> None:
        _between("adapt.lam_max", self.lam_max, 0.0, 100.0)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random changes of the training images, drawn anew at each step, the same kinds for both domains."""

    flip: bool = False
    """Mirror left and right with probability one half."""
    shift: float = 0.0
    """Largest shift, as a share of the image's side."""
    scale: float = 0.0
    """Largest relative change of size: 0.2 draws from 0.8 to 1.2."""
    rotate_deg: float = 0.0
    """Largest rotation in degrees."""
    brightness: float = 0.0
    """Largest value added to all channels, of images in [0, 1]."""
    contrast: float = 0.0
    """Largest relative change of contrast around the image's mean."""
    colour: float = 0.0
    """Largest relative gain of a single channel."""
    invert: bool = False
    """Negate the image with probability one half (x → 1 − x)."""
    noise: float = 0.0
    """Standard deviation of Gaussian pixel noise, of images in [0, 1]."""

    def __post_init__(self) -> None:
        _between("augment.shift", self.shift, 0.0, 0.5)
        _between("augment.scale", self.scale, 0.0, 0.9)
        _between("augment.rotate_deg", self.rotate_deg, 0.0, 180.0)
        for name in ("brightness", "contrast", "colour", "noise"):
            _between(f"augment.{name}", getattr(self, name), 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run."""

    mode: Mode = "dann"
    """``source``: labels of the source only; ``dann``: plus adversarial adaptation to the unlabelled target;
    ``target``: the oracle, trained on the target's own labels, and stamped as such on every result."""
    seed: int = 0
    epochs: int = 10
    """Passes over the labelled set."""
    steps: int | None = None
    """Number of optimiser steps; overrides ``epochs``."""
    batch_size: int = 64
    """Images per step and domain."""
    amp: Literal["off", "bf16", "fp16"] = "off"
    """Mixed precision: ``bf16``, or ``fp16`` with loss scaling (needs CUDA)."""
    device: str = "auto"
    """``auto`` takes CUDA where it is usable, else the CPU; ``cpu``; ``cuda``; ``cuda:N``."""
    eval_every: int = 1
    """Epochs between evaluations; 0 evaluates only at the end."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        _between("seed", self.seed, 0, 2**63 - 1)
        _between("epochs", self.epochs, 1, 100_000)
        _between("batch_size", self.batch_size, 2, 65_536)
        _between("eval_every", self.eval_every, 0, 100_000)
        if self.steps is not None:
            _between("steps", self.steps, 1, 10**9)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, as written to ``config.json``."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        """The inverse of :meth:`to_dict`; :class:`UsageError` for an unknown key or a value of the wrong kind."""
        return _build(cls, values, where="")


def resolve(
    preset: str | None = None, file: Path | None = None, overrides: dict[str, Any] | None = None
) -> TrainConfig:
    """Preset, then TOML file, then ``overrides`` with dotted keys (``{"data.source": "mnist"}``); the last one wins."""
    values: dict[str, Any] = {}
    if preset is not None:
        _merge(values, load_preset(preset))
    if file is not None:
        _merge(values, _read_toml(file))
    for dotted, value in (overrides or {}).items():
        for name in reversed(dotted.split(".")):
            value = {name: value}
        _merge(values, value)
    return TrainConfig.from_dict(values)


def preset_names() -> list[str]:
    """The presets that ship with dann, sorted."""
    folder = resources.files("dann.train") / "presets"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_preset(name: str) -> dict[str, Any]:
    """The values of a preset as nested tables; :class:`UsageError` with the nearest name where there is none."""
    if name not in preset_names():
        raise unknown_name("preset", name, preset_names())
    text = (resources.files("dann.train") / "presets" / f"{name}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def to_toml(config: TrainConfig) -> str:
    """The configuration as TOML that ``--config`` reads back; unset values are comments."""
    tables: list[str] = []
    scalars = []
    for key, value in config.to_dict().items():
        if isinstance(value, dict):
            tables += ["", f"[{key}]", *(_toml_line(name, entry) for name, entry in value.items())]
        else:
            scalars.append(_toml_line(key, value))
    return "\n".join(scalars + tables) + "\n"


def _toml_line(key: str, value: Any) -> str:
    if value is None:
        return f"# {key} is not set"
    if isinstance(value, bool):
        return f"{key} = {str(value).lower()}"
    if isinstance(value, str):
        return f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")  # what JSON leaves bare
    return f"{key} = {list(value) if isinstance(value, tuple) else value!r}"


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"configuration {str(file)!r} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"configuration {str(file)!r} is not valid TOML: {error}") from error


def _merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _build(cls: type, values: dict[str, Any], where: str) -> Any:
    """An instance of the dataclass ``cls`` from plain values; ``where`` is the dotted prefix for messages."""
    hints = typing.get_type_hints(cls)
    arguments = {}
    for key, value in values.items():
        if key not in hints:
            raise unknown_name("setting", where + key, [where + name for name in hints])
        hint = hints[key]
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, dict):
                raise UsageError(f"{where}{key} is {value!r}; expected a table of settings")
            arguments[key] = _build(typing.cast(type, hint), value, where=f"{where}{key}.")
        else:
            arguments[key] = _checked(hint, value, where + key)
    return cls(**arguments)


def _checked(hint: Any, value: Any, name: str) -> Any:
    """``value`` if it fits the type hint (numbers widened, lists made tuples), else :class:`UsageError`."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        if value not in typing.get_args(hint):
            raise unknown_name(f"value of {name}", str(value), typing.get_args(hint))
        return value
    if origin is types.UnionType:
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        return _checked(next(option for option in options if option is not type(None)), value, name)
    if origin is tuple and isinstance(value, (list, tuple)):
        element = typing.get_args(hint)[0]
        return tuple(_checked(element, entry, name) for entry in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint not in (int, float, str, bool) or type(value) is not hint:
        raise UsageError(f"{name} is {value!r}; expected {getattr(hint, '__name__', hint)}")
    return value


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # a NaN fails too
        raise UsageError(f"{name} is {value}; expected a value from {low} to {high}")
