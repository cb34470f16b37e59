"""What dann's training loop costs beside the model's own step, and what it saves beside a plain DataLoader loop.

    python benchmarks/train_step.py

Three ways to do the same steps of DANN, in turn and in one run, on images that the script draws: dann's loop; the
*bare* step of the same network, losses and optimiser, on random tensors that lie on the device; and a *plain* loop, a
torch DataLoader over PIL images with Resize and ToTensor. Two regimes: digits, which are in memory, and
folders of JPEGs. ``--amp`` holds for all three, and the plain loop is timed in float32 too, as published
implementations train; ``--compile`` is for dann's loop and the bare step.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import cv2
import numpy as np
import torch
import torchvision.transforms.v2 as transforms
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder

from dann.train import resolve
from dann.train.adaptation_state import AdaptationState
from dann.train.compiled_step import CompiledStep
from dann.train.device import precision
from dann.train.loop import fit
from dann.train.model import DomainAdversarialNetwork
from dann.train.optimiser import build_optimiser
from dann.train.settings import TrainConfig
from dann.train.training_step import Pace, StepInput, TrainingStep

CLASSES = 10
ROUNDS = 3


def draw_sets(root: Path, regime: str, images_each: int) -> dict[str, Any]:
    """Two domains of random images, as settings of a run."""
    rng = np.random.default_rng(0)
    if regime == "digits":
        labels, classes = np.arange(images_each) % CLASSES, np.arange(CLASSES).astype(str)
        for domain in ("source", "target"):
            images = rng.integers(0, 256, (len(labels), 28, 28, 3), np.uint8)
            np.savez(root / f"{domain}.npz", x=images, y=labels, classes=classes)
        return {
            "preset": "mnist-mnistm",
            "data.source": str(root / "source.npz"),
            "data.target": str(root / "target.npz"),
        }
    for domain in ("source", "target"):
        for number in range(images_each):
            folder = root / domain / str(number % CLASSES)
            folder.mkdir(parents=True, exist_ok=True)
            image = cv2.resize(rng.integers(0, 256, (12, 16, 3), np.uint8), (500, 375), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(folder / f"{number}.jpg"), image)
    return {"preset": "photos", "data.source": str(root / "source"), "data.target": str(root / "target")}


def configure(
    settings: dict[str, Any], device: str, amp: str, batch_size: int, steps: int, compiled: bool
) -> TrainConfig:
    preset = settings["preset"]
    overrides = {name: value for name, value in settings.items() if name != "preset"}
    return resolve(
        preset=preset,
        method="dann",
        overrides={
            **overrides,
            "data.test": None,
            "data.holdout": 0.0,
            "model.bottleneck": 256,
            "device": device,
            "amp": amp,
            "compile": compiled,
            "batch_size": batch_size,
            "steps": steps,
            "eval_every": 0,
            "save_every": 10**9,
        },
    )


class Rate:
    """Steps a second, from the tenth on: before that caches, threads and memory pools fill."""

    def __init__(self, device: torch.device):
        self._device = device
        self._begin = (0, 0.0)

    def tick(self, done: int) -> None:
        if done == 10:
            self._begin = (done, self._now())

    def read(self, done: int) -> float:
        return (done - self._begin[0]) / (self._now() - self._begin[1])

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def dann_loop(config: TrainConfig, device: torch.device, runs: Path) -> float:
    rate, found = Rate(device), 0.0

    def on_step(done: int, total: int, numbers: dict[str, Any]) -> None:
        nonlocal found
        rate.tick(done)
        if done == total:
            found = rate.read(done)

    fit(config, runs=runs, on_step=on_step)
    return found


def stepping(config: TrainConfig, device: torch.device) -> Callable[[StepInput], None]:
    """A whole step of the model by itself: forward, losses, backward, optimiser."""
    data = config.data
    network = DomainAdversarialNetwork(
        config.model, classes=CLASSES, height=data.height, width=data.width, two_domains=True
    ).to(device)
    state = AdaptationState(network, classes=CLASSES, ema=0.0).to(device)
    plain = TrainingStep(network, config.objectives)
    compiled = CompiledStep(plain, device) if config.compile else None
    step = compiled or plain
    optimiser = build_optimiser(config.optimiser, network)
    dtype = torch.bfloat16 if config.amp == "bf16" else torch.float16

    def run(batch: StepInput) -> None:
        optimiser.zero_grad(set_to_none=True)
        if compiled is not None:
            compiled.begin()
        with torch.autocast(device.type, dtype, enabled=config.amp != "off"):
            output = step(batch, state, Pace(lam=0.5))
        output.total.backward()
        optimiser.step()

    return run


def bare_loop(config: TrainConfig, device: torch.device, steps: int) -> float:
    shape = (config.batch_size, config.data.height, config.data.width, 3)
    source, target = (torch.rand(shape, device=device).permute(0, 3, 1, 2) for _ in range(2))
    labels = torch.arange(config.batch_size, device=device) % CLASSES
    return timed(
        config, device, (StepInput(labelled_NCHW=source, labels_N=labels, target_views=(target,)) for _ in range(steps))
    )


def plain_loop(config: TrainConfig, device: torch.device, steps: int, settings: dict[str, Any]) -> float:
    to_tensor = transforms.Compose(
        [
            transforms.Resize((config.data.height, config.data.width)),
            transforms.RandomHorizontalFlip(),
            transforms.PILToTensor(),
            transforms.ToDtype(torch.float32, scale=True),
        ]
    )

    def endless(spec: str) -> Iterator[tuple[Tensor, Tensor]]:
        images: Dataset[Any] = (
            PilDigits(Path(spec), to_tensor) if spec.endswith(".npz") else ImageFolder(spec, to_tensor)
        )
        loader = DataLoader(
            images, config.batch_size, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True,
            pin_memory=device.type == "cuda",
        )  # fmt: skip
        while True:
            yield from loader

    def batches() -> Iterator[StepInput]:
        pairs = zip(endless(settings["data.source"]), endless(settings["data.target"]), strict=False)
        for _, ((source, labels), (target, _)) in zip(range(steps), pairs, strict=False):
            yield StepInput(
                labelled_NCHW=source.to(device), labels_N=labels.to(device), target_views=(target.to(device),)
            )

    return timed(config, device, batches())


class PilDigits(Dataset[Any]):
    """As torchvision has MNIST: an array, of which each item becomes a PIL image and then a tensor."""

    def __init__(self, file: Path, transform: Callable[[Any], Tensor]):
        with np.load(file) as stored:
            self._images, self._labels = stored["x"], stored["y"]
        self._transform = transform

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(Image.fromarray(self._images[index])), int(self._labels[index])


def timed(config: TrainConfig, device: torch.device, batches: Iterator[StepInput]) -> float:
    step, rate, done = stepping(config, device), Rate(device), 0
    for batch in batches:
        step(batch)
        done += 1
        rate.tick(done)
    return rate.read(done)


@click.command()
@click.option("--device", default="cpu", show_default=True)
@click.option("--amp", type=click.Choice(["auto", "off", "bf16", "fp16"]), default="auto", show_default=True)
@click.option("--compile", "compiled", is_flag=True, help="torch.compile dann's step and the bare one.")
@click.option("--steps", default=60, show_default=True)
@click.option("--batch-size", "batch_sizes", type=int, multiple=True, default=(64,), show_default=True)
@click.option("--regime", "regimes", multiple=True, default=("digits", "folders"), show_default=True)
def main(
    device: str, amp: str, compiled: bool, steps: int, batch_sizes: tuple[int, ...], regimes: tuple[str, ...]
) -> None:
    """Time dann's training loop against the bare step and a plain DataLoader loop."""
    where = torch.device(device)
    amp = precision(resolve(overrides={"amp": amp}), where)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    kind = f"amp {amp}{', compiled' * compiled}"
    click.echo(f"{name}, torch {torch.__version__}, {kind}, {time.strftime('%Y-%m-%d')}\n")
    click.echo("| regime | batch | dann, images/s | of the bare step | of the plain loop | of that in float32 |")
    click.echo("|---|---|---|---|---|---|")
    for regime in regimes:
        with tempfile.TemporaryDirectory() as folder:
            settings = draw_sets(Path(folder), regime, max(6000 if regime == "digits" else 1000, *batch_sizes))
            for batch_size in batch_sizes:
                config = configure(settings, device, amp, batch_size, steps, compiled)
                plain = replace(config, compile=False)
                ways: dict[str, Callable[[], float]] = {
                    "bare": partial(bare_loop, config, where, steps),
                    "dann": partial(dann_loop, config, where, Path(folder) / "runs"),
                    "plain": partial(plain_loop, plain, where, steps, settings),
                }
                if amp != "off":
                    ways["float32"] = partial(plain_loop, replace(plain, amp="off"), where, steps, settings)
                found: dict[str, list[float]] = {way: [] for way in ways}
                for _ in range(ROUNDS):  # in turn, so that a slow moment of the machine meets all
                    for way, measure in ways.items():
                        found[way].append(measure())
                rates = {way: median(each) for way, each in found.items()}
                ratios = " | ".join(f"{rates['dann'] / rates[way]:.2f}" for way in ("bare", "plain", list(ways)[-1]))
                click.echo(f"| {regime} | {batch_size} | {2 * batch_size * rates['dann']:,.0f} | {ratios} |")


if __name__ == "__main__":
    main()
