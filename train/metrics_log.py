"""Where the numbers of a run go: ``metrics.jsonl`` and TensorBoard, the same values in both."""

import json
import os
from pathlib import Path
from typing import Any

from torch.utils.tensorboard.writer import SummaryWriter

from dann.infer.errors import DannError


class MetricsLog:
    """An open log. Resuming at ``step`` first drops the lines of later steps, which are about to be done again."""

    def __init__(self, jsonl: Path, tensorboard: Path, *, step: int = 0):
        if jsonl.exists():
            _drop_after(jsonl, step)
        self._jsonl = open(jsonl, "a", encoding="utf-8")
        self._tensorboard = SummaryWriter(str(tensorboard), purge_step=step + 1 if step else None)

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """One line, and one point on each TensorBoard curve ``kind/name``; ``None`` values have no point."""
        try:
            self._jsonl.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
            self._jsonl.flush()
        except OSError as error:
            raise DannError(
                f"{self._jsonl.name} cannot be written: {error.strerror}; the checkpoint is kept"
            ) from error
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self._tensorboard.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        self._jsonl.close()
        self._tensorboard.close()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _drop_after(jsonl: Path, step: int) -> None:
    kept = []
    for line in jsonl.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):
            continue  # the torn last line of a killed run
    part = jsonl.with_name(jsonl.name + ".part")
    part.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    os.replace(part, jsonl)
