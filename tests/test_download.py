"""Downloads against a server on loopback that behaves, breaks off, refuses or lies."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from srtrain import download as module
from srtrain.download import download
from srtrain.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = bytes(range(256)) * 12_000  # 3 MB: three chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Behaviour:
    """What the server does next, and what it was asked."""

    knows_range: bool = True
    sends_length: bool = True
    breaks: list[int] = field(default_factory=list)  # bytes to send before hanging up, per request
    ranges: list[str | None] = field(default_factory=list)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    behaviour: Behaviour

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.behaviour.ranges.append(asked)
        if self.path != "/file.bin":
            self.send_error(404)
            return
        begin = int(asked[6:-1]) if asked and self.behaviour.knows_range else 0
        if begin >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(CONTENT) - 1}/{len(CONTENT)}")
        if self.behaviour.sends_length:
            self.send_header("Content-Length", str(len(CONTENT) - begin))
        self.end_headers()
        breaks = self.behaviour.breaks
        self.wfile.write(CONTENT[begin:][: breaks.pop(0) if breaks else None])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Behaviour]:
    behaviour = Behaviour()
    handler = type("Handler", (_Handler,), {"behaviour": behaviour})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        behaviour.url = f"http://127.0.0.1:{http.server_port}/file.bin"
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield behaviour
        http.shutdown()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("sends_length", [True, False])
@pytest.mark.parametrize("sha256", [SHA256, SHA256[:8], SHA256.upper()])
def test_whole(server: Behaviour, tmp_path: Path, sha256: str, *, sends_length: bool) -> None:
    server.sends_length = sends_length
    target = tmp_path / "new" / "file.bin"
    assert download(server.url, target, sha256=sha256) == target
    assert target.read_bytes() == CONTENT
    assert names(target.parent) == ["file.bin"]
    download(server.url, target, sha256=sha256)
    assert len(server.ranges) == 1, "a file that matches is not fetched again"


@pytest.mark.parametrize(
    ("knows_range", "breaks", "asked"),
    [
        (True, [1_000_000], [None, "bytes=1000000-"]),
        (True, [1_000_000, 500_000], [None, "bytes=1000000-", "bytes=1500000-"]),
        (False, [1_000_000], [None, "bytes=1000000-"]),  # sends all again: must not be appended
    ],
)
def test_retries_within_one_call(
    server: Behaviour,
    tmp_path: Path,
    breaks: list[int],
    asked: list[str | None],
    *,
    knows_range: bool,
) -> None:
    server.knows_range, server.breaks = knows_range, breaks
    target = download(server.url, tmp_path / "file.bin", sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert server.ranges == asked


def test_resumes_what_an_earlier_call_left(
    server: Behaviour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSES", ())
    server.breaks = [700_000]
    with pytest.raises(StorageError, match="closed after 700000 of 3072000 bytes"):
        download(server.url, tmp_path / "file.bin", sha256=SHA256)
    assert names(tmp_path) == ["file.bin.part"]
    download(server.url, tmp_path / "file.bin", sha256=SHA256)
    assert server.ranges == [None, "bytes=700000-"]
    assert names(tmp_path) == ["file.bin"]


def test_part_that_was_already_whole(server: Behaviour, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    target = download(server.url, tmp_path / "file.bin", sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert server.ranges == ["bytes=3072000-"]


@pytest.mark.parametrize("part", [b"", b"of another file"])
def test_wrong_checksum_leaves_nothing(server: Behaviour, tmp_path: Path, part: bytes) -> None:
    (tmp_path / "file.bin.part").write_bytes(part)
    wrong = SHA256[:-1] + ("0" if SHA256[-1] != "0" else "1") if not part else SHA256
    with pytest.raises(StorageError, match=re.escape(server.url)):
        download(server.url, tmp_path / "file.bin", sha256=wrong)
    assert names(tmp_path) == []


def test_a_bad_target_is_replaced(server: Behaviour, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(b"truncated by another tool")
    assert download(server.url, tmp_path / "file.bin", sha256=SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("file.bin", "gone.bin"), "the server answered 404"),
        (("127.0.0.1", "no-such-host.invalid"), "download failed"),
        (("http:", "gopher:"), "unknown url type"),
    ],
)
def test_failures_are_quick_and_say_why(
    server: Behaviour, tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    started = time.monotonic()
    with pytest.raises(StorageError, match=message) as caught:
        download(server.url.replace(*change), tmp_path / "file.bin", sha256=SHA256)
    assert time.monotonic() - started < 10
    assert str(tmp_path / "file.bin") in caught.value.fix
    assert caught.value.exit_code == 4
    assert names(tmp_path) == []


def test_nobody_listens(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as http:
        url = f"http://127.0.0.1:{http.server_port}/file.bin"
    with pytest.raises(StorageError, match="Connection refused"):
        download(url, tmp_path / "file.bin", sha256=SHA256)


def test_silent_server_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.2)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as http:  # accepts, never answers
        url = f"http://127.0.0.1:{http.server_port}/file.bin"
        with pytest.raises(StorageError, match="timed out"):
            download(url, tmp_path / "file.bin", sha256=SHA256)


def test_full_disk(server: Behaviour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = module.shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match="No space left"):
        download(server.url, tmp_path / "file.bin", sha256=SHA256)


def test_target_below_a_file(server: Behaviour, tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("not a folder")
    with pytest.raises(StorageError, match="cannot store a download"):
        download(server.url, tmp_path / "folder" / "file.bin", sha256=SHA256)


def test_many_at_once_fetch_it_once(server: Behaviour, tmp_path: Path) -> None:
    def one(_: int) -> Path:
        return download(server.url, tmp_path / "file.bin", sha256=SHA256)

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(one, range(4))) == {tmp_path / "file.bin"}
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert len(server.ranges) == 1
    assert names(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("sha256", ["", "abc", "g" * 64])
def test_checksum_must_be_one(tmp_path: Path, sha256: str) -> None:
    with pytest.raises(ValueError, match="8 hex digits"):
        download("http://127.0.0.1/x", tmp_path / "x", sha256=sha256)
