"""Files from the network that arrive whole, checked, and only once."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import http.client
import os
import shutil
import ssl
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, BinaryIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from srtrain.errors import StorageError
from srtrain.files import sha256_of, sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.client import HTTPResponse
    from pathlib import Path

CHUNK = 1 << 20
TIMEOUT = 20.0  # seconds without a single byte
PAUSES = (0.0, 2.0, 8.0)  # seconds before asking again, once something had come


class _BrokenOffError(Exception):
    """The connection ended before the file did; what arrived is kept."""


def download(url: str, target: Path, *, sha256: str, progress: bool = True) -> Path:
    """Bring ``url`` to ``target``, which then exists whole and with that checksum, or not at all.

    Bytes gather in ``target.part``; a later call, or a retry after a broken connection, asks only
    for the rest (HTTP Range). A target that already matches is not fetched again. Processes that
    want the same file wait for the one that fetches it.

    Args:
        url: http or https; proxies are taken from the environment.
        target: where the file will lie.
        sha256: hex digest, or its first digits (torchvision publishes eight).
        progress: show a bar on stderr.

    Raises:
        StorageError: unreachable, refused, wrong checksum (the file is then deleted), disk full.
        ValueError: fewer than eight hex digits.
    """
    if len(sha256) < 8 or not set(sha256.lower()) <= set("0123456789abcdef"):
        raise ValueError(f"sha256={sha256!r} must have at least 8 hex digits")
    if target.is_file() and _matches(target, sha256):
        return target
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(part) as stream:
            if target.is_file() and _matches(target, sha256):  # another process was faster
                part.unlink()
                return target
            _fetch(url, stream, target, progress=progress)
            _commit(part, target, url, sha256)
    except OSError as error:
        raise StorageError(
            f"cannot store a download: {error.strerror or error}",
            where=str(target),
            fix="free some space or choose another folder, then run the same command again",
        ) from error
    return target


def _matches(path: Path, sha256: str) -> bool:
    return sha256_of(path).startswith(sha256.lower())


@contextlib.contextmanager
def locked(path: Path) -> Iterator[BinaryIO]:
    """The file, opened for appending and held by this process alone; removed if left empty."""
    while True:
        with path.open("ab") as stream:
            with contextlib.suppress(OSError):  # some network file systems know no locks
                fcntl.flock(stream, fcntl.LOCK_EX)
            # Whoever held it before may have renamed or deleted the file that we opened.
            if _still_at(path, stream):
                try:
                    yield stream
                finally:
                    if _still_at(path, stream) and path.stat().st_size == 0:
                        path.unlink()
                return


def _still_at(path: Path, stream: BinaryIO) -> bool:
    return path.exists() and os.path.samestat(os.fstat(stream.fileno()), path.stat())


def _fetch(url: str, stream: BinaryIO, target: Path, *, progress: bool) -> None:
    """Append to ``stream`` until the server says that it was all; retry while bytes still come."""
    console = Console(stderr=True, quiet=not progress, soft_wrap=True, highlight=False)
    console.print(f"srtrain: {url} -> {target}")
    columns = (
        TextColumn(target.name),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        pauses: Iterator[float] = iter(())  # an address that never answered fails at once
        while True:
            before = stream.tell()
            try:
                _append(url, stream, bar)
                return
            except _BrokenOffError as error:
                if stream.tell() > before:
                    pauses = iter(PAUSES)
                pause = next(pauses, None)
                if pause is None:
                    raise _failure(str(error), url, target) from error
                time.sleep(pause)
            except urllib.error.HTTPError as error:
                answer = f"the server answered {error.code} {error.reason}"
                raise _failure(answer, url, target) from error


def _append(url: str, stream: BinaryIO, bar: Progress) -> None:
    """One request: the bytes after those that ``stream`` holds."""
    have = stream.seek(0, os.SEEK_END)
    request = urllib.request.Request(url, headers={"User-Agent": "srtrain"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            if have and not _continues(response, have):
                have = 0
                stream.truncate(0)
            _receive(response, stream, have, bar)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not have:
            raise
        # Nothing lies beyond what we hold: it is whole, or not of this file. The checksum knows.
    except urllib.error.URLError as error:
        raise _BrokenOffError(str(error.reason)) from error
    except (http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError) as error:
        raise _BrokenOffError(str(error) or repr(error)) from error


def _continues(response: HTTPResponse, have: int) -> bool:
    """Whether the server honours Range: many ignore it and send everything again."""
    begins = f"bytes {have}-"
    return response.status == http.HTTPStatus.PARTIAL_CONTENT and (
        response.headers.get("Content-Range", "").startswith(begins)
    )


def _receive(response: HTTPResponse, stream: BinaryIO, have: int, bar: Progress) -> None:
    length = response.headers.get("Content-Length")
    total = have + int(length) if length else None
    free = shutil.disk_usage(stream.name).free
    if total and total - have > free:
        needed = f"{(total - have) / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free"
        raise OSError(errno.ENOSPC, f"No space left: {needed}")
    task = bar.add_task("", total=total, completed=have)
    try:
        while chunk := response.read(CHUNK):
            stream.write(chunk)
            bar.update(task, advance=len(chunk))
    finally:
        bar.remove_task(task)
        stream.flush()
    if total is not None and stream.tell() < total:
        raise _BrokenOffError(f"connection closed after {stream.tell()} of {total} bytes")


def _commit(part: Path, target: Path, url: str, sha256: str) -> None:
    digest = sha256_of(part)
    if not digest.startswith(sha256.lower()):
        part.unlink()
        raise StorageError(
            f"checksum of the download is {digest[: max(8, len(sha256))]}, not {sha256}",
            where=url,
            fix="it was deleted; run the same command again, or fetch the file by other means",
        )
    with part.open("rb") as stream:
        os.fsync(stream.fileno())
    part.replace(target)
    sync_folder(target.parent)


def _failure(what: str, url: str, target: Path) -> StorageError:
    return StorageError(
        f"download failed: {what}",
        where=url,
        fix=f"check the connection (https_proxy?), or fetch it elsewhere and place it at {target}",
    )
