"""Several processes that share the images: the same command, each with a rank of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from srtrain.errors import StorageError
from srtrain.ranks import granted, launched, rank

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_PARENT = "SRTRAIN_EVALUATE_PARENT"


@dataclass(frozen=True)
class Share:
    """``rank`` of ``total``; ``local``: which device of this machine is its own."""

    rank: int
    total: int
    local: int

    def of(self, number: int) -> bool:
        """Whether image ``number`` is this rank's."""
        return number % self.total == self.rank


def own_share(devices: int) -> Share:
    """As torchrun, srun or ``--devices`` says; this process is rank 0 of its own workers."""
    if not launched():
        return Share(0, devices, 0)
    said = granted()
    local = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))
    return Share(rank(), said.total if said else 1, local)


@contextmanager
def beside(argv: Sequence[str], devices: int) -> Iterator[None]:
    """Within, ranks 1 … ``devices`` - 1 work; afterwards they are told to stop.

    A worker that dies loses nothing: rank 0 does what nobody has done.

    Raises: StorageError where the system has no room for one more.
    """
    started: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(1, devices):
            command = [sys.executable, "-m", "srtrain", "evaluate", *_alone(argv)]
            environ = {**os.environ, **_environ(number, devices)}
            started.append(_start(command, environ))
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


def _start(command: Sequence[str], environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    try:
        # In a session of its own: the terminal's Ctrl-C is for rank 0, which ends it.
        return subprocess.Popen(
            command, env=environ, stdout=subprocess.DEVNULL, start_new_session=True
        )
    except OSError as error:
        what = f"cannot start a process: {error.strerror or error}"
        raise StorageError(what, where="--devices", fix="fewer --devices") from error


def is_worker() -> bool:
    """Whether another evaluation started this process, as one of its ranks."""
    return _PARENT in os.environ


def end_with_parent() -> None:
    """A worker whose rank 0 was killed ends soon after."""
    parent = os.environ.get(_PARENT)
    if parent is not None:
        threading.Thread(target=_watch, args=(int(parent),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _environ(number: int, total: int) -> dict[str, str]:
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // total))
    return {
        "RANK": str(number),
        "LOCAL_RANK": str(number),
        "WORLD_SIZE": str(total),
        "LOCAL_WORLD_SIZE": str(total),
        "OMP_NUM_THREADS": threads,
        _PARENT: str(os.getpid()),
    }


def _alone(argv: Sequence[str]) -> list[str]:
    """The command without ``--devices``, which its ranks were given."""
    words: list[str] = []
    skip = False
    for word in argv:
        if skip:
            skip = False
        elif word == "--devices":
            skip = True
        elif not word.startswith("--devices="):
            words.append(word)
    return words
