"""Files that are either whole or absent: atomic writes, hashes, JSON."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class HeldError(Exception):
    """Another process has the lock; the message says which."""


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomic(path: Path, content: bytes | Callable[[BinaryIO], None]) -> None:
    """Write ``path`` so that after any crash it holds the old content or the new, never a part.

    The temporary file lies in the same folder (``$TMPDIR`` may be another file system, where a
    "rename" is a copy), is fsynced, renamed over ``path``, and then the folder is fsynced.

    Raises: OSError as the file system gives it; the temporary file is then removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name[:32]}."  # 255 bytes hold it in any script
    descriptor, name = tempfile.mkstemp(prefix=prefix, suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            if callable(content):
                content(stream)
            else:
                stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def held(lock: Path) -> Iterator[None]:
    """Hold the file ``lock`` for this process; the lock goes with the process, however it ends.

    Raises: HeldError naming the process and the host that have it; OSError of the file system.
    """
    with lock.open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            stream.seek(0)
            raise HeldError(stream.read().strip() or "another process") from error
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        stream.flush()
        yield


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


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
