"""Export: the trained network without its domain head, as a bundle that is verified against it.

Names are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dann.export.judge import Judged
    from dann.export.network import FeatureExtractor, InferenceNetwork, LabelClassifier
    from dann.export.run_export import Exported, export_run
    from dann.export.settings import BatchRange, EngineConfig, ExportConfig

_HOME = {
    "BatchRange": "settings",
    "EngineConfig": "settings",
    "ExportConfig": "settings",
    "Exported": "run_export",
    "FeatureExtractor": "network",
    "InferenceNetwork": "network",
    "Judged": "judge",
    "LabelClassifier": "network",
    "export_run": "run_export",
}
__all__ = [
    "BatchRange",
    "EngineConfig",
    "ExportConfig",
    "Exported",
    "FeatureExtractor",
    "InferenceNetwork",
    "Judged",
    "LabelClassifier",
    "export_run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dann.export' has no attribute {name!r}")
    return getattr(import_module(f"dann.export.{_HOME[name]}"), name)
