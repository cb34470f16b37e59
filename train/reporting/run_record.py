"""What a run wrote about itself, read back however it ended: its configuration, log and result."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dann.infer.errors import DannError
from dann.train.run_dir import RunDir
from dann.train.settings import TrainConfig


@dataclass(frozen=True)
class RunRecord:
    """The files of a run as values. Nothing but the configuration need be there."""

    run: RunDir
    config: TrainConfig
    about: dict[str, Any]
    """What else ``config.json`` says: classes, data."""
    log: list[dict[str, Any]]
    """The lines of ``metrics.jsonl``; each has a ``kind`` and a ``step``."""
    result: dict[str, Any]
    """``result.json``; empty for a run that did not finish."""

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """The lines of that kind, in order."""
        return [line for line in self.log if line["kind"] == kind]

    def curve(self, kind: str, key: str) -> tuple[list[float], list[float]]:
        """Where on the axis of time, and the value of ``key``, for each line of ``kind`` that has one."""
        found = [(self.time(line["step"]), line[key]) for line in self.of_kind(kind) if line.get(key) is not None]
        return [x for x, _ in found], [y for _, y in found]

    def keys(self, kind: str) -> list[str]:
        """The names of the values that any line of ``kind`` has, in the order of their first appearance."""
        return list(dict.fromkeys(key for line in self.of_kind(kind) for key in line))

    def time(self, step: int) -> float:
        """``step`` in :attr:`time_unit`."""
        return step * self._epochs_per_step if self._epochs_per_step else step

    @property
    def time_unit(self) -> str:
        """``epoch``, where the log says how long one is, else ``step``."""
        return "epoch" if self._epochs_per_step else "step"

    @cached_property
    def _epochs_per_step(self) -> float | None:
        for line in self.of_kind("step"):
            if line.get("epoch") and line["step"]:
                return line["epoch"] / line["step"]
        return None


def read_record(run: RunDir) -> RunRecord:
    """The record of ``run``; :class:`DannError` for a damaged configuration or result."""
    config, about = run.read_config()
    return RunRecord(run, config, about, _read_log(run.metrics), _read_result(run.result))


def _read_log(path: Path) -> list[dict[str, Any]]:
    """Every whole line: a run that was killed leaves a torn one, or no file at all."""
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and {"kind", "step"} <= line.keys():
            lines.append(line)
    return lines


def _read_result(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise DannError(f"{path} is damaged: {error}; restore it, or take it away to report without it") from error
