"""What `data.decode = "reduced"` is worth: images a second of one thread, and how far the pixels move.

    python benchmarks/decode.py IMAGES

Each JPEG of a folder becomes the network's input in both ways, in turn, in one run.
"""

import time
from pathlib import Path
from statistics import median

import click
import cv2
import numpy as np

from dann.infer.image_header import read_header
from dann.infer.images import find_images
from dann.infer.preprocess import Decoding, PreprocessSpec, decode, fit, reduction

ROUNDS = 5


@click.command()
@click.argument("images", type=click.Path(exists=True, path_type=Path))
@click.option("--size", "sizes", type=int, multiple=True, default=(64, 128, 224), show_default=True)
def main(images: Path, sizes: tuple[int, ...]) -> None:
    """Print a table with a row for each size of the network's input."""
    cv2.setNumThreads(1)
    files = [file.path.read_bytes() for file in find_images(images)]
    headers = [(data, header) for data in files if (header := read_header(data)) and header.format == "JPEG"]
    jpegs = [(data, (header.height, header.width)) for data, header in headers]
    if not jpegs:
        raise click.UsageError(f"no JPEG in {images}")
    height, width = np.median([size for _, size in jpegs], axis=0).astype(int)
    click.echo(f"{len(jpegs)} JPEGs, median {width} x {height}, OpenCV {cv2.__version__}\n")
    click.echo("| input | full, images/s | reduced, images/s | ratio | mean change of a pixel, of 255 |")
    click.echo("|---|---|---|---|---|")
    for size in sizes:
        rates: dict[Decoding, list[float]] = {"full": [], "reduced": []}
        pixels: dict[Decoding, np.ndarray] = {}
        for _ in range(ROUNDS):
            for how in rates:
                spec = PreprocessSpec(height=size, width=size, decode=how)
                began = time.perf_counter()
                pixels[how] = np.stack([fit(decode(data, reduction(data, spec)), spec) for data, _ in jpegs])
                rates[how].append(len(jpegs) / (time.perf_counter() - began))
        full, reduced = median(rates["full"]), median(rates["reduced"])
        change = np.abs(pixels["full"].astype(np.int16) - pixels["reduced"]).mean()
        click.echo(f"| {size} | {full:,.0f} | {reduced:,.0f} | {reduced / full:.2f} | {change:.2f} |")


if __name__ == "__main__":
    main()
