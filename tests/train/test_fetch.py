"""Downloads from a real HTTP server on this machine, which also misbehaves as real ones do."""

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from dann.infer.errors import DannError, UsageError
from dann.train import fetch as module
from dann.train.fetch import DOWNLOADS, fetch

CONTENT = np.random.default_rng(0).bytes(700_000)  # more than two chunks
NAME = DOWNLOADS["usps"][0].name


@dataclass
class Site:
    """What the server has, how it behaves, and what it was asked."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    says_length: bool = True
    cut_after: list[int] = field(default_factory=list)
    """For each of the next responses: bytes after which the connection ends."""
    status: dict[str, int] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """Name and Range header of each request."""


class Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site, name = self.site, self.path.rsplit("/", 1)[-1]
        wanted = self.headers.get("Range")
        site.requests.append((name, wanted))
        if name in site.status or name not in site.files:
            self.send_error(site.status.get(name, 404))
            return
        data = site.files[name]
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and site.ranges else 0
        if start and start >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if site.says_length:
            self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        body = data[start:]
        self.wfile.write(body[: site.cut_after.pop(0)] if site.cut_after else body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the test's output stays clean."""


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(module, "_PAUSE_S", 0.0)
    site = Site(files={NAME: CONTENT})
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("SiteHandler", (Handler,), {"site": site}))
    site.url = f"http://127.0.0.1:{server.server_address[1]}/sets/"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """The set ``usps`` is one file with the MD5 of :data:`CONTENT`, as its real files cannot be here."""
    wanted = replace(DOWNLOADS["usps"][0], md5=hashlib.md5(CONTENT).hexdigest())
    monkeypatch.setitem(DOWNLOADS, "usps", (wanted,))


def test_a_file_arrives_whole_at_its_place(site: Site, tmp_path: Path):
    [path] = fetch("usps", tmp_path / "new" / "root", mirrors=[site.url])
    assert path == tmp_path / "new" / "root" / "USPS" / NAME
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in path.parent.iterdir()] == [NAME]


def test_the_address_of_a_mirror_may_lack_its_slash(site: Site, tmp_path: Path):
    assert fetch("usps", tmp_path, mirrors=[site.url.rstrip("/")])[0].read_bytes() == CONTENT


def test_a_file_that_is_there_is_not_asked_for_again(site: Site, tmp_path: Path):
    fetch("usps", tmp_path, mirrors=[site.url])
    fetch("usps", tmp_path, mirrors=[site.url])
    assert len(site.requests) == 1


def test_a_file_that_is_there_but_different_is_kept_and_named(site: Site, tmp_path: Path):
    path = tmp_path / "USPS" / NAME
    path.parent.mkdir()
    path.write_bytes(b"mine")
    with pytest.raises(DannError, match="has MD5 .*; expected .*; it was there before"):
        fetch("usps", tmp_path, mirrors=[site.url])
    assert path.read_bytes() == b"mine" and not site.requests


def test_a_connection_that_is_cut_goes_on_where_it_ended(site: Site, tmp_path: Path):
    site.cut_after = [300_000, 0, 100_000]
    assert fetch("usps", tmp_path, mirrors=[site.url])[0].read_bytes() == CONTENT
    assert [asked for _, asked in site.requests] == [None, "bytes=300000-", "bytes=300000-", "bytes=400000-"]


def test_a_server_without_ranges_sends_it_all_again(site: Site, tmp_path: Path):
    site.ranges, site.cut_after = False, [300_000]
    assert fetch("usps", tmp_path, mirrors=[site.url])[0].read_bytes() == CONTENT
    assert len(site.requests) == 2


def test_a_server_that_does_not_say_the_length_is_fine(site: Site, tmp_path: Path):
    site.says_length = False
    calls: list[tuple[str, int, int | None]] = []
    [path] = fetch("usps", tmp_path, mirrors=[site.url], on_progress=lambda *call: calls.append(call))
    assert path.read_bytes() == CONTENT
    assert calls[-1] == (NAME, len(CONTENT), None)


def test_a_run_that_gave_up_is_continued_by_the_next(site: Site, tmp_path: Path):
    site.cut_after = [100_000, 100_000, 100_000, 100_000]
    with pytest.raises(DannError) as caught:
        fetch("usps", tmp_path, mirrors=[site.url])
    message = str(caught.value)
    assert "the connection ended after 400000 of 700000 bytes" in message
    assert f"{site.url}{NAME}" in message and f"put it at '{tmp_path / 'USPS' / NAME}'" in message
    assert fetch("usps", tmp_path, mirrors=[site.url])[0].read_bytes() == CONTENT
    assert site.requests[-1] == (NAME, "bytes=400000-")


def test_a_part_that_is_complete_only_gets_its_name(site: Site, tmp_path: Path):
    part = tmp_path / "USPS" / f"{NAME}.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT)
    assert fetch("usps", tmp_path, mirrors=[site.url])[0].read_bytes() == CONTENT
    assert not part.exists()


@pytest.mark.parametrize("there", [b"", b"wrong bytes"])
def test_a_wrong_checksum_discards_the_download(site: Site, tmp_path: Path, there: bytes):
    site.files[NAME] = CONTENT if there else CONTENT[:-1]
    part = tmp_path / "USPS" / f"{NAME}.part"
    part.parent.mkdir()
    part.write_bytes(there)
    with pytest.raises(DannError, match=f"has MD5 .*; expected {hashlib.md5(CONTENT).hexdigest()}; it was discarded"):
        fetch("usps", tmp_path, mirrors=[site.url])
    assert list(part.parent.iterdir()) == []


def test_a_file_that_the_server_lacks_is_asked_for_once(site: Site, tmp_path: Path):
    site.files.clear()
    with pytest.raises(DannError, match=r"HTTP 404 .*put it at"):
        fetch("usps", tmp_path, mirrors=[site.url])
    assert len(site.requests) == 1


def test_a_server_in_trouble_is_asked_again_and_then_the_next_mirror(site: Site, tmp_path: Path):
    site.status[NAME] = 503
    other = site.url.replace("/sets/", "/other/")
    with pytest.raises(DannError, match=r"/sets/usps.bz2: HTTP 503 .*; http://.*/other/usps.bz2: HTTP 503"):
        fetch("usps", tmp_path, mirrors=[site.url, other])
    assert len(site.requests) == 2 * module._ATTEMPTS


def test_the_next_mirror_takes_over(site: Site, tmp_path: Path):
    gone = "http://127.0.0.1:9/"  # the discard port: nothing listens
    assert fetch("usps", tmp_path, mirrors=[gone, site.url])[0].read_bytes() == CONTENT


def test_no_server_at_all_says_what_to_do(site: Site, tmp_path: Path):
    with pytest.raises(DannError, match="could not download http://127.0.0.1:9/usps.bz2: .*Check the connection"):
        fetch("usps", tmp_path, mirrors=["http://127.0.0.1:9/"])


def test_progress_counts_what_was_there_before(site: Site, tmp_path: Path):
    site.cut_after = [300_000]
    calls: list[tuple[str, int, int | None]] = []
    fetch("usps", tmp_path, mirrors=[site.url], on_progress=lambda *call: calls.append(call))
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)
    assert calls[-1] == (NAME, len(CONTENT), len(CONTENT))


def test_a_place_that_cannot_be_written_is_named(site: Site, tmp_path: Path):
    (tmp_path / "USPS").write_text("a file, where the folder should be")
    with pytest.raises(DannError, match="cannot write to .*USPS.*--data-root"):
        fetch("usps", tmp_path, mirrors=[site.url])


def test_an_unknown_name_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="unknown download 'mnits'; did you mean 'mnist'"):
        fetch("mnits", tmp_path)


def test_addresses_and_checksums_are_those_that_torchvision_publishes():
    from torchvision.datasets import MNIST, SVHN

    assert {(f"{d.host}{d.name}", d.md5) for d in DOWNLOADS["mnist"]} == {
        (MNIST.mirrors[0] + name, md5) for name, md5 in MNIST.resources
    }
    assert {(f"{d.host}{d.name}", d.name, d.md5) for d in DOWNLOADS["svhn"]} == {
        tuple(SVHN.split_list[split]) for split in ("train", "test")
    }


ARCHIVE = DOWNLOADS["bsds500"][0].name
INSIDE = "BSR/BSDS500/data/images"


def archive(names: list[str]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
        link = tarfile.TarInfo(f"{INSIDE}/train/link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return stream.getvalue()


PHOTOS = [f"{INSIDE}/train/{i}.jpg" for i in range(200)]


def test_only_the_training_photos_are_unpacked(site: Site, tmp_path: Path):
    evil = ["../evil.jpg", f"{INSIDE}/train/../../../../../evil.jpg", "/tmp/evil.jpg", f"{INSIDE}/train/..\\evil.jpg"]
    site.files[ARCHIVE] = archive([*PHOTOS, f"{INSIDE}/test/900.jpg", f"{INSIDE}/train/Thumbs.db", *evil])
    photos = fetch("bsds500", tmp_path / "root", mirrors=[site.url])
    assert len(photos) == 200
    assert photos[0].read_text() == PHOTOS[0]
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {f"{i}.jpg" for i in range(200)}
    fetch("bsds500", tmp_path / "root", mirrors=[site.url])
    assert len(site.requests) == 1


@pytest.mark.parametrize("content", [archive(PHOTOS[:199]), archive(PHOTOS)[:-400], b"<html>moved</html>", b""])
def test_an_archive_that_is_not_whole_is_discarded(site: Site, tmp_path: Path, content: bytes):
    site.files[ARCHIVE] = content
    with pytest.raises(DannError, match="is damaged .* it was discarded"):
        fetch("bsds500", tmp_path, mirrors=[site.url])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
