"""The torch-free runtime: read a bundle, classify images.

>>> from dann.infer import Classifier                                      # doctest: +SKIP
>>> with Classifier.load("bundle/") as classifier:                         # doctest: +SKIP
...     for prediction in classifier.predict(["car.jpg"]):
...         print(prediction.label, prediction.probability)

Names are loaded when first used: ``import dann.infer`` costs no OpenCV, and no engine until one is opened.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dann.infer.bench import bench_bundle
    from dann.infer.bench_result import Bench
    from dann.infer.bundle import Bundle, BundleError, read_bundle
    from dann.infer.engine import Engine, open_engine
    from dann.infer.errors import DannError, ImageError, UnavailableError, UsageError
    from dann.infer.folder import Summary, classify_folder
    from dann.infer.images import ImageFile, find_images
    from dann.infer.predict import Classifier, Prediction
    from dann.infer.preprocess import PreprocessSpec, load_image
    from dann.infer.verdict import Verdict
    from dann.infer.verify import Checked, verify_bundle

_HOME = {
    "Bench": "bench_result",
    "Bundle": "bundle",
    "BundleError": "bundle",
    "Checked": "verify",
    "Classifier": "predict",
    "DannError": "errors",
    "Engine": "engine",
    "ImageError": "errors",
    "ImageFile": "images",
    "Prediction": "predict",
    "PreprocessSpec": "preprocess",
    "Summary": "folder",
    "UnavailableError": "errors",
    "UsageError": "errors",
    "Verdict": "verdict",
    "bench_bundle": "bench",
    "classify_folder": "folder",
    "find_images": "images",
    "load_image": "preprocess",
    "open_engine": "engine",
    "read_bundle": "bundle",
    "verify_bundle": "verify",
}

__all__ = [
    "Bench",
    "Bundle",
    "BundleError",
    "Checked",
    "Classifier",
    "DannError",
    "Engine",
    "ImageError",
    "ImageFile",
    "Prediction",
    "PreprocessSpec",
    "Summary",
    "UnavailableError",
    "UsageError",
    "Verdict",
    "bench_bundle",
    "classify_folder",
    "find_images",
    "load_image",
    "open_engine",
    "read_bundle",
    "verify_bundle",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
