"""What a training run is made of: frozen settings, each refusing what is impossible or contradicts another.

Where their values come from (presets, methods, TOML files, flags) is :mod:`dann.train.config`.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dann.infer.errors import UsageError
from dann.infer.preprocess import Decoding, Interpolation, PreprocessSpec, Resize
from dann.train.plain_values import build

Mode = Literal["source", "dann", "target"]


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
    decode: Decoding = "full"
    """``reduced`` decodes large JPEGs at a fraction of their size, here and wherever the network is used: faster, and
    not quite the same pixels."""

    def __post_init__(self) -> None:
        between("data.holdout", self.holdout, 0.0, 0.5)
        between("data.height", self.height, 1, 8192)
        between("data.width", self.width, 1, 8192)
        self.preprocess  # noqa: B018  refuses impossible sizes now rather than at the first image

    @property
    def root(self) -> Path | None:
        """``data_root`` as a path."""
        return Path(self.data_root) if self.data_root else None

    @property
    def preprocess(self) -> PreprocessSpec:
        """How every image reaches the network."""
        return PreprocessSpec(
            height=self.height,
            width=self.width,
            resize=self.resize,
            interpolation=self.interpolation,
            decode=self.decode,
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
    bn: Literal["shared", "split", "domain"] = "split"
    """Batch normalisation while adapting. ``shared``: one pass over both domains, mixed statistics; ``split``:
    statistics per domain; ``domain``: statistics, scale and shift per domain (arXiv 1906.03950)."""
    pool: Literal["average", "none", "max"] = "average"
    """What ends ``conv6`` and ``conv9``: the mean over space, every position by itself, or every position after one
    more halving."""
    bottleneck: int | None = None
    """Features that a linear layer, batch normalisation and ReLU make of the backbone's; both classifiers see only
    these, and they are what is adapted. ``None``: the backbone's own."""
    dropout: float = 0.0
    """Dropout probability on the features, and between the layers of the label classifier."""
    stage_dropout: float | None = None
    """Dropout probability between the stages of ``conv6`` and ``conv9``; ``None``: the same as ``dropout``."""
    mix_style: int = 0
    """Stages of ``conv6`` and ``conv9``, from the first, after which images of a batch mix their styles while they are
    learnt on (MixStyle, arXiv 2104.02008). The last stage does not count."""
    normalise: Literal["auto", "half", "imagenet", "instance", "local-contrast"] = "auto"
    """Input scaling, inside the network. ``half``: (x − 0.5) / 0.5; ``imagenet``: ImageNet's mean and std;
    ``instance``: each image's own, per channel; ``local-contrast``: each pixel by what surrounds it, so that light and
    paint matter less than shape; ``auto``: ``imagenet`` for torchvision's networks, else ``half``."""
    label_hidden: tuple[int, ...] = (128,)
    """Widths of the hidden layers of the label classifier."""
    domain_hidden: tuple[int, ...] = (128,)
    """Widths of the hidden layers of the domain classifier."""

    def __post_init__(self) -> None:
        between("model.dropout", self.dropout, 0.0, 0.95)
        if self.stage_dropout is not None:
            between("model.stage_dropout", self.stage_dropout, 0.0, 0.95)
        between("model.mix_style", self.mix_style, 0, 3)
        between("model.width", self.width, 0.05, 16.0)
        if self.bottleneck is not None:
            between("model.bottleneck", self.bottleneck, 1, 65_536)
        for name in ("label_hidden", "domain_hidden"):
            for units in getattr(self, name):
                between(f"model.{name}", units, 1, 65_536)


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """How the weights move."""

    name: Literal["sgd", "adam"] = "adam"
    """``adam`` decouples the weight decay (AdamW)."""
    lr: float = 1e-3
    """Learning rate at the start."""
    lr_schedule: Literal["dann", "constant", "cosine"] = "dann"
    """``dann``: lr / (1 + 10 p)^0.75, the papers'."""
    lr_warmup: float = 0.0
    """Share of training over which the learning rate first rises from 0; wide layers behind a new backbone need it."""
    momentum: float = 0.9
    """Of SGD, and the first beta of Adam."""
    weight_decay: float = 0.0
    clip_norm: float | None = None
    """Largest total gradient norm; ``None`` does not clip."""
    stepped: Literal["step", "epoch"] = "step"
    """How often the learning rate follows its schedule."""
    head_lr_factor: float = 1.0
    """Learning rate of both classifiers relative to the backbone's; 10 is usual where the backbone is pretrained."""
    freeze: tuple[str, ...] = ()
    """Parts that do not learn, by the beginning of their parameters' names; ``backbone`` is all of it."""
    ema: float = 0.0
    """Decay per step of the averaged weights that are evaluated and exported; 0 uses the weights themselves."""

    def __post_init__(self) -> None:
        between("optimiser.lr", self.lr, 1e-9, 100.0)
        between("optimiser.lr_warmup", self.lr_warmup, 0.0, 1.0)
        between("optimiser.momentum", self.momentum, 0.0, 0.9999)
        between("optimiser.weight_decay", self.weight_decay, 0.0, 1.0)
        between("optimiser.head_lr_factor", self.head_lr_factor, 1e-6, 1e6)
        between("optimiser.ema", self.ema, 0.0, 0.99999)
        if self.clip_norm is not None:
            between("optimiser.clip_norm", self.clip_norm, 1e-9, 1e9)


@dataclass(frozen=True, kw_only=True)
class AdaptConfig:
    """The factor λ of the gradient reversal; without effect outside mode ``dann``."""

    lam_schedule: Literal["dann", "constant", "linear"] = "dann"
    """``dann``: 2 / (1 + exp(−10 p)) − 1, the papers'."""
    lam_max: float = 1.0
    """Factor on the schedule. The domain classifier itself always learns at λ = 1."""
    stepped: Literal["step", "epoch"] = "step"
    """How often λ follows its schedule."""

    def __post_init__(self) -> None:
        between("adapt.lam_max", self.lam_max, 0.0, 100.0)


@dataclass(frozen=True, kw_only=True)
class ObjectivesConfig:
    """Weights of the losses beside that of the labels, in mode ``dann``; 0 leaves a loss out."""

    dann: float = 1.0
    """Domain-adversarial, on the features (arXiv 1505.07818)."""
    cdan: float = 0.0
    """Domain-adversarial, on features and class probabilities together (arXiv 1705.10667); instead of ``dann``."""
    cdan_entropy: bool = True
    """Let certain predictions weigh more in ``cdan`` (CDAN+E)."""
    entropy: float = 0.0
    """Entropy of each target prediction (Grandvalet & Bengio, 2005)."""
    mcc: float = 0.0
    """Minimum class confusion on the target (arXiv 1912.03699)."""
    mcc_temperature: float = 2.5
    bnm: float = 0.0
    """Batch nuclear-norm maximisation on the target (arXiv 2003.12237)."""
    class_balance: float = 0.0
    """Uniform class use over a target batch (arXiv 1706.05208)."""
    vat_source: float = 0.0
    """Virtual adversarial training on the source (arXiv 1704.03976, as in VADA, arXiv 1802.08735)."""
    vat_target: float = 0.0
    """The same on the target."""
    vat_radius: float = 1.75
    """Length of VAT's perturbation, of images in [0, 1]: DIRT-T's 3.5, which is for images in [−1, 1]."""
    mean_teacher: float = 0.0
    """Agreement with the averaged network on a second view of the target (arXiv 1706.05208); needs
    ``optimiser.ema``."""
    confidence: float = 0.968
    """Probability that the teacher must give its class for an image to count."""
    adamatch: float = 0.0
    """Pseudo-labels aligned to the source's class marginal, on a second, stronger view (arXiv 2106.04732)."""
    adamatch_tau: float = 0.9
    """Confidence threshold of ``adamatch``, relative to the mean confidence on the source."""
    warmup: float = 0.0
    """Share of training in which the weights of all but ``dann`` and ``cdan`` rise from 0, as half a cosine."""
    refine_from: float | None = None
    """Share of training after which DIRT-T's refinement (arXiv 1802.08735) takes over: target only, entropy and VAT,
    held near the averaged network. ``None``: never. Needs ``optimiser.ema``."""
    refine: float = 0.01
    """Weight of staying near the averaged network during refinement."""

    def __post_init__(self) -> None:
        for name in self.weights():
            between(f"objectives.{name}", getattr(self, name), 0.0, 1000.0)
        between("objectives.mcc_temperature", self.mcc_temperature, 0.01, 100.0)
        between("objectives.vat_radius", self.vat_radius, 1e-6, 1000.0)
        between("objectives.confidence", self.confidence, 0.0, 1.0)
        between("objectives.adamatch_tau", self.adamatch_tau, 0.0, 1.0)
        between("objectives.warmup", self.warmup, 0.0, 1.0)
        between("objectives.refine", self.refine, 0.0, 1000.0)
        if self.refine_from is not None:
            between("objectives.refine_from", self.refine_from, 0.0, 1.0)
        if self.dann and self.cdan:
            raise UsageError(
                "objectives.dann and objectives.cdan are both switched on; there is one domain classifier, so set one "
                "to 0"
            )

    def weights(self) -> dict[str, float]:
        """The weight of each loss by its name."""
        names = ("dann", "cdan", "entropy", "mcc", "bnm", "class_balance", "vat_source", "vat_target")
        return {name: getattr(self, name) for name in (*names, "mean_teacher", "adamatch")}

    @property
    def name(self) -> str:
        """The losses that are switched on, joined by ``+``."""
        names = [name for name, weight in self.weights().items() if weight]
        return "+".join(names if self.refine_from is None else [*names, "refine"])

    @property
    def adversarial(self) -> bool:
        """Whether the domain classifier is trained."""
        return bool(self.dann or self.cdan)

    @property
    def second_view(self) -> bool:
        """Whether target images are needed in two views."""
        return bool(self.mean_teacher or self.adamatch)


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
        between("shift of [augment] or [second_view]", self.shift, 0.0, 0.5)
        between("scale of [augment] or [second_view]", self.scale, 0.0, 0.9)
        between("rotate_deg of [augment] or [second_view]", self.rotate_deg, 0.0, 180.0)
        for name in ("brightness", "contrast", "colour", "noise"):
            between(f"{name} of [augment] or [second_view]", getattr(self, name), 0.0, 1.0)


Criterion = Literal["last", "source-accuracy", "entropy", "im", "bnm", "snd", "dev"]


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """Which epoch is kept; target labels never have a say."""

    criterion: Criterion = "last"
    """``last``, or the best by :mod:`dann.train.selection` on images without labels."""
    gate: float = 0.05
    """An epoch counts only if its source accuracy is at most this far below the best."""
    images: int = 2000
    """At most so many images of each domain are judged by."""

    def __post_init__(self) -> None:
        between("selection.gate", self.gate, 0.0, 1.0)
        between("selection.images", self.images, 1, 10**7)


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
    """Images per domain, process and pass."""
    accumulate: int = 1
    """Passes whose gradients make one step."""
    amp: Literal["auto", "off", "bf16", "fp16"] = "auto"
    """Mixed precision: ``bf16``, or ``fp16`` with loss scaling (needs CUDA). ``auto`` takes ``bf16`` where the device
    computes in it, else ``off``; a run keeps what it began with. With ``off``, convolutions on a GPU from Ampere on use
    TF32, as torch has it."""
    compile: bool = False
    """The step through ``torch.compile``: it begins up to minutes later, and is faster from then on where that pays."""
    device: str = "auto"
    """``auto`` takes CUDA where it is usable, else the CPU; ``cpu``; ``cuda``; ``cuda:N``."""
    init_from: str | None = None
    """A run or weight file to begin from; whatever matches in name and shape is taken."""
    adabn: bool = False
    """Take the target's batch statistics anew over all its images before each evaluation (arXiv 1603.04779)."""
    eval_every: int = 1
    """Epochs between evaluations; 0 evaluates only at the end."""
    save_every: int | None = None
    """Steps between checkpoints. ``None``: at the end of each epoch."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    objectives: ObjectivesConfig = field(default_factory=ObjectivesConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    second_view: AugmentConfig | None = None
    """Changes for the second view of target images, where an objective takes one. ``None``: as ``augment``."""

    def __post_init__(self) -> None:
        between("seed", self.seed, 0, 2**63 - 1)
        between("accumulate", self.accumulate, 1, 65_536)
        if self.save_every is not None:
            between("save_every", self.save_every, 1, 10**9)
        if self.mode == "dann":
            self._check_objectives()
            if self.compile and (self.objectives.vat_source or self.objectives.vat_target):
                raise UsageError(
                    "compile is set, and so is objectives.vat_source or vat_target, whose gradients within the loss "
                    "torch.compile cannot follow; train without --compile"
                )
        between("epochs", self.epochs, 1, 100_000)
        between("batch_size", self.batch_size, 2, 65_536)
        between("eval_every", self.eval_every, 0, 100_000)
        if self.steps is not None:
            between("steps", self.steps, 1, 10**9)

    @property
    def target_views(self) -> tuple[AugmentConfig, ...]:
        """How a target image is changed, once for each view that the objectives take of it."""
        if not self.objectives.second_view:
            return (self.augment,)
        return self.augment, self.second_view or self.augment

    @property
    def adversarial(self) -> bool:
        """Whether a domain classifier is trained."""
        return self.mode == "dann" and self.objectives.adversarial

    def _check_objectives(self) -> None:
        objectives = self.objectives
        if not any(objectives.weights().values()) and objectives.refine_from is None:
            raise UsageError("every weight in [objectives] is 0: nothing adapts; set one, or train with --mode source")
        needing = {"mean_teacher": objectives.mean_teacher > 0, "refine_from": objectives.refine_from is not None}
        for name, needs in needing.items():
            if needs and not self.optimiser.ema:
                raise UsageError(f"objectives.{name} needs averaged weights; set optimiser.ema, to 0.99 for example")
        if objectives.refine_from is not None and not objectives.refine:
            raise UsageError("objectives.refine_from is set and objectives.refine is 0; nothing would hold the network")

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, as written to ``config.json``."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        """The inverse of :meth:`to_dict`; :class:`UsageError` for an unknown key or a value of the wrong kind."""
        return build(cls, values, where="")


def between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # a NaN fails too
        raise UsageError(f"{name} is {value}; expected a value from {low} to {high}")
