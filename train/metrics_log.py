"""Where the numbers of a run go: ``metrics.jsonl`` and TensorBoard, the same values in both."""

import contextlib
import json
import math
import threading
from pathlib import Path
from typing import Any

from torch.utils.tensorboard.writer import SummaryWriter

from dann.infer.errors import DannError
from dann.infer.whole_file import WholeFile


class MetricsLog:
    """An open log. Resuming at ``step`` first drops the lines of later steps, which are about to be done again.

    Raises :class:`DannError`, here and in :meth:`write`, where the disk takes no more.
    """

    def __init__(self, jsonl: Path, tensorboard: Path, *, step: int = 0):
        try:
            if jsonl.exists():
                _drop_after(jsonl, step)
            self._jsonl = open(jsonl, "a", encoding="utf-8")
            self._tensorboard = SummaryWriter(str(tensorboard), purge_step=step + 1)
        except OSError as error:
            file = error.filename or jsonl
            raise DannError(f"{file} cannot be written: {error.strerror}; make room, and try again") from error

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """One line, and a point on each TensorBoard curve ``kind/name``; tables are a curve each, ``None`` no point."""
        try:
            self._jsonl.write(json.dumps({"kind": kind, "step": step, **_plain(values)}) + "\n")
            self._jsonl.flush()
            for name, value in values.items():
                for leaf, number in value.items() if isinstance(value, dict) else [("", value)]:
                    if isinstance(number, (int, float)):
                        self._tensorboard.add_scalar(f"{kind}/{name}/{leaf}".rstrip("/"), number, step)
        except OSError as error:
            raise DannError(
                f"{self._jsonl.name} cannot be written: {error.strerror}; the checkpoint is kept"
            ) from error

    def close(self) -> None:
        for part in (self._jsonl, self._tensorboard):
            with contextlib.suppress(OSError):  # a disk that is full: whoever wrote has said so
                part.close()

    def __enter__(self) -> "MetricsLog":
        self._before = threading.excepthook
        threading.excepthook = self._thread_failed
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
        threading.excepthook = self._before

    def _thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        """TensorBoard writes in a thread, which ends where the disk is full: :meth:`write` says so, once."""
        if not isinstance(failure.exc_value, OSError):
            self._before(failure)


class NoLog:
    """The log of a process that does not write."""

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        pass

    def __enter__(self) -> "NoLog":
        return self

    def __exit__(self, *exc: object) -> None:
        pass


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """``values`` as JSON can say them: a number that is not finite becomes null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(entry) for key, entry in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return plain(values)


def _drop_after(jsonl: Path, step: int) -> None:
    kept = []
    for line in jsonl.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue  # a torn line of a killed run or machine
    with WholeFile(jsonl) as file:
        file.write("".join(line + "\n" for line in kept))
