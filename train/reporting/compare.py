"""Source only, adapted and trained on target, over seeds: the table that papers print, and what it is made of.

    runs/NAME/source-only-s0/ dann-s0/ target-s0/ …     ordinary runs
    runs/NAME/compare.md, compare.json, compare.svg     what they say together

Asked for again, a comparison goes on where it was stopped: a finished run is read, an interrupted one resumed.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from dann.infer.errors import Diverged, Interrupted, UsageError
from dann.infer.whole_file import WholeFile
from dann.train.config import with_method
from dann.train.distributed import started_by_torchrun
from dann.train.domains import draw_missing_cars, located, open_domains
from dann.train.loop import OnStep, fit, resume
from dann.train.machine import describe_machine
from dann.train.reporting.compare_figure import figure_svg
from dann.train.reporting.compare_table import Cell, Comparison, Row, failed_cell, read_cell
from dann.train.run_dir import RUNS, RunDir, write_json
from dann.train.settings import TrainConfig

OnMessage = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """A row that is to be trained."""

    key: str
    """Begins the names of its runs."""
    title: str
    config: TrainConfig


def compare(
    config: TrainConfig,
    *,
    seeds: Sequence[int],
    methods: Sequence[str] = (),
    runs: Path = RUNS,
    name: str,
    command: str | None = None,
    on_step: OnStep = lambda done, total, numbers: None,
    on_message: OnMessage = lambda message: None,
) -> Comparison:
    """Train whatever is missing of ``config`` in each mode, method and seed, and write the three files.

    Without ``methods`` the adapted row is trained on the objectives of ``config``; its mode and seed do not matter. The
    row that is trained on target labels is left out where there are none. ``on_step`` counts within each run,
    ``on_message`` says which one it is; ``command`` is what was typed, for the record.

    A run that diverges leaves a dash, its reason in the notes, and the others go on.
    Raises :class:`UsageError` where the target cannot be tested on, or the folder holds runs with other settings;
    :class:`Interrupted` after SIGINT or SIGTERM, the state of the current run being saved then.
    """
    if started_by_torchrun():
        raise UsageError("a comparison runs in one process; start it without torchrun")
    plans = _plans(config, methods)
    if not seeds or len(set(seeds)) < len(seeds):
        raise UsageError(f"the seeds are {list(seeds)}; expected at least one, and none twice")
    root = _folder(runs, name)
    draw_missing_cars(config, on_message)
    no_oracle = _why_no_oracle(plans)
    if no_oracle is not None:
        plans.pop()
        on_message(no_oracle)
    comparison = Comparison(
        name=name,
        rows=_rows(plans, seeds, root, on_step, on_message),
        notes=(no_oracle,) if no_oracle else (),
        machine=describe_machine(),
        date=date.today().isoformat(),
        command=command,
    )
    _write(comparison, root)
    return comparison


def _plans(config: TrainConfig, methods: Sequence[str]) -> list[_Plan]:
    if len(set(methods)) < len(methods):
        raise UsageError(f"the methods are {list(methods)}; expected none twice")
    own = replace(config, mode="dann")
    adapted = {method: with_method(config, method) for method in methods} or {own.objectives.name: own}
    return [
        _Plan(key="source-only", title="source only", config=replace(config, mode="source")),
        *(_Plan(key=name.replace("+", "-"), title=name, config=config) for name, config in adapted.items()),
        _Plan(key="target", title="trained on target", config=replace(config, mode="target")),
    ]


def _folder(runs: Path, name: str) -> Path:
    if name[:1] in ("", ".") or name == "latest" or Path(name).name != name:
        raise UsageError(f"the name of the comparison is {name!r}; expected that of a folder in {str(runs)!r}")
    if (runs / name / "config.json").exists():
        raise UsageError(f"{str(runs / name)!r} is a run; choose another --name for the comparison")
    return runs / name


def _why_no_oracle(plans: Sequence[_Plan]) -> str | None:
    """Why the last of ``plans`` cannot be trained, if it cannot; raises where the others could not be either."""
    *_, method, oracle = plans
    if open_domains(method.config).target_test is None:
        raise UsageError("there are no labelled target images to compare on; name them with --test")
    try:
        open_domains(oracle.config)
    except UsageError as error:
        return f"No row is trained on target labels: {error}."
    return None


def _rows(
    plans: Sequence[_Plan], seeds: Sequence[int], root: Path, on_step: OnStep, on_message: OnMessage
) -> tuple[Row, ...]:
    cells: dict[str, list[Cell]] = {plan.key: [] for plan in plans}
    wanted = [(plan, seed) for seed in seeds for plan in plans]  # a seed is complete before the next one begins
    for number, (plan, seed) in enumerate(wanted, start=1):
        on_message(f"run {number} of {len(wanted)}: {plan.title}, seed {seed}")
        run = RunDir(root / f"{plan.key}-s{seed}")
        try:
            finish(run, replace(plan.config, seed=seed), on_step, on_message)
            cells[plan.key].append(read_cell(run, seed))
        except Diverged as error:
            on_message(f"failed: {error}")
            cells[plan.key].append(failed_cell(run, seed, str(error)))
    return tuple(Row(title=plan.title, mode=plan.config.mode, cells=tuple(cells[plan.key])) for plan in plans)


def finish(
    run: RunDir,
    config: TrainConfig,
    on_step: OnStep = lambda done, total, numbers: None,
    on_message: OnMessage = lambda message: None,
) -> None:
    """Train or resume ``run``, unless it is finished; :class:`UsageError` where it has other settings."""
    if run.config.exists():
        _check_settings(run, config)
    elif run.root.is_dir() and not set(os.listdir(run.root)) - {"config.json.part"}:
        shutil.rmtree(run.root)  # killed at once; any other folder of that name is not ours
    try:
        if not run.config.exists():
            fit(config, runs=run.root.parent, name=run.root.name, on_step=on_step, on_message=on_message)
        elif not run.result.exists():
            resume(run, on_step=on_step, on_message=on_message)
    except Interrupted as stopped:
        message = f"stopped in {run.root}, whose state is saved; the same command goes on from there"
        raise Interrupted(message, stopped.exit_code) from stopped


def _check_settings(run: RunDir, config: TrainConfig) -> None:
    stored, wanted = (dict(_flat(each.to_dict())) for each in (run.read_config()[0], located(config)))
    if config.amp == "auto":  # a run has what its machine took for it, and keeps that
        wanted["amp"] = stored["amp"]
    different = [key for key in {**wanted, **stored} if stored.get(key) != wanted.get(key)]
    if different:
        key = different[0]
        others = f" and {len(different) - 1} more" if len(different) > 1 else ""
        raise UsageError(
            f"{str(run.root)!r} was trained with other settings ({key} {stored.get(key)!r} instead of "
            f"{wanted.get(key)!r}{others}); give this comparison another --name, or delete that folder"
        )


def _flat(values: dict[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of nested tables."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{where}{key}.")
        else:
            yield where + key, value


def _write(comparison: Comparison, root: Path) -> None:
    write_json(root / "compare.json", comparison.to_json())
    for file, text in (("compare.md", comparison.to_markdown()), ("compare.svg", figure_svg(comparison))):
        with WholeFile(root / file) as out:
            out.write(text)
