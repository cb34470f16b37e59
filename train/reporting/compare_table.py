"""A finished comparison as numbers, Markdown and JSON.

A row is one thing that was trained, a cell one run of it: the same seeds in the same order in every row. A value is
the mean over the seeds, ± the sample standard deviation (n − 1) where there is more than one. ``None`` is a number that
could not be measured (for one, because the run diverged), and makes a dash of every mean that it would be part of.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, NamedTuple

from dann.infer.errors import DannError
from dann.train.reporting.run_record import read_record
from dann.train.run_dir import RunDir
from dann.train.settings import Mode

Values = Sequence[float | None]


class Checkpoint(NamedTuple):
    """A state of a network that was evaluated on the test images of both domains."""

    step: int
    source: float | None
    """Accuracy."""
    target: float | None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run."""

    seed: int
    run: str
    """Name of its folder."""
    last: Checkpoint
    selected: Checkpoint
    """Chosen without target labels."""
    best: float | None
    """Highest target accuracy of all evaluations: chosen by test labels, so never a result."""
    criterion: str
    """What selected."""
    choices: dict[str, int]
    """The step that each criterion would have selected."""
    target_at: dict[int, float | None]
    """Target accuracy by step."""
    recall: dict[str, float | None]
    """Of each class of the target."""
    simulated: bool
    """Whether the target photos are simulated ones."""
    raw: dict[str, Any]
    """``result.json`` and the evaluations as they were written; or the ``failure``."""
    failure: str | None = None
    """Why there is no result."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was trained once per seed."""

    title: str
    mode: Mode
    cells: tuple[Cell, ...]

    @property
    def sources(self) -> list[float | None]:
        """Source accuracy of the selected checkpoint, per seed."""
        return [cell.selected.source for cell in self.cells]

    @property
    def targets(self) -> list[float | None]:
        """Target accuracy of the selected checkpoint, per seed."""
        return [cell.selected.target for cell in self.cells]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What :func:`dann.train.reporting.compare.compare` found."""

    name: str
    rows: tuple[Row, ...]
    """Source only first, then the methods, then the row trained on target labels if there is one."""
    notes: tuple[str, ...] = ()
    """What the reader must know beside the numbers."""
    machine: str
    date: str
    command: str | None = None
    """What was typed."""

    @property
    def source_only(self) -> Row:
        return self.rows[0]

    @property
    def oracle(self) -> Row | None:
        """The row trained on target labels."""
        return next((row for row in self.rows if row.mode == "target"), None)

    @property
    def failures(self) -> list[str]:
        """What became of the runs that have no result."""
        return [f"{cell.run} failed: {cell.failure}" for row in self.rows for cell in row.cells if cell.failure]

    @property
    def simulated(self) -> bool:
        return any(cell.simulated for row in self.rows for cell in row.cells)

    @property
    def seeds(self) -> list[int]:
        return [cell.seed for cell in self.source_only.cells]

    def gap_closed(self, row: Row) -> list[float | None]:
        """Per seed, the share of the way from source only to trained on target that ``row`` goes on target images.

        ``None`` where there is no such way: without target labels, or where they gained nothing.
        """
        if self.oracle is None:
            return [None] * len(row.cells)
        return [_share(*ends) for ends in zip(row.targets, self.source_only.targets, self.oracle.targets, strict=True)]

    def to_markdown(self) -> str:
        """The tables, and how they were made."""
        parts = [f"# {self.name}", _accuracy_table(self), _legend(self), *self.notes, *self.failures]
        if any(cell.recall for row in self.rows for cell in row.cells):
            parts += ["## Target recall per class", _recall_table(self)]
        parts += ["## What each criterion would have selected", _selection_table(self)]
        parts.append(f"{self.machine}, {self.date}" + (f"\n\n    {self.command}" if self.command else ""))
        return "\n\n".join(parts) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Everything that was measured, as plain values."""
        return {
            "name": self.name,
            "seeds": self.seeds,
            "simulated_target": self.simulated,
            "notes": list(self.notes),
            "failures": self.failures,
            "machine": self.machine,
            "date": self.date,
            "command": self.command,
            "rows": [self._row_json(row) for row in self.rows],
        }

    def _row_json(self, row: Row) -> dict[str, Any]:
        columns = {**_columns(row), "gap_closed": self.gap_closed(row)}
        return {
            "title": row.title,
            "mode": row.mode,
            "oracle": row.mode == "target",
            "summary": {name: summary(values) for name, values in columns.items()},
            "runs": [{"seed": cell.seed, "run": cell.run, **cell.raw} for cell in row.cells],
        }


def read_cell(run: RunDir, seed: int) -> Cell:
    """The cell of a finished run, from its ``result.json`` and ``metrics.jsonl``; :class:`DannError` if damaged."""
    record = read_record(run)
    result, evaluations = record.result, record.of_kind("eval")
    try:
        best, target = result["best_on_test_labels"], result["target"]
        return Cell(
            seed=seed,
            run=run.root.name,
            last=_checkpoint(result["last"]),
            selected=_checkpoint(result["selected"]),
            best=best["target_accuracy"] if best else None,
            criterion=result["selection"]["criterion"],
            choices=dict(result["selection"]["choices"]),
            target_at={line["step"]: line["target_accuracy"] for line in evaluations},
            recall=dict(target["recall"]) if target else {},
            simulated=result["simulated_target"],
            raw={"result": result, "evaluations": evaluations},
        )
    except (KeyError, TypeError) as error:
        raise DannError(
            f"the results in {run.root} are damaged, or an older dann wrote them ({error!r}); "
            "delete that folder and compare again"
        ) from error


def failed_cell(run: RunDir, seed: int, failure: str) -> Cell:
    """The cell of a run that ended without a result."""
    nothing = Checkpoint(0, None, None)
    return Cell(
        seed=seed,
        run=run.root.name,
        last=nothing,
        selected=nothing,
        best=None,
        criterion="",
        choices={},
        target_at={},
        recall={},
        simulated=False,
        raw={"failure": failure},
        failure=failure,
    )


def _checkpoint(values: dict[str, Any]) -> Checkpoint:
    return Checkpoint(values["step"], values["source_accuracy"], values["target_accuracy"])


def _share(value: float | None, start: float | None, end: float | None) -> float | None:
    if value is None or start is None or end is None or end <= start:
        return None
    return (value - start) / (end - start)


def _columns(row: Row) -> dict[str, list[float | None]]:
    return {
        "source": row.sources,
        "target": row.targets,
        "target_last": [cell.last.target for cell in row.cells],
        "target_best_on_test_labels": [cell.best for cell in row.cells],
    }


def summary(values: Values) -> dict[str, float | None]:
    """``mean`` and sample ``std``; ``None`` where a value is missing, and ``std`` for a single one."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return {"mean": None, "std": None}
    return {"mean": fmean(known), "std": stdev(known) if len(known) > 1 else None}


# ---- Markdown -----------------------------------------------------------------------------------------------------


def _accuracy_table(comparison: Comparison) -> str:
    lines = []
    for row in comparison.rows:
        gap = comparison.gap_closed(row) if row.mode == "dann" else []
        lines.append([_title(row), *map(_text, _columns(row).values()), _text(gap, "z.0%")])
    photos = "simulated photos" if comparison.simulated else "target"
    return _table(["trained", "source", photos, "last step", "best on test labels (not a result)", "gap closed"], lines)


def _legend(comparison: Comparison) -> str:
    seeds = ", ".join(map(str, comparison.seeds))
    spread = f"mean ± standard deviation over seeds {seeds}" if len(comparison.seeds) > 1 else f"seed {seeds}"
    used = ", ".join(dict.fromkeys(cell.criterion for row in comparison.rows for cell in row.cells if cell.criterion))
    return (
        f"Accuracy on test images, {spread}, of the checkpoint that is selected without target labels (by: {used}); "
        "beside it, on the target, that of the last step and the best of all that were evaluated. Gap closed: the "
        "share of the way from source only to trained on target."
    )


def _recall_table(comparison: Comparison) -> str:
    """Recall of each class; in the rows of methods also its change against source only, per seed."""
    lines = []
    names = dict.fromkeys(name for row in comparison.rows for cell in row.cells for name in cell.recall)
    for name in names:
        before = [cell.recall.get(name) for cell in comparison.source_only.cells]
        line = [name]
        for row in comparison.rows:
            after = [cell.recall.get(name) for cell in row.cells]
            change = f" ({_text(_differences(after, before), '+z.3f')})" if row.mode == "dann" else ""
            line.append(_text(after) + change)
        lines.append(line)
    return _table(["class", *map(_title, comparison.rows)], lines)


def _selection_table(comparison: Comparison) -> str:
    lines = []
    for row in comparison.rows:
        finished = [cell for cell in row.cells if not cell.failure]
        for criterion in finished[0].choices if finished and row.mode == "dann" else ():
            reached = [cell.target_at.get(cell.choices.get(criterion, -1)) for cell in row.cells]
            against = [[cell.last.target for cell in row.cells], [cell.best for cell in row.cells]]
            used = " (used)" if criterion == finished[0].criterion else ""
            gaps = [_text(_differences(reached, others), "+z.3f") for others in against]
            lines.append([row.title, criterion + used, _text(reached), *gaps])
    return _table(["trained", "criterion", "target", "minus last", "minus best on test labels"], lines)


def _differences(values: Values, others: Values) -> list[float | None]:
    pairs = zip(values, others, strict=True)
    return [None if value is None or other is None else value - other for value, other in pairs]


def _title(row: Row) -> str:
    return f"{row.title} (oracle)" if row.mode == "target" else row.title


def _text(values: Values, form: str = ".3f") -> str:
    """``0.856 ± 0.014``, in the format ``form``; the spread has no sign of its own."""
    found = summary(values)
    if found["mean"] is None:
        return "–"
    spread = "" if found["std"] is None else f" ± {found['std']:{form.lstrip('+z')}}"
    return f"{found['mean']:{form}}" + spread


def _table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [header, ["---"] * len(header), *([cell.replace("|", "\\|") for cell in line] for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
