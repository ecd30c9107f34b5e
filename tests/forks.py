"""Whole runs in forks of this process: they may be killed, and cost no start of Python."""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import time
import traceback
from multiprocessing import process, util
from pathlib import Path
from typing import TYPE_CHECKING

from srtrain.cli.main import main
from tests.training import undrawn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HUNG_S = 240


def forked(words: Sequence[str], log: Path, *, prepare: Callable[[], None] | None = None) -> int:
    """The exit code of one run, -N after signal N; what it says is added to ``log``."""
    return _ended(_fork(words, log, prepare, {}))


def forked_ranks(
    words: Sequence[str], log: Path, *, ranks: int, prepare: Callable[[], None] | None = None
) -> list[int]:
    """The same of several ranks, with the environment that torchrun would give them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(ranks)}
    started = [
        _fork(words, log, prepare, {**world, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(ranks)
    ]
    return [_ended(pid) for pid in started]


def grow_at_most(megabytes: int) -> None:
    """From now on, for this process: a fork, as nothing takes it back."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20,) * 2)


def _fork(
    words: Sequence[str], log: Path, prepare: Callable[[], None] | None, environ: dict[str, str]
) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        process._children.clear()  # type: ignore[attr-defined]  # the parent's are not its own
        os.environ.update(environ)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
        if prepare is not None:
            prepare()
        with undrawn():
            code = main(list(words))
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            util._exit_function()  # ends the loader's workers
        finally:
            os._exit(code)


def _ended(pid: int) -> int:
    deadline = time.monotonic() + HUNG_S
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise TimeoutError(f"a run did not end within {HUNG_S} s")
        time.sleep(0.01)
