"""Where a bundle comes from, as its manifest says: nothing that changes from export to export, and no path."""

import hashlib
import json
import platform
from importlib.metadata import version
from typing import Any

from dann.infer.bundle import sha256_of
from dann.infer.errors import DannError
from dann.train.run_dir import RunDir
from dann.train.settings import TrainConfig

_PACKAGES = ("dann", "torch", "onnx", "onnxscript")


def provenance(run: RunDir) -> dict[str, Any]:
    """Training, data, scores and package versions behind a bundle; raises :class:`DannError` for a damaged run.

    The configuration is given by its hash, since data specs are paths on somebody's machine.
    """
    config, about = run.read_config()
    return {
        "run": run.root.resolve().name,
        "mode": config.mode,
        "oracle": config.mode == "target",
        "simulated_target": about.get("simulated"),
        "backbone": config.model.backbone,
        "seed": config.seed,
        "config_sha256": _config_hash(config),
        "checkpoint": run.evaluated.stem,
        "checkpoint_sha256": sha256_of(run.evaluated),
        "data": about.get("data", {}),
        "scores": _scores(run),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
    }


def _config_hash(config: TrainConfig) -> str:
    text = json.dumps(config.to_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()


def _scores(run: RunDir) -> dict[str, Any] | None:
    """The closing accuracies, and beside them those of the last step, the selected one and the best by test labels.

    ``None`` for a run that has not ended.
    """
    if not run.result.exists():
        return None
    try:
        result = json.loads(run.result.read_text(encoding="utf-8"))
        accuracy = {
            f"{side}_accuracy": result[side]["accuracy"] if result[side] else None for side in ("source", "target")
        }
        history = {name: result[name] for name in ("last", "selected", "best_on_test_labels")}
        return {**accuracy, "domain_accuracy": result["domain_accuracy"], **history}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DannError(f"{run.result} is damaged: {error!r}; remove it, or train again") from error
