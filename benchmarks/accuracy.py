"""Trains the rows of docs/results.md anew and prints them: target accuracy of each seed, mean ± std.

    python benchmarks/accuracy.py --list
    python benchmarks/accuracy.py mnist-mnistm/dann --data-root DIR --seeds 3
    python benchmarks/accuracy.py --selection mnist-usps usps-mnist --data-root DIR

The rows, each a preset with what is set on top of it, are in accuracy.toml beside this file. A finished run is read,
not trained again, and an interrupted one goes on. Nothing is selected on target labels; "best on test labels" shows
what that would have claimed, and with --selection a second table how far below it each label-free rule ends.
"""

import argparse
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dann.infer.errors import DannError, unknown_name
from dann.train import resolve
from dann.train.machine import describe_machine
from dann.train.reporting.compare import finish
from dann.train.reporting.run_record import read_record
from dann.train.run_dir import RunDir

ROWS = Path(__file__).with_suffix(".toml")


def main() -> None:
    rows = tomllib.loads(ROWS.read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", nargs="*", help="rows to train, by name; all of a pair by its name alone")
    parser.add_argument("--list", action="store_true", help="name the rows and stop, as without any")
    parser.add_argument("--data-root", help="where the named sets lie")
    parser.add_argument("--seeds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--selection", action="store_true", help="compare the rules of selection, over all rows")
    parser.add_argument("--runs", type=Path, default=Path("runs/accuracy"), help="(default: %(default)s)")
    options = parser.parse_args()
    names = [f"{pair}/{row}" for pair, entries in rows.items() for row in entries]
    for given in options.row:
        if given not in names and given not in rows:
            raise unknown_name("row", given, [*names, *rows])
    wanted = [name for name in names if name in options.row or name.split("/")[0] in options.row]
    if options.list or not wanted:
        print("\n".join(names))
        return
    print(describe_machine(), flush=True)
    runs: list[RunDir] = []
    for name in wanted:
        pair, row = name.split("/")
        of_row = list(trained(pair, row, settings_of(rows[pair], row), options))
        print(line(name, [read_record(run).result for run in of_row]), flush=True)
        runs += of_row
    if options.selection:
        print(selection_table(runs))


def settings_of(rows: dict[str, dict[str, Any]], row: str) -> dict[str, Any]:
    """Those of ``row`` over those of the row that it is like."""
    own = dict(rows[row])
    return {**(settings_of(rows, own.pop("like")) if "like" in own else {}), **own}


def trained(pair: str, row: str, settings: dict[str, Any], options: argparse.Namespace) -> Iterator[RunDir]:
    """The run of each seed, trained or resumed unless it is finished."""
    for seed in range(options.seeds):
        overrides = {
            key: value.format(data_root=options.data_root, runs=options.runs, seed=seed)
            if isinstance(value, str)
            else value
            for key, value in settings.items()
            if key not in ("preset", "method")
        }
        run = RunDir(options.runs / f"{pair}-{row}-s{seed}")
        config = resolve(
            settings.get("preset", pair),
            overrides={"seed": seed, "data.data_root": options.data_root, **overrides},
            method=settings.get("method"),
        )
        finish(run, config)
        yield run


def line(name: str, results: list[dict[str, Any]]) -> str:
    """A row of the table."""
    seconds = np.mean([result["seconds"] for result in results])
    numbers = {
        title: [result[title]["target_accuracy"] for result in results]
        for title in ("selected", "last", "best_on_test_labels")
    }
    spread = "  ".join(f"{title} {mean_std(values)}" for title, values in numbers.items())
    return f"{name}: {spread}  {seconds:.0f} s  {[round(value, 4) for value in numbers['selected']]}"


def selection_table(runs: list[RunDir]) -> str:
    """For each rule the target accuracy that its choice lost against the best evaluation, in points, over the runs."""
    lost: dict[str, list[float]] = {}
    for run in runs:
        record = read_record(run)
        accuracy = {entry["step"]: entry["target_accuracy"] for entry in record.of_kind("eval")}
        for rule, step in record.result["selection"]["choices"].items():
            lost.setdefault(rule, []).append(100 * (max(accuracy.values()) - accuracy[step]))
    return "\n".join(
        ["| rule | mean loss | median | worst |", "|---|---|---|---|"]
        + [
            f"| {rule} | {np.mean(points):.1f} | {np.median(points):.1f} | {max(points):.1f} |"
            for rule, points in sorted(lost.items(), key=lambda entry: np.mean(entry[1]))
        ]
    )


def mean_std(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


if __name__ == "__main__":
    try:
        main()
    except DannError as error:
        sys.exit(f"error: {error}")
