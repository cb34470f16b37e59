"""A real bundle with a network small enough to check by hand, and pictures for it. Needs neither torch nor onnx."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from dann.infer.bundle import MANIFEST, VERIFY, Artefact, Manifest, TensorSpec, file_hash, read_bundle
from dann.infer.preprocess import PreprocessSpec

GOLDEN = Path(__file__).parent / "golden"
FEATURES = {"colour": 3, "conv": 16}
"""How many features the golden networks give."""
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    """``make_bundle(model="colour")`` writes a bundle around a golden model and returns its folder."""

    def make(model: str = "colour", *, classes=("red", "green", "blue"), spec=None, **artefact) -> Path:
        root = tmp_path / "bundle"
        root.mkdir(exist_ok=True)
        shutil.copy(GOLDEN / f"{model}.onnx", root / "model.onnx")
        manifest = Manifest(
            classes=classes,
            preprocess=spec or PreprocessSpec(height=8, width=8),
            files={"model.onnx": file_hash(root / "model.onnx")},
            artefacts=(onnx_artefact("model.onnx", features=FEATURES[model], **artefact),),
        )
        (root / MANIFEST).write_bytes(manifest.to_json())
        return root

    return make


def onnx_artefact(name: str, *, features: int = 3, **changes) -> Artefact:
    sizes = {"logits": 3, "probabilities": 3, "features": features}
    fields = {
        "files": (name,),
        "format": "onnx",
        "inputs": (TensorSpec(name="images", dtype="uint8", shape=("batch", 8, 8, 3)),),
        "outputs": tuple(TensorSpec(name=name, dtype="float32", shape=("batch", size)) for name, size in sizes.items()),
        "batch": {"min": 1, "opt": 4, "max": None},
    }
    return Artefact(**{**fields, **changes})


@pytest.fixture
def bundle(make_bundle) -> Path:
    """A bundle whose network answers the dominant colour: red, green or blue."""
    return make_bundle()


@pytest.fixture
def verifiable(bundle: Path) -> Path:
    """``bundle`` with ``verify.npz``: two images, and eight times their mean colour, which is what it answers."""
    images_NHWC = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    return with_answers(bundle, images_NHWC, 8 * images_NHWC.mean(axis=(1, 2)) / 255)


def with_answers(bundle: Path, images_NHWC: np.ndarray, logits_NK: np.ndarray) -> Path:
    """``bundle``, which afterwards says that these images gave these logits."""
    np.savez(bundle / VERIFY, images=images_NHWC, fp32=logits_NK.astype(np.float32))
    manifest = read_bundle(bundle).manifest
    manifest = replace(manifest, files={**manifest.files, VERIFY: file_hash(bundle / VERIFY)})
    (bundle / MANIFEST).write_bytes(manifest.to_json())
    return bundle


@pytest.fixture(name="with_answers")
def _with_answers() -> Callable[..., Path]:
    return with_answers


@pytest.fixture
def draw() -> Callable[..., Path]:
    """``draw(path, "red")`` writes a plain 8×8 picture, creating its folder; an array is written as it is."""

    def draw(path: Path, colour: str | np.ndarray = "red") -> Path:
        image_HWC = np.full((8, 8, 3), COLOURS[colour], np.uint8) if isinstance(colour, str) else colour
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(image_HWC, path.suffix))
        return path

    return draw


def encode(image_HWC: np.ndarray, suffix: str = ".png") -> bytes:
    """An RGB, RGBA or grey array as the bytes of an image file."""
    if image_HWC.ndim == 3:
        to_bgr = cv2.COLOR_RGB2BGR if image_HWC.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
        image_HWC = cv2.cvtColor(image_HWC, to_bgr)
    return cv2.imencode(suffix, image_HWC)[1].tobytes()


@pytest.fixture(name="encode")
def _encode() -> Callable[..., bytes]:
    return encode


@pytest.fixture
def pictures(tmp_path: Path, draw) -> Path:
    """A folder with six pictures of known colour and three inputs that cannot be read."""
    root = tmp_path / "imgs"
    for name, colour in [
        ("a.png", "red"),
        ("b.png", "green"),
        ("deep/er/c.png", "blue"),
        ("deep/d.jpg", "red"),
        ("e.bmp", "green"),
        ("z.png", "blue"),
    ]:
        draw(root / name, colour)
    rng = np.random.default_rng(0)
    whole = encode(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8), ".jpg")
    (root / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "text.jpg").write_text("not an image")
    (root / "empty.png").write_bytes(b"")
    (root / "notes.txt").write_text("no image, no row")
    return root


@pytest.fixture
def world_folder() -> Iterator[Path]:
    """An empty folder that every user can reach; ``tmp_path`` is closed to others."""
    with tempfile.TemporaryDirectory(prefix="dann-test-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture
def as_ordinary_user() -> Callable[[], AbstractContextManager[None]]:
    """``with as_ordinary_user():`` permissions apply, which they do not to root."""

    @contextmanager
    def block() -> Iterator[None]:
        if os.geteuid() != 0:
            yield
            return
        os.seteuid(65534)  # nobody
        try:
            yield
        finally:
            os.seteuid(0)

    return block
