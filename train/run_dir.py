"""The folder of a run: ``runs/<name>/``, and the file ``runs/latest`` that names the newest.

config.json     the resolved configuration, classes and data: enough to rebuild the run
metrics.jsonl   one JSON object a line, ``kind`` being ``step`` or ``eval``
tensorboard/    the same as TensorBoard events
checkpoints/    last.safetensors, all of the state; selected.safetensors, the network chosen, where it is another one
result.json     the closing scores
"""

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any, Literal

from dann.infer.bundle import BundleError, read_bundle, sha256_of
from dann.infer.errors import DannError, UsageError, unknown_name
from dann.train.settings import TrainConfig

Which = Literal["last", "selected"]
RUNS = Path("runs")
CONFIG_SCHEMA = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class RunDir:
    """The files of one run, addressed by name."""

    def __init__(self, root: Path):
        self.root = root
        self.config = root / "config.json"
        self.metrics = root / "metrics.jsonl"
        self.tensorboard = root / "tensorboard"
        self.last = self.checkpoint("last")
        self.selected = self.checkpoint("selected")
        self.result = root / "result.json"
        self.profile = root / "profile.json"
        self.bundle = root / "bundle"

    def checkpoint(self, which: Which) -> Path:
        """The file of a checkpoint, whether it is there or not."""
        return self.root / "checkpoints" / f"{which}.safetensors"

    @property
    def evaluated(self) -> Path:
        """The checkpoint that is evaluated and exported: the selected one where selection keeps one, else the last."""
        return self.selected if self.selected.is_file() else self.last

    def read_config(self) -> tuple[TrainConfig, dict[str, Any]]:
        """The configuration, and everything else that ``config.json`` records (classes, data, versions)."""
        try:
            about = json.loads(self.config.read_text(encoding="utf-8"))
            schema, settings = int(about["schema"]), dict(about["config"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DannError(f"{self.config} is damaged or not a dann configuration: {error!r}") from error
        if schema > CONFIG_SCHEMA:
            raise DannError(f"{self.config} has schema {schema}, this dann reads up to {CONFIG_SCHEMA}; upgrade dann")
        try:
            return TrainConfig.from_dict(settings), about
        except UsageError as error:
            raise DannError(f"{self.config} is damaged, or of another version of dann: {error}") from error

    def has_current_bundle(self) -> bool:
        """Whether ``bundle`` is whole, and was exported from the checkpoint that is there now."""
        try:
            bundle = read_bundle(self.bundle)
            for artefact in bundle.manifest.artefacts:
                bundle.file(artefact)
        except (BundleError, UsageError):
            return False
        return bundle.manifest.provenance.get("checkpoint_sha256") == sha256_of(self.evaluated)

    def has_older_bundle(self) -> bool:
        """Whether ``bundle`` was exported from another checkpoint than the one that is there now."""
        if not self.evaluated.is_file():
            return False
        return read_bundle(self.bundle).manifest.provenance.get("checkpoint_sha256") != sha256_of(self.evaluated)

    def write_config(self, config: TrainConfig, about: dict[str, Any]) -> None:
        write_json(self.config, {"schema": CONFIG_SCHEMA, **about, "config": config.to_dict()})


def create_run(runs: Path, name: str | None, default_name: str, config: TrainConfig, about: dict[str, Any]) -> RunDir:
    """A new run folder with its ``config.json``. ``name`` must be free; the default gets a number if it is not."""
    if name is not None and (not _NAME.fullmatch(name) or name == "latest"):
        raise UsageError(
            f"run name {name!r} may hold only letters, digits, '.', '_' and '-', and 'latest' means the newest run"
        )
    wanted, number = name or default_name, 1
    while True:
        root = runs / (wanted if number == 1 else f"{wanted}-{number}")
        try:
            root.mkdir(parents=True)
            break
        except FileExistsError:
            if name is not None:
                raise UsageError(f"run {str(root)!r} exists already; choose another --name or --resume it") from None
            number += 1
        except OSError as error:
            raise DannError(f"the run folder {str(root)!r} cannot be made: {error.strerror}") from error
    run = RunDir(root)
    try:
        run.write_config(config, about)
    except DannError:
        root.rmdir()  # or the name would be taken by a run that is none
        raise
    return run


def mark_latest(root: Path) -> None:
    """Make ``root`` the run that commands take when none is named."""
    latest, part = root.parent / "latest", root.parent / f".latest.{os.getpid()}"
    try:
        part.write_text(root.name + "\n", encoding="utf-8")
        os.replace(part, latest)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise DannError(f"{str(latest)!r} cannot be written: {error.strerror}") from error


def find_run(run: str | None, runs: Path = RUNS) -> RunDir:
    """The run folder ``run``, by path or by name under ``runs``; the latest one for ``None`` and ``"latest"``."""
    if run in (None, "latest"):
        try:
            run = (runs / "latest").read_text(encoding="utf-8").strip()
        except OSError:
            raise _no_run(runs) from None
    for root in (Path(run), runs / run):
        if os.path.isfile(root / "config.json"):  # Path.is_file raises for a name that is too long
            return RunDir(root)
    known = [entry.name for entry in runs.iterdir() if (entry / "config.json").is_file()] if runs.is_dir() else []
    if not known:
        raise _no_run(runs, f"unknown run {run!r}; ")
    raise unknown_name("run", run, known)


def _no_run(runs: Path, before: str = "") -> UsageError:
    return UsageError(
        f"{before}there is no run in {str(runs)!r} yet; train one with `dann train`, or name what you have "
        "(--runs DIR, or for inference --bundle DIR)"
    )


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        # a file name that is not UTF-8 holds lone surrogates; as \udcXX, which this makes of them, JSON can say it
        part.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise DannError(f"{path} cannot be written: {error.strerror}") from error
