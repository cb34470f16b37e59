"""Weight files: reading them without running anything in them, and putting them into a network, whole or in part.

Legend: C channels. Batch normalisation has statistics (C,), or (2, C) where it is kept per domain (0 source, 1 target).
"""

import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dann.infer.errors import DannError, UsageError
from dann.train import checkpoint
from dann.train.checkpoint import AVERAGED, NETWORK
from dann.train.run_dir import RunDir

_BACKBONE = "feature_extractor.1."  # where a DomainAdversarialNetwork keeps its backbone
_EVALUATED = (f"{NETWORK}.", f"{AVERAGED}.")  # in dann's checkpoints; the later one where it is there
_INSIDE = ("state_dict", "model_state_dict", "model")  # the entry of a training script's file that holds the weights
_PER_DOMAIN = ("weight", "bias", "running_mean", "running_var")
_COUNTER = "num_batches_tracked"  # no weight: it is copied where it fits, and counts for nothing
_LISTED = 6

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Account:
    """What became of the tensors of a network and of a file, by name."""

    loaded: tuple[str, ...]
    """In both, and copied."""
    kept: tuple[str, ...]
    """In the network alone; they stay as they were."""
    mismatched: tuple[tuple[str, Shape, Shape], ...]
    """In both, with another shape: name, shape in the file, shape in the network. They stay as they were."""
    unused: tuple[str, ...]
    """In the file alone."""
    of_other_classes: tuple[str, ...] = ()
    """In both, with a meaning for the classes of the file only. They stay as they were."""

    def lines(self) -> list[str]:
        """The account for people: a line for each part of the network, and one for what the file holds besides."""
        names = [*self.loaded, *(name for name, *_ in self.mismatched), *self.of_other_classes, *self.kept]
        parts = Counter(_part(name) for name in names)
        lines = [self._line(part, total) for part, total in parts.items()]
        if self.unused:
            more = f", … ({len(self.unused)} in all)" if len(self.unused) > _LISTED else ""
            lines.append(f"unused in the file: {', '.join(self.unused[:_LISTED])}{more}")
        return lines

    def _line(self, part: str, total: int) -> str:
        loaded = sum(_part(name) == part for name in self.loaded)
        missing = sum(_part(name) == part for name in self.kept)
        line = f"{part}: {loaded} of {total} tensors loaded"
        wrong = [entry for entry in self.mismatched if _part(entry[0]) == part]
        if wrong:
            line += f"; {_differences(wrong)}"
        others = sum(_part(name) == part for name in self.of_other_classes)
        if others:
            line += f"; {others} left out, being for other classes"
        if missing:
            line += f"; {missing} not in the file"
        return line


def read_weights(path: Path) -> dict[str, Tensor]:
    """The named tensors, on the CPU, of a safetensors file, a torch state dict or the folder of a run.

    Of a run they are those of the selected checkpoint, else of the last; of a checkpoint those that were evaluated: the
    averaged ones, where there are any. What training scripts, ``DistributedDataParallel`` and ``torch.compile`` put
    around the names is taken off.

    Raises :class:`UsageError` where there is no such file or it holds something else, :class:`DannError` where it is
    damaged or would have to be unpickled.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...] | None]:
    """The tensors, and the classes that they are for, where the file says so."""
    file, classes = _weight_file(path), None
    if file.suffix == ".safetensors" or _begins_as_safetensors(file):
        content, classes = _read_safetensors(file)
    else:
        content = _read_torch(file)
    if not isinstance(content, dict) or not content or not all(isinstance(entry, Tensor) for entry in content.values()):
        raise UsageError(f"weights {str(file)!r} hold something other than named tensors; save network.state_dict()")
    for name, tensor in content.items():
        if tensor.layout != torch.strided or tensor.is_meta:
            raise UsageError(
                f"weights {str(file)!r} hold {name} as a sparse tensor, or without its values; save them dense"
            )
    tensors = {str(name).replace("_orig_mod.", "").removeprefix("module."): value for name, value in content.items()}
    return tensors, classes


def load_backbone(network: nn.Module, file: Path) -> None:
    """Load weights into the backbone ``network``; every parameter must be there, and no more of it.

    What is not of the backbone (the classifier that was taken off) is ignored. Raises :class:`UsageError` where the
    file does not fit, and what :func:`read_weights` does.
    """
    given = {name.removeprefix(_BACKBONE): tensor for name, tensor in read_weights(file).items()}
    fitting, account = _match(given, network.state_dict())
    _check_values(fitting, network.state_dict(), file)
    foreign = _of_another_backbone(network, account.unused)
    if account.kept or account.mismatched or foreign:
        missing = [f"{len(account.kept)} tensors are missing, first {account.kept[0]}"] if account.kept else []
        wrong = [_differences(account.mismatched)] if account.mismatched else []
        more = [f"{len(foreign)} tensors have no place in it, first {foreign[0]}"] if foreign else []
        raise UsageError(
            f"weights {str(file)!r} do not fit the backbone: {'; '.join(missing + wrong + more)}. Name the --backbone "
            "that they were trained with"
        )
    network.load_state_dict(fitting, strict=False)


def _of_another_backbone(network: nn.Module, unused: Sequence[str]) -> list[str]:
    """The names in a file that belong to a part of ``network``, as a deeper one's do, and not to its classifier."""
    parts = {_part(name) for name in network.state_dict()}
    classifiers = tuple(f"{name}." for name, module in network.named_modules() if isinstance(module, nn.Identity))
    foreign = (name for name in unused if _part(name) in parts or name[:1].isdigit())
    return sorted(name for name in foreign if not name.startswith(classifiers))


def initialise(
    network: nn.Module, file: Path, *, classes: tuple[str, ...] | None = None, of_classes: tuple[str, ...] = ()
) -> Account:
    """Copy every tensor of ``file`` that ``network`` has by the same name and shape; all others stay as they are.

    The file's names may be those inside one part of the network, as a plain torchvision state dict's are: they are then
    taken as that part's. Batch normalisation fits whether or not it is kept per domain. Of a checkpoint for other
    classes than ``classes`` the tensors whose names begin with one of ``of_classes`` are left out, whatever their
    shape. Raises :class:`UsageError` where nothing fits, and what :func:`read_weights` does.
    """
    (given, theirs), wanted = _read(file), network.state_dict()
    others = () if theirs is None or theirs == classes else of_classes
    left_out = tuple(name for name in wanted if name in given and name.startswith(others))
    taken = {name: tensor for name, tensor in given.items() if name not in left_out}
    fitting, account = _match(taken, wanted, _prefix(taken, wanted))
    kept = tuple(name for name in account.kept if name not in left_out)
    account = replace(account, kept=kept, of_other_classes=left_out)
    if not account.loaded:
        raise UsageError(
            f"nothing in {str(file)!r} fits this network: the file begins with {_first(given)}, the network with "
            f"{_first(wanted)}; name the --backbone that it was trained with"
        )
    _check_values(fitting, wanted, file)
    network.load_state_dict(fitting, strict=False)
    return account


def _weight_file(path: Path) -> Path:
    if os.path.isfile(path / "config.json"):  # Path.is_file raises for a name that is too long
        path = RunDir(path).evaluated
    if not os.path.isfile(path):
        raise UsageError(
            f"weights {str(path)!r} is not a file; expected a .safetensors, a torch state dict or the folder of a run "
            "(--weights also takes none and DEFAULT)"
        )
    return path


def _begins_as_safetensors(file: Path) -> bool:
    """Whether the file begins with the length of a JSON header, and the header, whatever it is called."""
    try:
        with open(file, "rb") as opened:
            length, brace = opened.read(8), opened.read(1)
    except OSError as error:
        raise DannError(f"weights {str(file)!r} cannot be read: {error.strerror}") from error
    return brace == b"{" and int.from_bytes(length, "little") <= file.stat().st_size - 8


def _read_safetensors(file: Path) -> tuple[dict[str, Tensor], tuple[str, ...] | None]:
    """The tensors, and of a checkpoint of dann the classes."""
    try:
        if not checkpoint.is_checkpoint(file):
            return load_file(file), None
    except (SafetensorError, OSError) as error:
        raise DannError(f"weights {str(file)!r} cannot be read: {error}") from error
    about, stored = checkpoint.read(file)
    tensors: dict[str, Tensor] = {}
    for part in _EVALUATED:
        tensors |= {name.removeprefix(part): value for name, value in stored.items() if name.startswith(part)}
    return tensors, tuple(about["classes"])


def _read_torch(file: Path) -> Any:
    """What a file of ``torch.save`` holds, without the wrapper around the weights."""
    try:
        with warnings.catch_warnings(action="ignore"):  # torch warns of what it then refuses
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes raise anything; torch's own text tells how to unpickle them nevertheless
        raise DannError(
            f"weights {str(file)!r} are damaged, or hold pickled objects ({type(error).__name__}); only named tensors "
            "are read: save network.state_dict() or safetensors"
        ) from error
    for name in _INSIDE:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    return content


def _match(
    given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], prefix: str = ""
) -> tuple[dict[str, Tensor], Account]:
    """The tensors of a file that fit a network, by the network's names, and the account of all of them."""
    found = {prefix + name: tensor for name, tensor in given.items()}
    fitting = {name: fit for name in wanted if (fit := _fit(name, found.get(name), wanted[name].shape)) is not None}
    counted = [name for name in wanted if not name.endswith(_COUNTER)]
    account = Account(
        loaded=tuple(name for name in counted if name in fitting),
        kept=tuple(name for name in counted if name not in found),
        mismatched=tuple(
            (name, tuple(found[name].shape), tuple(wanted[name].shape))
            for name in counted
            if name in found and name not in fitting
        ),
        unused=tuple(name for name in given if prefix + name not in wanted and not name.endswith(_COUNTER)),
    )
    return fitting, account


def _fit(name: str, given: Tensor | None, shape: Shape) -> Tensor | None:
    """``given`` in this shape: as it is, once for each domain, or the target's row of it; ``None`` if none fits."""
    if given is None or given.shape == shape:
        return given
    if name.rpartition(".")[2] in _PER_DOMAIN:
        if shape == (2, *given.shape):
            return given.expand(shape)
        if given.shape == (2, *shape):
            return given[1]
    return None


def _check_values(fitting: Mapping[str, Tensor], wanted: Mapping[str, Tensor], file: Path) -> None:
    """Refuse what would be copied without a word and train to nothing."""
    for name, tensor in fitting.items():
        if name.endswith(_COUNTER):
            continue
        if wanted[name].is_floating_point() != tensor.is_floating_point():
            kinds = f"{tensor.dtype} in {str(file)!r}, and {wanted[name].dtype} here"
            raise UsageError(f"{name} is {kinds}; expected floating-point weights")
        if not tensor.isfinite().all():
            raise DannError(f"{name} in {str(file)!r} is not finite: that network has diverged; begin from another")


def _prefix(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """The beginning of the network's names under which most of the file fits; none, if that is as good."""
    matches = Counter({"": 0})
    for name, tensor in wanted.items():
        for start in (0, *(at + 1 for at, letter in enumerate(name) if letter == ".")):
            inner = name[start:]
            if _fit(inner, given.get(inner), tensor.shape) is not None:
                matches[name[:start]] += 1
    return matches.most_common(1)[0][0]  # of equals, the first that was counted


def _differences(mismatched: Sequence[tuple[str, Shape, Shape]]) -> str:
    name, in_file, here = mismatched[0]
    others = f" (the first of {len(mismatched)} that differ)" if len(mismatched) > 1 else ""
    return f"{name} is {in_file} in the file, {here} here{others}"


def _part(name: str) -> str:
    return name.partition(".")[0]


def _first(tensors: Mapping[str, Tensor]) -> str:
    name, tensor = next(iter(tensors.items()))
    return f"{name} {tuple(tensor.shape)}"
