"""``report.html``: what came of a run, on one page that needs nothing but a browser."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from dann.infer.whole_file import WholeFile
from dann.train.config import to_toml
from dann.train.domains import specs
from dann.train.reporting import report_parts
from dann.train.reporting.run_outputs import RunOutputs, run_outputs
from dann.train.reporting.run_record import RunRecord, read_record
from dann.train.run_dir import RunDir

_MODES = {
    "source": "trained on labels of the source only",
    "dann": "trained on labels of the source, adapted to the target without labels",
    "target": "trained on labels of the target",
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """What :func:`write_report` wrote."""

    path: Path
    left_out: list[str]
    """Why each part that the report lacks is not in it."""


def write_report(
    run: RunDir, *, out: Path | None = None, source_only: RunDir | None = None, device: str = "auto"
) -> Report:
    """Write the report of ``run``, finished or not, to ``out`` (by default into its folder), whole or not at all.

    ``source_only`` is a finished run in mode ``source`` to compare with: :class:`UsageError` unless it was tested on
    images of the same classes, as many of each.
    """
    path = run.root / "report.html" if out is None else out
    with WholeFile(path) as file:  # entered first: a place that cannot be written to is refused before the work
        record = read_record(run)
        before = None if source_only is None else read_record(source_only)
        seen = run_outputs(run, device=device, unlabelled=report_parts.FEATURES, seed=report_parts.SEED)
        parts = _parts(record, seen, before)
        file.write(_page(record, parts))
    return Report(path=path, left_out=list(dict.fromkeys(part for part in parts.values() if isinstance(part, str))))


def _parts(record: RunRecord, seen: RunOutputs, before: RunRecord | None) -> dict[str, Any]:
    judged = report_parts.tested(record, seen)
    change = report_parts.compared(judged, before)
    checkpoints = report_parts.checkpoints(record)
    distance = report_parts.a_distance(seen)
    return {
        "cards": report_parts.cards(record, judged, change, distance),
        "checkpoints": checkpoints,
        "compared": change,
        "losses": report_parts.losses(record),
        "accuracy": report_parts.accuracy(record, checkpoints),
        "told": report_parts.told(record),
        "schedules": report_parts.schedules(record),
        "selection": report_parts.selection(record),
        "classes": report_parts.classes(judged, change),
        "features": report_parts.features(seen),
        "a_distance": distance,
        "calibration": report_parts.calibration(judged),
        "mistakes": report_parts.mistakes(judged, seen.classes),
        "samples": report_parts.sampled(seen),
    }


def _page(record: RunRecord, parts: Mapping[str, Any]) -> str:
    text = (resources.files("dann.train.reporting") / "templates" / "report.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {name: getattr(report_parts, name) for name in ("score", "points", "number")}
    return environment.from_string(text).render(about=_about(record), **parts)


def _about(record: RunRecord) -> dict[str, Any]:
    """What heads and closes the page."""
    config, result = record.config, record.result
    return {
        "name": record.run.root.resolve().name,
        "mode": config.mode,
        "trained": _MODES[config.mode],
        "simulated": bool(result.get("simulated_target", record.about.get("simulated"))),
        "finished": bool(result),
        "warnings": _warnings(record),
        "facts": _facts(record),
        "config": to_toml(config),
        "skipped": result.get("skipped_images", []),
    }


def _warnings(record: RunRecord) -> list[dict[str, Any]]:
    """Each once, whether log or result has it."""
    found = {(entry["step"], entry["name"]): entry for entry in record.of_kind("warning")}
    found |= {(entry["step"], entry["name"]): entry for entry in record.result.get("warnings", [])}
    return [{"when": f"{record.time_unit} {record.time(step):.4g}", **entry} for (step, _), entry in found.items()]


def _facts(record: RunRecord) -> dict[str, Any]:
    """Name and value of what tells this run from others; without those that it does not have."""
    config, result, data = record.config, record.result, record.about.get("data", {})
    source, target, test = specs(config.data)
    steps = max((line["step"] for line in record.log), default=0)
    facts = {
        "Mode": config.mode,
        "Method": config.objectives.name if config.mode == "dann" else None,
        "Source": source,
        "Target": target,
        "Test images": test,
        "Labelled training images": data.get("labelled", {}).get("images"),
        "Unlabelled training images": data.get("unlabelled", {}).get("images"),
        "Classes": ", ".join(record.about.get("classes", [])),
        "Seed": config.seed,
        "Trained for": f"{steps} steps" + ("" if record.time_unit == "step" else f", {record.time(steps):.4g} epochs"),
        "Time": f"{result['seconds']:.0f} s, {result['images_per_second']:.0f} images/s" if result else None,
    }
    return {name: value for name, value in facts.items() if value is not None}
