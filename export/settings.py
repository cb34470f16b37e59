"""What to export."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from dann.infer.errors import UsageError, unknown_name
from dann.infer.verdict import STANDARDS

FORMATS = ("onnx", "openvino", "triton", "trt")


@dataclass(frozen=True, kw_only=True)
class BatchRange:
    """Smallest, usual and largest batch of an engine."""

    min: int = 1
    opt: int = 32
    max: int = 64

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise UsageError(f"the batch is {self}; expected 1 ≤ MIN ≤ OPT ≤ MAX")

    @classmethod
    def parse(cls, text: str) -> "BatchRange":
        """``MIN:OPT:MAX``, or one number for all three."""
        numbers = [part.strip() for part in text.split(":")]
        if len(numbers) not in (1, 3) or not all(number.isascii() and number.isdigit() for number in numbers):
            raise UsageError(f"the batch is {text!r}; expected MIN:OPT:MAX, as in 1:32:64, or one number")
        return cls(min=int(numbers[0]), opt=int(numbers[len(numbers) // 2]), max=int(numbers[-1]))

    def __str__(self) -> str:
        return f"{self.min}:{self.opt}:{self.max}"

    def sizes(self, smallest: int = 1) -> tuple[int, ...]:
        """The batches that a verdict is on: 1, 2, 3, the usual and the largest, from ``smallest`` on."""
        return tuple(sorted({size for size in (1, 2, 3, self.opt, self.max) if smallest <= size <= self.max}))


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """What only TensorRT is asked for."""

    gpus: tuple[str, ...] = ()
    """Compute capabilities that an engine of TensorRT for RTX is for: ``("sm86", "sm120")``. None: all that one engine
    covers."""
    workspace_mib: int | None = None
    """Most memory for one layer's scratch space. ``None``: all that the GPU has."""
    hardware_compatible: bool = False
    """One engine for every GPU from Ampere on (TensorRT), at some cost in speed."""
    version_compatible: bool = False
    """An engine that newer versions run too (TensorRT)."""
    timing_cache: Path | None = None
    """File that keeps what TensorRT has timed. ``None``: one for each GPU and version in the user's cache."""

    def __post_init__(self) -> None:
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise UsageError(f"{self.workspace_mib} MiB of workspace asked for; expected 1 or more")

    def asked(self) -> str:
        """The first option of the command line that is not as it is by itself."""
        options = {
            "--gpu": self.gpus,
            "--workspace-mib": self.workspace_mib,
            "--hardware-compatible": self.hardware_compatible,
            "--version-compatible": self.version_compatible,
            "--timing-cache": self.timing_cache,
        }
        return next(name for name, value in options.items() if value)


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """All that ``dann export`` can be told."""

    formats: tuple[str, ...] = ("onnx",)
    """Some of :data:`FORMATS`. ONNX is written in any case: the others are made from it."""
    precisions: tuple[str, ...] = ("fp32", "fp16")
    """Some of ``fp32``, ``fp16``, ``int8`` and, for OpenVINO alone, ``bf16``."""
    batch: BatchRange = field(default_factory=BatchRange)
    """What engines are built for; what is not built for a batch runs any, and is verified at these."""
    with_features: bool = False
    """Also give the features as an output."""
    split: bool = False
    """Also write feature extractor and label classifier as two networks."""
    verify_data: str | None = None
    """Data spec of the images for the verdict. ``None``: the run's target, else its source."""
    verify_images: int = 256
    """How many of them."""
    verify_photos: bool = False
    """Whether images of the verdict, which may be private, go into the bundle for its first use elsewhere."""
    calib: str | None = None
    """Data spec of the images that int8 is calibrated on. ``None``: the run's target, else its source."""
    calib_images: int = 256
    """How many of them."""
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        _check_names("export format", self.formats, FORMATS)
        _check_names("precision", self.precisions, STANDARDS)
        if self.verify_images < 1:
            raise UsageError(f"{self.verify_images} images asked for the verdict; expected at least 1")
        if self.calib_images < 1:
            raise UsageError(f"{self.calib_images} images asked for calibration; expected at least 1")
        if "bf16" in self.precisions and "openvino" not in self.formats:
            raise UsageError(f"bf16 is a precision of the format openvino alone; the formats are {list(self.formats)}")
        if self.precisions == ("bf16",):
            raise UsageError("a bundle needs a network that runs everywhere; ask for another one too: fp32,bf16")
        if self.engine != EngineConfig() and "trt" not in self.formats:
            raise UsageError(
                f"{self.engine.asked()} says how to build engines of TensorRT; the formats are {list(self.formats)}: "
                "add trt, or leave it out"
            )
        if {"trt", "triton"} <= set(self.formats) and self.batch.min > 1:
            raise UsageError(
                f"the batch is {self.batch}, and Triton may send a single image; build engines for batches from 1, as "
                f"in 1:{self.batch.opt}:{self.batch.max}"
            )


def _check_names(kind: str, given: tuple[str, ...], known: Iterable[str]) -> None:
    for name in given:
        if name not in known:
            raise unknown_name(kind, name, known)
    if not given or len(set(given)) < len(given):
        raise UsageError(f"the {kind}s are {list(given)}; expected one or more, each once")
