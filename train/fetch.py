"""Downloads of the public data sets into a data root, where :mod:`dann.train.named_sets` reads them.

What arrives goes to ``<file>.part`` and gets its name only once its checksum is right, so a file that is there is
whole. A download that broke off goes on from the ``.part``: at once, a few times, and at the next run.
"""

import gzip
import hashlib
import http.client
import os
import re
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dann.infer.errors import DannError, unknown_name

Progress = Callable[[str, int, int | None], None]
"""Called with the file's name, the bytes that are there, and those in all (``None``: not known)."""

_ATTEMPTS = 4
_PAUSE_S = 2.0
_TIMEOUT_S = 30.0
_CHUNK_BYTES = 2**18

_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_SVHN = "http://ufldl.stanford.edu/housenumbers/"
_USPS = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass/"
_BSDS = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/BSR/"

_PHOTO = re.compile(r"(?:\./)?BSR/BSDS500/data/images/train/([A-Za-z0-9_-]+\.jpg)")
_PHOTO_COUNT = 200


@dataclass(frozen=True)
class Download:
    """One file of a data set."""

    host: str
    """The address of the folder that holds it."""
    name: str
    folder: str
    """Where it goes, relative to the data root."""
    md5: str | None
    """``None`` where its publisher gives none; the content is then checked instead."""


# Addresses and MD5s of the digits are those of torchvision.datasets (MNIST, SVHN, USPS), version 0.29.
DOWNLOADS: dict[str, tuple[Download, ...]] = {
    "mnist": (
        Download(_MNIST, "train-images-idx3-ubyte.gz", "MNIST/raw", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        Download(_MNIST, "train-labels-idx1-ubyte.gz", "MNIST/raw", "d53e105ee54ea40749a09fcbcd1e9432"),
        Download(_MNIST, "t10k-images-idx3-ubyte.gz", "MNIST/raw", "9fb629c4189551a2d022fa330f9573f3"),
        Download(_MNIST, "t10k-labels-idx1-ubyte.gz", "MNIST/raw", "ec29112dd5afa0611ce80d1b7f02629c"),
    ),
    "svhn": (
        Download(_SVHN, "train_32x32.mat", "SVHN", "e26dedcc434d2e4c54c9b2d4a06d8373"),
        Download(_SVHN, "test_32x32.mat", "SVHN", "eb5a983be6a315427106f1b164d9cef3"),
    ),
    "usps": (
        Download(_USPS, "usps.bz2", "USPS", "ec16c51db3855ca6c91edd34d0e9b197"),
        Download(_USPS, "usps.t.bz2", "USPS", "8ea070ee2aca1ac39742fdd1ef5ed118"),
    ),
    "bsds500": (Download(_BSDS, "BSR_bsds500.tgz", "BSDS500", None),),
}


class _Broken(Exception):
    """The network failed; ``final`` where trying this address again is no use."""

    def __init__(self, reason: object, final: bool = False):
        super().__init__(str(reason) or type(reason).__name__)
        self.final = final


def fetch(
    name: str,
    data_root: Path,
    *,
    mirrors: Sequence[str] | None = None,
    on_progress: Progress | None = None,
) -> list[Path]:
    """The files of ``name`` (a key of :data:`DOWNLOADS`) under ``data_root``, downloaded where they lack.

    ``mirrors`` are addresses of folders that hold the same files, tried in order instead of the published.
    Raises :class:`UsageError` for an unknown name, and :class:`DannError` where a file cannot be downloaded,
    written, or is not the published one.
    """
    if name not in DOWNLOADS:
        raise unknown_name("download", name, DOWNLOADS)
    try:
        if name == "bsds500":
            return _fetch_photos(DOWNLOADS[name][0], data_root, mirrors, on_progress)
        return [_fetch_file(wanted, data_root, mirrors, on_progress) for wanted in DOWNLOADS[name]]
    except OSError as error:
        raise DannError(
            f"cannot write to '{error.filename or data_root}': {error.strerror or error}; "
            "expected a folder that can be written, with enough space: choose one with --data-root"
        ) from error


def _fetch_file(wanted: Download, data_root: Path, mirrors: Sequence[str] | None, on_progress: Progress | None) -> Path:
    path = data_root / wanted.folder / wanted.name
    if path.exists():
        _check_md5(path, wanted.md5, "it was there before: move it away to download it again")
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    _receive_from_any([host.rstrip("/") + "/" + wanted.name for host in mirrors or [wanted.host]], part, on_progress)
    try:
        _check_md5(part, wanted.md5, "it was discarded: run this again, or use another mirror")
    except DannError:
        part.unlink()
        raise
    os.replace(part, path)
    return path


def _check_md5(path: Path, expected: str | None, advice: str) -> None:
    if expected is None:
        return
    with path.open("rb") as file:
        given = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if given != expected:
        raise DannError(f"'{path}' has MD5 {given}; expected {expected}; {advice}")


def _receive_from_any(urls: Sequence[str], part: Path, on_progress: Progress | None) -> None:
    problems = []
    for url in urls:
        try:
            return _receive_patiently(url, part, on_progress)
        except _Broken as error:
            problems.append(f"{url}: {error}")
    raise DannError(
        f"could not download {'; '.join(problems)}. Check the connection and run this again (what arrived "
        f"is kept), or download the file by other means and put it at '{part.with_suffix('')}'"
    )


def _receive_patiently(url: str, part: Path, on_progress: Progress | None) -> None:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _receive(url, part, on_progress)
        except _Broken as error:
            if error.final or attempt == _ATTEMPTS:
                raise
            time.sleep(_PAUSE_S * attempt)


def _receive(url: str, part: Path, on_progress: Progress | None) -> None:
    """The file at ``url`` in ``part``, going on from what is there where the server can do that."""
    there = part.stat().st_size if part.exists() else 0
    response = _open(url, there)
    if response is None:
        return
    with response:
        if response.status != 206:  # the server sends it all again
            there = 0
        length = response.headers.get("Content-Length")
        total = there + int(length) if length else None
        with part.open("ab" if there else "wb") as file:
            for chunk in _chunks(response):
                file.write(chunk)
                there += len(chunk)
                if on_progress:
                    on_progress(part.stem, there, total)
    if total is not None and there < total:
        raise _Broken(f"the connection ended after {there} of {total} bytes")


def _open(url: str, there: int) -> http.client.HTTPResponse | None:
    """The response to a request for what lacks; ``None`` where nothing does."""
    headers = {"User-Agent": "dann", "Accept-Encoding": "identity"}
    if there:
        headers["Range"] = f"bytes={there}-"
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and there:
            return None
        raise _Broken(f"HTTP {error.code} {error.reason}", final=error.code < 500) from error
    except urllib.error.URLError as error:
        raise _Broken(error.reason) from error
    except ValueError as error:  # not an address
        raise _Broken(error, final=True) from error
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(error) from error


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := response.read(_CHUNK_BYTES):
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(error) from error


def _fetch_photos(
    archive: Download, data_root: Path, mirrors: Sequence[str] | None, on_progress: Progress | None
) -> list[Path]:
    """The training photos of the archive, without the rest of it."""
    folder = data_root / archive.folder
    photos = sorted(folder.glob("*.jpg"))
    if len(photos) >= _PHOTO_COUNT:
        return photos
    path = _fetch_file(archive, data_root, mirrors, on_progress)
    try:
        photos = _unpack_photos(path)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        path.unlink()
        raise DannError(f"'{path}' is damaged ({error}); it was discarded: run this again") from error
    path.unlink()
    return photos


def _unpack_photos(path: Path) -> list[Path]:
    """The photos of the archive at ``path``, written beside it.

    Only plain files at the expected place are read, and only their last name, of harmless letters, is used:
    nothing in the archive decides where something is written.
    """
    photos: dict[str, bytes] = {}
    with tarfile.open(path, "r:gz") as tar:
        for member in tar:
            place = _PHOTO.fullmatch(member.name)
            content = tar.extractfile(member) if place and member.isfile() else None
            if place and content:
                photos[place.group(1)] = content.read()
    if len(photos) != _PHOTO_COUNT:
        raise tarfile.ReadError(f"it has {len(photos)} training photos; expected {_PHOTO_COUNT}")
    for name, data in photos.items():
        part = path.with_name(f"{name}.part")
        part.write_bytes(data)
        os.replace(part, path.with_name(name))
    return [path.with_name(name) for name in sorted(photos)]
