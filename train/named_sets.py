"""The named data sets, read from where ``dann data …`` puts them under a data root.

    mnist    MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]    28×28 grey
    mnistm   MNIST-M/mnistm_{train,test}.npz                                RGB, whatever size it was built at
    svhn     SVHN/{train,test}_32x32.mat                                    32×32 RGB   (read by torchvision)
    usps     USPS/{usps,usps.t}.bz2                                         16×16 grey  (read by torchvision)
    cars     cars/{train/source, train/target, test}/<class>/…              rendered, simulated photos

Nothing is downloaded or written here. Where a file is missing, a :class:`UsageError` has the line that makes
it.
"""

import gzip
import os
import shlex
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from dann.infer.errors import DannError, UsageError, missing_extra
from dann.infer.user_cache import user_cache

Split = Literal["train", "test"]
Role = Literal["source", "target"]

CARS = "cars"
DIGITS = tuple("0123456789")
_IDX_UINT8 = 0x08


@dataclass(frozen=True)
class Arrays:
    """A labelled set that is in memory."""

    images: np.ndarray
    """uint8 (N, H, W) or (N, H, W, 3)."""

    labels: np.ndarray
    """int64 (N,), indices into ``classes``."""

    classes: tuple[str, ...]


def default_data_root() -> Path:
    """Where named sets live unless told: ``DANN_DATA``, else ``dann`` in the user's cache."""
    if given := os.environ.get("DANN_DATA"):
        return Path(given)
    return user_cache()


def fetch_line(name: str, data_root: Path) -> str:
    """What to type to download ``name`` to ``data_root``."""
    elsewhere = [] if data_root == default_data_root() else ["--data-root", str(data_root)]
    return shlex.join(["dann", "data", "fetch", name, *elsewhere])


def read_digits(name: str, split: Split, data_root: Path) -> Arrays:
    """One of the digit sets (:data:`DIGIT_SETS`) as it is stored, not resized.

    Raises :class:`UsageError` where its files are missing, :class:`DannError` where they are damaged.
    """
    images, labels = _READERS[name](data_root, split)
    labels = np.asarray(labels, np.int64)
    if images.dtype != np.uint8 or len(images) != len(labels) or labels.ndim != 1:
        raise DannError(
            f"{name} ({split}) has images {images.dtype}{images.shape} and labels {labels.shape}; "
            "expected uint8 images and as many labels"
        )
    if len(labels) == 0 or labels.min() < 0 or labels.max() > 9:
        raise DannError(f"{name} ({split}) has labels outside 0…9, or none at all; fetch or build it again")
    return Arrays(images, labels, DIGITS)


def cars_folder(split: Split, role: Role, data_root: Path) -> Path:
    """The folder of class folders of the embedded set: a training side (``role``), or the test photos."""
    if split == "test" and role == "source":
        raise UsageError("the cars set has no test renders; leave the source test out: some renders are held out")
    root = data_root / CARS
    folder = root / "test" if split == "test" else root / "train" / role
    if not folder.is_dir():
        raise UsageError(f"there is no folder '{folder}'; make the cars set with: dann data cars --out {root}")
    return folder


def find_mnist(root: Path) -> Path:
    """The folder with the idx files: ``root`` itself, ``root/raw`` or ``root/MNIST/raw``."""
    for folder in (root, root / "raw", root / "MNIST" / "raw"):
        if _plain_or_gz(folder, "train-images-idx3-ubyte"):
            return folder
    raise UsageError(
        f"no MNIST files (train-images-idx3-ubyte, plain or .gz) in '{root}'; "
        f"get them with: {fetch_line('mnist', root)}"
    )


def read_mnist(raw: Path, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 28, 28) and labels uint8 (N,) of the idx files in ``raw``."""
    stem = "train" if split == "train" else "t10k"
    return read_idx(raw, f"{stem}-images-idx3-ubyte"), read_idx(raw, f"{stem}-labels-idx1-ubyte")


def read_idx(folder: Path, name: str) -> np.ndarray:
    """The uint8 array of an idx file, plain or ``.gz`` (unpacked in memory: the folder may be read-only)."""
    path = _plain_or_gz(folder, name)
    if path is None:
        raise UsageError(f"'{folder / name}[.gz]' does not exist; get it with: dann data fetch mnist")
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise DannError(f"'{path}' cannot be read ({error}); delete it and run: dann data fetch mnist") from error
    dimensions = data[3] if len(data) >= 4 else 0
    start = 4 + 4 * dimensions
    shape = tuple(int.from_bytes(data[at : at + 4], "big") for at in range(4, start, 4))
    if data[:3] != bytes([0, 0, _IDX_UINT8]) or len(data) - start != np.prod(shape, dtype=np.int64):
        raise DannError(f"'{path}' is not a whole idx file of bytes; delete it and run: dann data fetch mnist")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Every array of an ``.npz``; objects (pickle) are refused. Raises :class:`DannError`."""
    try:
        with path.open("rb") as file:  # opened here, as np.load leaves a damaged file open
            stored = np.load(file, allow_pickle=False)
            if isinstance(stored, np.ndarray):
                raise ValueError("it is a single array")
            return {key: stored[key] for key in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DannError(f"'{path}' cannot be read as an .npz of plain arrays ({error})") from error


def _plain_or_gz(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _mnist(data_root: Path, split: Split) -> tuple[np.ndarray, np.ndarray]:
    return read_mnist(find_mnist(data_root), split)


def _mnistm(data_root: Path, split: Split) -> tuple[np.ndarray, np.ndarray]:
    folder = data_root / "MNIST-M"
    path = folder / f"mnistm_{split}.npz"
    if not path.is_file():
        photos = data_root / "BSDS500"
        build = [
            "dann",
            "data",
            "mnistm",
            "--mnist",
            str(data_root),
            "--photos",
            str(photos),
            "--out",
            str(folder),
        ]
        raise UsageError(
            f"'{path}' does not exist; build it from MNIST and a folder of photos with: {shlex.join(build)}\n"
            f"({fetch_line('mnist', data_root)} and {fetch_line('bsds500', data_root)} get both)"
        )
    stored = read_npz(path)
    if "x" not in stored or "y" not in stored:
        raise DannError(f"'{path}' has the arrays {sorted(stored)}; expected 'x' and 'y'")
    return stored["x"], stored["y"]


def _svhn(data_root: Path, split: Split) -> tuple[np.ndarray, np.ndarray]:
    folder = data_root / "SVHN"
    _require(folder / f"{split}_32x32.mat", "svhn", data_root)
    datasets = _torchvision_datasets("SVHN")
    try:
        stored = datasets.SVHN(root=folder, split=split, download=False)
    except ImportError as error:
        raise missing_extra("train", "scipy", "reading SVHN") from error
    except (RuntimeError, ValueError, OSError) as error:
        raise _damaged(folder / f"{split}_32x32.mat", "svhn", error) from error
    return np.ascontiguousarray(stored.data.transpose(0, 2, 3, 1)), stored.labels  # torchvision holds (N, 3, H, W)


def _usps(data_root: Path, split: Split) -> tuple[np.ndarray, np.ndarray]:
    folder = data_root / "USPS"
    path = folder / ("usps.bz2" if split == "train" else "usps.t.bz2")
    _require(path, "usps", data_root)
    datasets = _torchvision_datasets("USPS")
    try:
        stored = datasets.USPS(root=folder, train=split == "train", download=False)
    except (ValueError, OSError, EOFError) as error:
        raise _damaged(path, "usps", error) from error
    return stored.data, np.asarray(stored.targets)


def _require(path: Path, name: str, data_root: Path) -> None:
    if not path.is_file():
        raise UsageError(f"'{path}' does not exist; get it with: {fetch_line(name, data_root)}")


def _damaged(path: Path, name: str, error: Exception) -> DannError:
    return DannError(f"'{path}' is damaged ({error}); delete it and run: dann data fetch {name}")


def _torchvision_datasets(name: str):
    try:
        from torchvision import datasets
    except ImportError as error:
        raise missing_extra("train", "torchvision", f"reading {name}") from error
    return datasets


_READERS: dict[str, Callable[[Path, Split], tuple[np.ndarray, np.ndarray]]] = {
    "mnist": _mnist,
    "mnistm": _mnistm,
    "svhn": _svhn,
    "usps": _usps,
}
DIGIT_SETS = tuple(_READERS)
NAMED_SETS = (*DIGIT_SETS, CARS)
