"""How dann's training rate grows with the batch, the set and the number of processes.

    python benchmarks/train_scaling.py
    python benchmarks/train_scaling.py --device cuda --processes 1 --processes 8

Each row is a `dann train` of its own on images that the script draws, and its rate the one that the run logs once it
is under way. Digits lie in memory, folders of JPEGs are read through the cache of decoded images.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from train_step import draw_sets

WARM = 50  # steps; the log has a line for each so many


def rate(settings: dict[str, Any], runs: Path, *, device: str, batch_size: int, steps: int, processes: int) -> float:
    """Images a second of all processes together, of both domains, after the first steps."""
    data = {name: value for name, value in settings.items() if name != "preset"}
    words = [
        "-m", "dann.cli", "train", "--method", "dann", "--preset", settings["preset"], "--device", device,
        "--batch-size", str(batch_size), "--steps", str(steps), "--quiet", "--runs", str(runs), "--name", "run",
        *(word for name, value in data.items() for word in ("--set", f"{name}={value}")),
        *("--set", "data.holdout=0", "--set", "model.bottleneck=256", "--set", "eval_every=0"),
        *("--set", "save_every=1000000"),
    ]  # fmt: skip
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    threads = max(1, (os.cpu_count() or 1) // processes)
    ran = subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), *words],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
    )
    if ran.returncode:
        raise SystemExit(ran.stderr)
    lines = map(json.loads, (runs / "run" / "metrics.jsonl").read_text().splitlines())
    return median(line["images_per_second"] for line in lines if line["kind"] == "step" and line["step"] > WARM)


@click.command()
@click.option("--device", default="cpu", show_default=True)
@click.option("--steps", default=100, show_default=True, help="Of each run; the first 50 do not count.")
@click.option("--regime", type=click.Choice(["digits", "folders"]), default="digits", show_default=True)
@click.option("--batch-size", "batch_sizes", type=int, multiple=True, default=(16, 64, 256), show_default=True)
@click.option("--images", "sizes", type=int, multiple=True, default=(1_000, 10_000), show_default=True)
@click.option("--processes", "counts", type=int, multiple=True, default=(1, 2), show_default=True)
def main(
    device: str, steps: int, regime: str, batch_sizes: tuple[int, ...], sizes: tuple[int, ...], counts: tuple[int, ...]
) -> None:
    """Print a table of rates; what is not varied is a batch of 64, the first size and one process."""
    if steps <= WARM:
        raise click.BadParameter(f"{steps} steps; expected more than {WARM}, which do not count")
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {os.cpu_count()} cores"
    click.echo(f"{name}, torch {torch.__version__}, {regime}, {time.strftime('%Y-%m-%d')}\n")
    click.echo("| batch of each process | images of a domain | processes | images/s |\n|---|---|---|---|")
    rows = [(64, sizes[0], 1)]
    rows += [(batch, sizes[0], 1) for batch in batch_sizes]
    rows += [(64, size, 1) for size in sizes]
    rows += [(64, sizes[0], count) for count in counts]
    for batch_size, images, processes in sorted(set(rows)):
        with tempfile.TemporaryDirectory() as folder:
            settings = draw_sets(Path(folder), regime, images)
            found = rate(
                settings, Path(folder) / "runs", device=device, batch_size=batch_size, steps=steps, processes=processes
            )
        click.echo(f"| {batch_size} | {images:,} | {processes} | {found:,.0f} |")


if __name__ == "__main__":
    main()
