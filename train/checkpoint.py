"""Checkpoints: one safetensors file with the weights and whatever an exact resume needs. Nothing is ever unpickled.

Tensors are named ``network.*``, ``adaptation.*`` and ``optimiser.<parameter>.<entry>``; the JSON beside them (step,
optimiser settings, loss scale, classes, progress of selection) sits in the file's own header, so one atomic rename
replaces all of it together. The header also has the SHA-256 of it all, which is checked when it is read. There is no
random state: all that is random in a step is a function of the seed and the step.

``last.safetensors`` holds everything; ``selected.safetensors`` only the network that selection chose.
"""

import contextlib
import hashlib
import json
import os
import textwrap
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as deserialised
from safetensors.torch import save as serialised
from torch import Tensor, nn

from dann.infer.errors import DannError, UsageError

_FORMATS = "dann-checkpoint-"
FORMAT = f"{_FORMATS}4"
NETWORK = "network"
AVERAGED = "adaptation.averaged.module"
"""The averaged network, which is evaluated instead of the other where it is there."""


def save_network(path: Path, network: nn.Module, *, step: int, classes: tuple[str, ...]) -> None:
    """Write the network alone, whole or not at all."""
    write(path, _named("network", network), {"step": step, "classes": classes})


def save(
    path: Path,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    adaptation: nn.Module,
    *,
    step: int,
    classes: tuple[str, ...],
    progress: dict[str, Any],
) -> None:
    """Write the checkpoint whole or not at all: an earlier one at ``path`` survives any failure.

    ``progress`` is JSON that :func:`restore` gives back.
    """
    state = optimiser.state_dict()
    tensors = _named("network", network) | _named("adaptation", adaptation)
    for parameter, entries in state["state"].items():
        tensors |= {f"optimiser.{parameter}.{key}": value for key, value in entries.items() if value is not None}
    about = {
        "step": step,
        "classes": classes,
        "param_groups": state["param_groups"],
        "scaler": scaler.state_dict(),
        "progress": progress,
    }
    write(path, tensors, about)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header's JSON and all tensors (on the CPU). Raises :class:`DannError` for anything but our own file."""
    if not path.is_file():
        raise UsageError(f"no checkpoint at {str(path)!r}; `dann train` writes one")
    try:
        content = path.read_bytes()  # once: a run that still trains may replace the file at any time
        tensors = deserialised(content)
        kind, _, text = _metadata(content).get("format", "").partition(" ")
        if kind != FORMAT:
            what = f"of another version of dann ({kind})" if kind.startswith(_FORMATS) else "not a dann checkpoint"
            raise DannError(f"{path} is a safetensors file, but {what}; expected {FORMAT}")
        about = json.loads(text)
        if not isinstance(about, dict) or not {"step", "classes", "sha256"} <= about.keys():
            raise ValueError("its header lacks the step, the classes or the digest")
        if about.pop("sha256") != _digest(about, tensors):
            raise ValueError("it is not what was written (its SHA-256 is another)")
        return about, tensors
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise DannError(f"{path} is damaged: {error}; train again or resume from another checkpoint") from error


def write(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write what :func:`read` gives back, whole or not at all; ``about`` is JSON with ``step`` and ``classes``."""
    part = path.with_name(path.name + ".part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        contiguous = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        header = {**about, "sha256": _digest(json.loads(json.dumps(about)), contiguous)}
        # one entry, since safetensors writes several in an order of chance, and equal states are to be equal files
        content = serialised(contiguous, metadata={"format": f"{FORMAT} {json.dumps(header)}"})
        with open(part, "wb") as file:  # safetensors' own writing ignores the umask
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # the rename must not reach the disk before the content does
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            part.unlink()
        kept = " (the previous one is kept)" if path.exists() else ""
        raise DannError(f"the checkpoint {path} could not be written: {error}{kept}") from error


def is_checkpoint(path: Path) -> bool:
    """Whether the safetensors file at ``path`` is of dann, of whatever version; raises :class:`SafetensorError`."""
    with safe_open(path, framework="pt") as file:
        return (file.metadata() or {}).get("format", "").startswith(_FORMATS)


def load(module: nn.Module, name: str, tensors: dict[str, Tensor], path: Path) -> None:
    """Put the tensors ``name.*`` of a checkpoint into ``module``; every one must fit."""
    prefix = f"{name}."
    state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        _, first, *others = (textwrap.shorten(line, 300, placeholder=" …") for line in str(error).splitlines())
        more = f" (and {len(others)} more)" if others else ""
        raise DannError(f"{path} does not fit the {name} of its config.json: {first}{more}") from error


def restore(
    path: Path,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    adaptation: nn.Module,
    *,
    classes: tuple[str, ...],
) -> tuple[int, dict[str, Any]]:
    """Continue from the checkpoint at ``path``. Returns the number of finished steps, and the progress saved."""
    about, tensors = read(path)
    if tuple(about["classes"]) != classes:
        raise DannError(f"{path} is of a network for the classes {about['classes']}; the data has {list(classes)}")
    load(network, "network", tensors, path)
    load(adaptation, "adaptation", tensors, path)
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    try:
        for key, value in tensors.items():
            if key.startswith("optimiser."):
                _, number, entry = key.split(".", 2)
                state.setdefault(int(number), {})[entry] = _laid_out_as(parameters[int(number)], value)
        optimiser.load_state_dict({"state": state, "param_groups": about["param_groups"]})
        scaler.load_state_dict(about["scaler"])
        return int(about["step"]), dict(about["progress"])
    except (KeyError, IndexError, ValueError, TypeError, RuntimeError) as error:
        raise DannError(f"{path} does not fit the optimiser of its config.json: {error!r}") from error


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """A fused optimiser walks a parameter and its state side by side in memory, whatever their strides say."""
    return torch.empty_like(parameter, device="cpu").copy_(value) if value.shape == parameter.shape else value


def _named(name: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for key, value in module.state_dict().items()}


def _metadata(content: bytes) -> dict[str, str]:
    """That of a safetensors file: 8 bytes with the length of a JSON header, which has it as one entry."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]).get("__metadata__", {})


def _digest(about: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """SHA-256 of the JSON and of names, types, shapes and bytes of the tensors, which are contiguous."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
