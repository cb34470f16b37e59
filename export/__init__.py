"""Export: the trained network without its domain head, as a bundle that is verified against it.

Names are imported on first use. The way in is :func:`dann.export.export_run.export_run`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dann.export.export_run import Exported
    from dann.export.network import FeatureExtractor, InferenceNetwork, LabelClassifier
    from dann.export.parity import Verdict

_HOME = {
    "Exported": "export_run",
    "FeatureExtractor": "network",
    "InferenceNetwork": "network",
    "LabelClassifier": "network",
    "Verdict": "parity",
}
__all__ = ["Exported", "FeatureExtractor", "InferenceNetwork", "LabelClassifier", "Verdict"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dann.export' has no attribute {name!r}")
    return getattr(import_module(f"dann.export.{_HOME[name]}"), name)
