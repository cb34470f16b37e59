"""How fast ``dann infer`` is beside what the machine allows, and beside other ways to classify a folder of photos.

    python benchmarks/infer.py

One run, with the same JPEGs and the same networks for all. The yardstick is the *joint limit*: on a CPU, decoding and
the network share the cores, so at most 1 / (1 / decode + 1 / engine) is to be had, of the best rates of decoding alone
and of the engine alone. They are measured in the same rounds as dann and its peers, in turn; numbers are medians.
``infer_contestants.py`` has everyone's code. Peers whose packages are not installed are left out; ``pip install
ultralytics timm`` adds all of them, in an environment of its own, as ultralytics brings another build of OpenCV.

Also: from the start of the command to its first row, ``dann --help``, and the memory of a process that classifies a
folder beside one that runs the same engine alone; with ``--many``, also memory and speed with 1,000 and 100,000 small
images. For CPUs, and Linux.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import numpy as np
from rounds import Rounds

from dann.infer.bench_images import write_photo_like
from dann.infer.bench_result import table
from dann.infer.bundle import read_bundle
from dann.infer.cores import cpu_name, usable_cores
from dann.infer.doctor import machine, packages
from dann.infer.images import find_images
from dann.infer.preprocess import PreprocessSpec, load_image

BATCHES = [1, 2, 4, 8, 16, 32]
DANN_BATCH = 8
MANY = 1_000, 100_000
PHOTOS = "photos"
"""The sub-folder that has all images, as torchvision wants one."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Another way to classify a folder."""

    contestant: str
    package: str
    """Which it needs."""
    floats: bool = False
    """Whether it takes the network that is given floats."""
    batch: int | None = None


PEERS = {
    "cv2 loop, batch 1": Peer(contestant="naive", package="cv2", batch=1),
    "cv2 loop, batch 32": Peer(contestant="naive", package="cv2", batch=32),
    "torch DataLoader, cv2": Peer(contestant="dataloader", package="torch"),
    "torchvision ImageFolder": Peer(contestant="torchvision", package="torchvision", floats=True),
    "timm loader": Peer(contestant="timm", package="timm", floats=True),
    "ultralytics, batch 1": Peer(contestant="ultralytics", package="ultralytics", floats=True, batch=1),
    "ultralytics, batch 32": Peer(contestant="ultralytics", package="ultralytics", floats=True, batch=32),
}


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What computes: ``ort`` or ``openvino``, and in which precision."""

    name: str
    precision: str

    def __str__(self) -> str:
        return f"{self.name} {self.precision}"

    def options(self) -> dict[str, str]:
        """Of ``classify_folder``."""
        return {"engine": self.name, "precision": self.precision}

    def words(self) -> list[str]:
        """Of the command."""
        return ["--engine", self.name, "--precision", self.precision]


@dataclass(frozen=True, kw_only=True)
class Network:
    """A bundle, and what it is measured on."""

    name: str
    bundle: Path
    size_px: int
    images: Path
    engines: list[Engine]
    """The first one is compared with the peers, which all run onnxruntime."""
    peers: list[str]
    rounds: int
    seconds: float
    """Of a measurement of decoding or an engine alone."""

    @property
    def photos(self) -> Path:
        return self.images / PHOTOS

    def decode(self, threads: list[int]) -> dict[str, float]:
        """Images a second of decoding alone, by number of threads."""
        return contestant(
            "decode", images=str(self.images), size_px=self.size_px, threads=threads, seconds=self.seconds
        )

    def engine(self, engine: Engine, settings: list[tuple[str, int]]) -> dict[str, float]:
        """Images a second of an engine alone, by setting: how cores share the work, and the batch size."""
        return contestant("engine", **self.common(), **engine.options(), settings=settings, seconds=self.seconds)

    def common(self) -> dict[str, Any]:
        """Arguments that most contestants take."""
        return {"bundle": str(self.bundle), "images": str(self.images), "size_px": self.size_px}


def contestant(name: str, **arguments: Any) -> dict[str, Any]:
    """What a function of ``infer_contestants.py`` gives, in a process of its own."""
    script = Path(__file__).with_name("infer_contestants.py")
    ran = subprocess.run([sys.executable, str(script), name, json.dumps(arguments)], capture_output=True, text=True)
    if ran.returncode:
        raise click.ClickException(f"{name} failed:\n{ran.stderr}")
    return json.loads(ran.stdout.splitlines()[-1])


def rate(name: str, **arguments: Any) -> float:
    """Images a second."""
    found = contestant(name, **arguments)
    return found["images"] / found["seconds"]


# ---- how fast --------------------------------------------------------------------------------------------------------


def measure_speed(network: Network, rounds: Rounds) -> dict[str, str]:
    """Decoding alone, each engine alone, dann and its peers, in turn; gives the best setting of the former two."""
    cores = usable_cores()
    best = {"decoding": _best(rounds.add("decoding", lambda: network.decode(sorted({1, cores, cores + 1, 2 * cores}))))}
    every = [(how, batch) for how in ("parallel", "shared") for batch in BATCHES]
    for engine in network.engines:
        best[str(engine)] = _best(rounds.add(str(engine), partial(network.engine, engine, every)))
    for _ in range(network.rounds):
        _measure_round(network, rounds, best)
    return best


def _best(found: dict[str, float]) -> str:
    return max(found, key=found.__getitem__)


def _measure_round(network: Network, rounds: Rounds, best: dict[str, str]) -> None:
    threads = int(best["decoding"].split()[0])
    rounds.add("decoding alone", lambda: network.decode([threads])[best["decoding"]])
    for engine in network.engines:
        how, _, batch = best[str(engine)].split()
        alone = partial(network.engine, engine, [(how.strip(","), int(batch))])
        rounds.add(f"{engine} alone", lambda alone=alone, engine=engine: alone()[best[str(engine)]])
        run = partial(rate, "dann", bundle=str(network.bundle), images=str(network.photos), **engine.options())
        rounds.add(f"dann infer, {engine}", run)
    rounds.add("the command", lambda: _command_rate(network))
    for title in network.peers:
        peer = PEERS[title]
        more = {} if peer.batch is None else {"batch": peer.batch}
        rounds.add(title, partial(rate, peer.contestant, **network.common(), **more))


def _command_rate(network: Network) -> float:
    with tempfile.TemporaryDirectory() as folder:
        out_path = Path(folder, "preds.csv")
        began = time.perf_counter()
        subprocess.run([*_infer(network), "--out-path", str(out_path)], check=True)
        seconds = time.perf_counter() - began
        return (out_path.read_bytes().count(b"\n") - 1) / seconds


def _infer(network: Network) -> list[str]:
    words = ["infer", "--bundle", str(network.bundle), "--test-loc", str(network.photos), "--quiet"]
    return [*_dann(), *words, *network.engines[0].words()]


def _dann() -> list[str]:
    """The command of this interpreter."""
    script = Path(sys.executable).with_name("dann")
    return [str(script)] if script.exists() else [sys.executable, "-m", "dann.cli"]


def speed_table(network: Network, rounds: Rounds, best: dict[str, str]) -> list[str]:
    decoding = rounds.median("decoding alone")
    alone = {str(engine): rounds.median(f"{engine} alone") for engine in network.engines}
    limits = {engine: 1 / (1 / decoding + 1 / rate) for engine, rate in alone.items()}
    first = str(network.engines[0])
    dann = rounds.median(f"dann infer, {first}")
    rows = [
        [f"decoding alone ({best['decoding']})", f"{decoding:,.0f}", "", ""],
        *([f"{engine} alone ({best[engine]})", f"{rate:,.0f}", "", ""] for engine, rate in alone.items()),
        *([f"joint limit with {engine}", f"{limit:,.0f}", "1", ""] for engine, limit in limits.items()),
    ]
    for engine, limit in limits.items():
        found = rounds.median(f"dann infer, {engine}")
        rows.append([f"dann infer, {engine}", f"{found:,.0f}", f"{found / limit:.2f}", f"{dann / found:.2f}"])
    for name in ("the command", *network.peers):
        found = rounds.median(name)
        title = f"the command with {first}, start included" if name == "the command" else name
        rows.append([title, f"{found:,.0f}", f"{found / limits[first]:.2f}", f"{dann / found:.2f}"])
    return table([network.name, "images/s", "of the limit", f"dann infer, {first}, beside it"], rows)


# ---- how soon --------------------------------------------------------------------------------------------------------


def measure_starts(network: Network, rounds: Rounds) -> list[str]:
    for _ in range(network.rounds):
        rounds.add("first row", lambda: _first_row_s(network))
        rounds.add("dann --help", _help_s)
    return table(
        [network.name, "seconds"], [[name, f"{rounds.median(name):.2f}"] for name in ("first row", "dann --help")]
    )


def _first_row_s(network: Network) -> float:
    """From the start of the command to the first row on its standard output."""
    began = time.perf_counter()
    with subprocess.Popen(
        [*_infer(network), "--out-path", "-"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        _, first = process.stdout.readline(), process.stdout.readline()
        seconds = time.perf_counter() - began
        process.terminate()
    assert first
    return seconds


def _help_s() -> float:
    began = time.perf_counter()
    subprocess.run([*_dann(), "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


# ---- how much memory -------------------------------------------------------------------------------------------------


def measure_memory(network: Network, rounds: Rounds) -> list[str]:
    rows = []
    for engine in network.engines:
        arguments = {"bundle": str(network.bundle), **engine.options()}
        alone = partial(
            contestant,
            "engine_memory",
            **arguments,
            size_px=network.size_px,
            batch=DANN_BATCH,
            seconds=network.seconds,
        )
        with_dann = partial(contestant, "dann_memory", **arguments, images=str(network.photos))
        found = rounds.add(f"memory of {engine}", alone), rounds.add(f"memory with {engine}", with_dann)
        rows.append([str(engine), *(cell for what in ("steady", "peak") for cell in _megabytes(*found, what))])
    names = [f"{state}{of}" for state in ("", "peak, ") for of in ("engine alone, MB", "dann infer, MB", "more, MB")]
    return table([network.name, *names], rows)


def _megabytes(alone: dict[str, float], dann: dict[str, float], what: str) -> list[str]:
    sizes = alone[what] / 1e6, dann[what] / 1e6
    return [f"{sizes[0]:.0f}", f"{sizes[1]:.0f}", f"{sizes[1] - sizes[0]:+.0f}"]


def measure_many(network: Network, rounds: Rounds, counts: tuple[int, ...]) -> list[str]:
    """Small images, of which many are one file under several names."""
    rows = []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            write_photo_like(Path(folder), min(count, counts[0]), height=48, width=64)
            files = sorted(Path(folder).iterdir())
            for index in range(len(files), count):
                os.link(files[index % len(files)], Path(folder, f"{index:06d}.jpg"))
            arguments = {"bundle": str(network.bundle), **network.engines[0].options(), "images": folder}
            found = rounds.add(f"{count} small images", partial(contestant, "dann_memory", **arguments))
        numbers = f"{found['images_per_second']:,.0f}", f"{found['steady'] / 1e6:.0f}", f"{found['peak'] / 1e6:.0f}"
        rows.append([f"{count:,} images", *numbers])
    return table([f"{network.name}, {network.engines[0]}", "images/s", "MB", "peak, MB"], rows)


# ---- all of it -------------------------------------------------------------------------------------------------------


@contextmanager
def photos(given: Path | None, count: int) -> Iterator[Path]:
    """A folder with a sub-folder of JPEGs."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        if given is not None:
            (root / PHOTOS).symlink_to(given.resolve(), target_is_directory=True)
        else:
            (root / PHOTOS).mkdir()
            write_photo_like(root / PHOTOS, count, spread=0.1)
        yield root


def usable_peers(asked: list[str], floats: bool) -> Iterator[str]:
    """Those that can run here; says which cannot."""
    for title in asked:
        peer = PEERS[title]
        if importlib.util.find_spec(peer.package) is None:
            click.echo(f"left out: {title}, as {peer.package} is not installed", err=True)
        elif peer.floats and not floats:
            click.echo(f"left out: {title}, which needs the network of --models", err=True)
        else:
            yield title


def make_bundle(model: str, size_px: int, precisions: list[str], images: Path, root: Path) -> Path:
    from infer_bundle import export_bundle

    spec = PreprocessSpec(height=size_px, width=size_px)
    files = find_images(images)[:32]
    return export_bundle(model, size_px, precisions, np.stack([load_image(file.path, spec) for file in files]), root)


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


@click.command()
@click.option("--models", default="mobilenet_v3_small,resnet18", show_default=True, help="Backbones of dann.")
@click.option("--bundle", type=click.Path(exists=True, path_type=Path), help="A bundle to measure, instead of models.")
@click.option("--size", "size_px", default=224, show_default=True, help="Of the models, in pixels.")
@click.option("--engines", default="ort/fp32,openvino/fp32,ort/int8,openvino/int8", show_default=True, metavar="E/P,…")
@click.option("--peers", help=f"Some of: {'; '.join(PEERS)}.  [default: all]", metavar="A;B;…")
@click.option("--images", type=click.Path(exists=True, path_type=Path), help="A flat folder of .jpg files.")
@click.option("--count", default=2000, show_default=True, help="How many are drawn, if none are given.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--seconds", default=2.0, show_default=True, help="Of each measurement of decoding or an engine alone.")
@click.option("--tries", default=3, show_default=True, help="Of a measurement that other processes disturb.")
@click.option("--many", is_flag=True, help="Also 1,000 and 100,000 small images.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write every number to this file.")
def main(
    models: str,
    bundle: Path | None,
    size_px: int,
    engines: str,
    peers: str | None,
    images: Path | None,
    count: int,
    rounds: int,
    seconds: float,
    tries: int,
    many: bool,
    json_path: Path | None,
) -> None:
    """Measure dann infer beside what the machine allows, and beside its peers."""
    asked = list(PEERS) if peers is None else [title.strip() for title in peers.split(";") if title.strip()]
    chosen = list(usable_peers(asked, floats=bundle is None))
    ways = [Engine(name=name, precision=precision) for name, precision in (way.split("/") for way in _names(engines))]
    others = {name: metadata.version(name) for name in ("timm", "torchvision", "ultralytics") if _installed(name)}
    versions = packages() | others
    click.echo(f"{machine()}; {cpu_name()}; {time.strftime('%Y-%m-%d')}")
    click.echo(", ".join(f"{name} {version}" for name, version in versions.items()))
    report: dict[str, Any] = {"machine": machine(), "cpu": cpu_name(), "packages": versions, "networks": {}}
    with photos(images, count) as root, tempfile.TemporaryDirectory() as folder:
        kilobytes = [file.stat().st_size / 1000 for file in (root / PHOTOS).iterdir()]
        click.echo(f"{len(kilobytes)} images of {np.mean(kilobytes):.0f} kB")
        for model in ["bundle"] if bundle else _names(models):
            precisions = sorted({way.precision for way in ways})
            made = bundle or make_bundle(model, size_px, precisions, root / PHOTOS, Path(folder, model))
            network = Network(
                name=model,
                bundle=made,
                size_px=read_bundle(made).manifest.preprocess.height,
                images=root,
                engines=ways,
                peers=chosen,
                rounds=rounds,
                seconds=seconds,
            )
            found = Rounds(tries)
            best = measure_speed(network, found)
            tables = [
                speed_table(network, found, best),
                measure_starts(network, found),
                measure_memory(network, found),
                *([measure_many(network, found, MANY)] if many else []),
            ]
            for lines in tables:
                click.echo("\n" + "\n".join(lines))
            report["networks"][model] = {"numbers": found.numbers, "others": found.others, "best": best}
    if json_path is not None:
        json_path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


if __name__ == "__main__":
    main()
