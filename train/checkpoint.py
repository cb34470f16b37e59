"""Checkpoints: one safetensors file with the weights and whatever an exact resume needs. Nothing is ever unpickled.

Tensors are named ``network.*``, ``optimiser.<parameter>.<entry>`` and ``rng.*``; the JSON beside them (step, optimiser
settings, loss scale, classes) sits in the file's own header, so one atomic rename replaces all of it together.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dann.infer.errors import DannError, UsageError
from dann.train.model import DomainAdversarialNetwork

FORMAT = "dann-checkpoint-1"


def save(
    path: Path,
    network: DomainAdversarialNetwork,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    *,
    step: int,
    classes: tuple[str, ...],
) -> None:
    """Write the checkpoint whole or not at all: an earlier one at ``path`` survives any failure."""
    state = optimiser.state_dict()
    tensors: dict[str, Tensor] = {f"network.{key}": value for key, value in network.state_dict().items()}
    for parameter, entries in state["state"].items():
        tensors |= {f"optimiser.{parameter}.{key}": value for key, value in entries.items() if value is not None}
    tensors["rng.cpu"] = torch.get_rng_state()
    device = next(network.parameters()).device
    if device.type == "cuda":
        tensors["rng.cuda"] = torch.cuda.get_rng_state(device)
    about = {
        "step": step,
        "classes": classes,
        "param_groups": state["param_groups"],
        "scaler": scaler.state_dict(),
    }
    part = path.with_name(path.name + ".part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        contiguous = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        save_file(contiguous, part, metadata={"format": FORMAT, "dann": json.dumps(about)})
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            part.unlink()
        kept = " (the previous one is kept)" if path.exists() else ""
        raise DannError(f"the checkpoint {path} could not be written: {error}{kept}") from error


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header's JSON and all tensors (on the CPU). Raises :class:`DannError` for anything but our own file."""
    if not path.is_file():
        raise UsageError(f"no checkpoint at {str(path)!r}; `dann train` writes one")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise DannError(f"{path} is a safetensors file but not a dann checkpoint; expected {FORMAT}")
            return json.loads(header["dann"]), {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise DannError(f"{path} is damaged: {error}; train again or resume from another checkpoint") from error


def load_network(network: DomainAdversarialNetwork, tensors: dict[str, Tensor], path: Path) -> None:
    """Put the weights of a checkpoint into ``network``; every tensor must fit."""
    weights = {key.removeprefix("network."): value for key, value in tensors.items() if key.startswith("network.")}
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise DannError(f"{path} does not fit the network of its config.json: {error}") from error


def restore(
    path: Path,
    network: DomainAdversarialNetwork,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> int:
    """Continue from the checkpoint at ``path``: weights, optimiser, loss scale, random state. Returns the next step."""
    about, tensors = read(path)
    load_network(network, tensors, path)
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimiser."):
            _, parameter, entry = key.split(".", 2)
            state.setdefault(int(parameter), {})[entry] = value
    optimiser.load_state_dict({"state": state, "param_groups": about["param_groups"]})
    scaler.load_state_dict(about["scaler"])
    torch.set_rng_state(tensors["rng.cpu"])
    device = next(network.parameters()).device
    if "rng.cuda" in tensors and device.type == "cuda":
        torch.cuda.set_rng_state(tensors["rng.cuda"], device)
    return int(about["step"])
