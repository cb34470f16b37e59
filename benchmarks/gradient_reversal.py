"""The gradient of the fork, label − λ·domain, by dann's kernel and by stock torch, side by side in one run.

    python benchmarks/gradient_reversal.py

prints two tables. *Large*: bytes over time, as a share of what a device copy reaches. *DANN's sizes*: microseconds a
call, launched one by one and replayed from a CUDA graph, where launching is free. ``--device cpu`` rehearses the
script; its numbers say nothing about a GPU.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import cycle, islice

import click
import torch
from torch import Tensor

from dann.train import reversal_kernel
from dann.train.reversal import reverse, reverse_and_count

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DANN_SHAPES = [(128, 512), (256, 1024), (512, 2048), (1024, 2048), (2048, 2048), (4096, 2048)]
LAM = 0.3
ROUNDS = 15
LEAST_CALLS = 20
L2_BYTES = 256 * 2**20  # more than any cache holds: buffers of this size in all are gone round in turn
SLEEP_CYCLES = 20_000_000  # about a hundredth of a second, in which the host launches all that is timed


@dataclass(frozen=True)
class Case:
    """One thing to compute: who can, the first being dann's, and the bytes that must be moved for an element."""

    name: str
    ways: dict[str, Callable[[Tensor, Tensor], object]]
    bytes_each: int


def cases(dtype: torch.dtype, device: torch.device) -> list[Case]:
    torch.compiler.reset()  # else it stops compiling after eight shapes and dtypes
    lam, count = torch.tensor(LAM, device=device), torch.tensor(0, device=device)
    size = dtype.itemsize

    def add(label: Tensor, domain: Tensor) -> Tensor:
        return torch.add(label, domain, alpha=-LAM)

    def multiply_and_subtract(label: Tensor, domain: Tensor) -> Tensor:
        return label - lam * domain

    def add_and_count(label: Tensor, domain: Tensor) -> Tensor:
        result = torch.add(label, domain, alpha=-LAM)
        count.add_(result.isfinite().logical_not().sum())
        return result

    def add_mixed(label: Tensor, domain: Tensor) -> Tensor:
        return torch.add(label, domain.to(label.dtype), alpha=-LAM)

    found = [
        Case(
            "λ a number",
            {
                "dann": lambda label, domain: reverse(label, domain, LAM, None),
                "torch.add": add,
                "torch.compile": torch.compile(add, dynamic=False),
            },
            3 * size,
        ),
        Case(
            "λ a tensor on the device",
            {
                "dann": lambda label, domain: reverse(label, domain, None, lam),
                "label - lam * domain": multiply_and_subtract,
                "torch.addcmul": lambda label, domain: torch.addcmul(label, domain, lam.to(dtype), value=-1),
                "torch.compile": torch.compile(multiply_and_subtract, dynamic=False),
            },
            3 * size,
        ),
        Case(
            "what is not finite counted",
            {
                "dann": lambda label, domain: reverse_and_count(label, domain, LAM, None, count),
                "torch.add, isfinite, sum": add_and_count,
                "torch.compile": torch.compile(add_and_count, dynamic=False),
            },
            3 * size,
        ),
    ]
    if size == 2:
        found.append(
            Case(
                "domain in float32",
                {
                    "dann": lambda label, domain: reverse(label, domain, LAM, None),
                    "to, torch.add": add_mixed,
                    "torch.compile": torch.compile(add_mixed, dynamic=False),
                },
                2 * size + 4,
            )
        )
    return found


def buffers(
    case: Case, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """Pairs of gradients; of large ones so many that none is still in a cache when its turn comes again."""
    domain_dtype = torch.float32 if case.name == "domain in float32" else dtype
    elements = torch.Size(shape).numel()
    pairs = max(2, min(64, L2_BYTES // (elements * case.bytes_each)))
    return [
        (torch.randn(shape, device=device, dtype=dtype), torch.randn(shape, device=device, dtype=domain_dtype))
        for _ in range(pairs)
    ]


def seconds(run: Callable[[], object], calls: int, device: torch.device, *, queued: bool) -> float:
    """A call's share of the time that ``run``, which makes ``calls``, takes; ``queued``: without launching them."""
    if device.type != "cuda":
        begin = time.perf_counter()
        run()
        return (time.perf_counter() - begin) / calls
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    if queued:
        torch.cuda._sleep(SLEEP_CYCLES)
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000 / calls


def in_turn(
    runs: Mapping[str, Callable[[], object]], calls: int, device: torch.device, *, queued: bool = False
) -> dict[str, float]:
    """The median time of a call, each contender once a round, so that a slow moment of the machine meets them all."""
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            times[name].append(seconds(run, calls, device, queued=queued))
    return {name: statistics.median(found) for name, found in times.items()}


def eager(
    way: Callable[[Tensor, Tensor], object], pairs: list[tuple[Tensor, Tensor]], calls: int | None = None
) -> Callable[[], None]:
    """Goes round ``pairs`` for as many ``calls``, by default once."""

    def run() -> None:
        for label, domain in islice(cycle(pairs), calls or len(pairs)):
            way(label, domain)

    return run


def captured(way: Callable[[Tensor, Tensor], object], pairs: list[tuple[Tensor, Tensor]]) -> Callable[[], None]:
    run = eager(way, pairs)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def copy_rate(elements: int, dtype: torch.dtype, device: torch.device) -> float:
    """Bytes a second, read and written, of a copy of ``elements``."""
    pairs = max(2, min(64, L2_BYTES // (2 * elements * dtype.itemsize)))
    buffers = [[torch.empty(elements, dtype=dtype, device=device) for _ in range(2)] for _ in range(pairs)]
    calls = max(LEAST_CALLS, pairs)

    def copies() -> None:
        for source, to in islice(cycle(buffers), calls):
            to.copy_(source)

    took = in_turn({"copy": copies}, calls, device, queued=True)["copy"]
    return 2 * elements * dtype.itemsize / took


def large(sizes: list[int], device: torch.device) -> None:
    click.echo("| elements | dtype | case | way | GB/s | of a copy | dann's time, of this way's |")
    click.echo("|---|---|---|---|---|---|---|")
    for elements in sizes:
        for dtype_name, dtype in DTYPES.items():
            rate = copy_rate(elements, dtype, device)
            for case in cases(dtype, device):
                pairs = buffers(case, (elements,), dtype, device)
                calls = max(LEAST_CALLS, len(pairs))
                runs = {name: eager(way, pairs, calls) for name, way in case.ways.items()}
                took = in_turn(runs, calls, device, queued=True)
                for name, found in took.items():
                    reached = elements * case.bytes_each / found
                    measured = f"{reached / 1e9:,.0f} | {reached / rate:.2f} | {took['dann'] / found:.2f}"
                    click.echo(f"| 2^{elements.bit_length() - 1} | {dtype_name} | {case.name} | {name} | {measured} |")


def real_sizes(shapes: list[tuple[int, int]], device: torch.device) -> None:
    click.echo("| features | dtype | case | way | µs launched | µs in a graph |")
    click.echo("|---|---|---|---|---|---|")
    for shape in shapes:
        for dtype_name, dtype in DTYPES.items():
            for case in cases(dtype, device):
                pairs = buffers(case, shape, dtype, device)
                launched = in_turn({name: eager(way, pairs) for name, way in case.ways.items()}, len(pairs), device)
                replayed = {}
                if device.type == "cuda":
                    graphs = {name: captured(way, pairs) for name, way in case.ways.items()}
                    replayed = in_turn(graphs, len(pairs), device)
                for name, found in launched.items():
                    measured = f"{found * 1e6:.1f} | " + (f"{replayed[name] * 1e6:.1f}" if replayed else "–")
                    click.echo(f"| {shape[0]} × {shape[1]} | {dtype_name} | {case.name} | {name} | {measured} |")


@click.command()
@click.option("--device", default="cuda", show_default=True, help="cuda, cuda:N, or cpu to rehearse.")
@click.option("--log2-elements", "logs", type=int, multiple=True, default=(24, 26, 28), show_default=True)
def main(device: str, logs: tuple[int, ...]) -> None:
    """Time the fused gradient of the fork against stock torch."""
    where = torch.device(device, 0) if device == "cuda" else torch.device(device)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else "CPU"
    click.echo(f"{name}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}: {reversal_kernel.choice(where)}\n")
    with torch.no_grad():
        large([2**log for log in logs], where)
        click.echo()
        real_sizes(DANN_SHAPES, where)


if __name__ == "__main__":
    main()
