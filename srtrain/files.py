"""Files that are either whole or absent: atomic writes, hashes, JSON."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import hashlib
import json
import logging
import os
import re
import secrets
import socket
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

import xxhash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    Content = bytes | Callable[[BinaryIO], None]


log = logging.getLogger(__name__)
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
TEMPORARY = re.compile(r"\..+\.[0-9a-z_]{8}\.tmp")
_BUFFER = 2**17  # bytes: a small file is one write
_SYNC_FILE_RANGE_WRITE, _NOUGHT = 2, ctypes.c_int64(0)  # sync_file_range(2): all of a file
_PREFIX = 32  # characters of a name in its temporary's: 255 bytes hold it in any script


class HeldError(Exception):
    """Another process has the lock; the message says which."""


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint_of(path: Path) -> str:
    """Hex XXH3 (128 bits) of a file's content: some twenty times as fast as SHA-256.

    Tells apart files that change by accident; what comes from strangers is told by SHA-256.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, xxhash.xxh3_128).hexdigest()


def write_atomic(path: Path, content: Content) -> None:
    """Write ``path`` so that after any crash it holds the old content or the new, never a part.

    The temporary file lies in the same folder (``$TMPDIR`` may be another file system, where a
    "rename" is a copy), is fsynced, renamed over ``path``, and then the folder is fsynced.

    Raises: OSError as the file system gives it, also where there is no such folder; the temporary
        file is then removed.
    """
    _rename(write_beside(path, content, synced=True), path)
    sync_folder(path.parent)


def write_beside(path: Path, content: Content, *, synced: bool = False) -> Path:
    """The first half of `write_atomic`, up to the renaming: returns the temporary file.

    Not ``synced``, it is for `put_in_place`, which shares the waits for the disk.

    Raises: OSError; the temporary file is then removed.
    """
    temporary = path.with_name(f".{path.name[:_PREFIX]}.{secrets.token_hex(4)}.tmp")
    # Not mkstemp: its mode is not the umask's, which no thread can read without changing it.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o666)
    with _removed_unless_done(temporary), os.fdopen(descriptor, "wb", _BUFFER) as stream:
        if callable(content):
            content(stream)
        else:
            stream.write(content)
        stream.flush()
        if synced:
            os.fsync(stream.fileno())
        else:
            begin_to_sync(stream.fileno())
    return temporary


def begin_to_sync(descriptor: int) -> None:
    """Have the disk begin, where that can be said: waits for much are half as long then."""
    with contextlib.suppress(AttributeError):  # Linux has it; what fails is told by the sync
        _libc().sync_file_range(descriptor, _NOUGHT, _NOUGHT, _SYNC_FILE_RANGE_WRITE)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def put_in_place(files: Sequence[tuple[Path, Path]]) -> list[OSError | None]:
    """The second half of `write_atomic` for many (temporary, path): what went wrong with each.

    Each is on disk before it is renamed, and each folder is fsynced once.
    """
    failures: list[OSError | None] = [None] * len(files)
    for step in (_sync_beside, _rename):
        for number, (temporary, path) in enumerate(files):
            if failures[number] is None:
                try:
                    step(temporary, path)
                except OSError as error:
                    failures[number] = error
    for folder in {path.parent for _, path in files}:
        sync_folder(folder)
    return failures


def _sync_beside(temporary: Path, _path: Path) -> None:
    with _removed_unless_done(temporary):
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _rename(temporary: Path, path: Path) -> None:
    with _removed_unless_done(temporary):
        temporary.replace(path)


@contextlib.contextmanager
def _removed_unless_done(temporary: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def remove_temporaries(folder: Path) -> None:
    """Remove what ``write_atomic`` was killed over; only for whoever alone writes to ``folder``."""
    for path in folder.glob(".*.tmp"):
        if TEMPORARY.fullmatch(path.name):
            with contextlib.suppress(OSError):
                path.unlink()


@contextlib.contextmanager
def held(lock: Path) -> Iterator[None]:
    """Hold the file ``lock`` for this process; the lock goes with the process, however it ends.

    The holder may remove the file. Some clusters' file systems know no locks (Lustre without
    ``flock``, NFS without ``lockd``): there nobody is refused, and that is said.

    Raises: HeldError naming the process and the host that have it; OSError of the file system.
    """
    with lock.open("a+", encoding="utf-8") as stream:
        _locks.add(stream)
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                stream.seek(0)
                raise HeldError(stream.read().strip() or "another process") from error
            log.warning("%s: no locks here, beware of a second process", lock.parent)
        if not _is_at(stream, lock):
            raise HeldError("a process that has just ended")
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        stream.flush()
        yield


_locks: weakref.WeakSet[TextIO] = weakref.WeakSet()


def _let_go() -> None:
    """A fork shares the locks, and may outlive the process that had taken them."""
    for stream in _locks:
        stream.close()


os.register_at_fork(after_in_child=_let_go)


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Remove what killed `write_atomic` calls for these paths left behind.

    For who knows that nobody is writing them now.
    """
    prefixes: dict[Path, set[str]] = {}
    for path in paths:
        prefixes.setdefault(path.parent, set()).add(path.name[:_PREFIX])
    for folder, known in prefixes.items():
        for found in folder.glob(".*.tmp"):
            name, _, _ = found.name[1 : -len(".tmp")].rpartition(".")
            if name in known:
                found.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` durable; silently skipped where folders cannot be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, content: Any) -> None:  # noqa: ANN401 - JSON is any
    """Atomic, indented JSON; NaN and infinity are refused, they are not JSON."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    # JSON's own escapes for what UTF-8 cannot hold: names of files that are no UTF-8.
    write_atomic(path, (text + "\n").encode("utf-8", "backslashreplace"))


def read_json(path: Path) -> Any:  # noqa: ANN401 - JSON is any
    """The parsed content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def cache_dir() -> Path:
    """``$SRTRAIN_CACHE``, else ``~/.cache/srtrain``: decoded images and nothing irreplaceable."""
    configured = os.environ.get("SRTRAIN_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "srtrain"


def _is_at(stream: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False
