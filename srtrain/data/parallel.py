"""One function over many numbers, in as many processes as the machine gives us."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from srtrain.errors import DataError
from srtrain.memory import cpus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

T = TypeVar("T")

PER_PROCESS = 8
"""Of images to decode."""
HEADERS_PER_PROCESS = 1000
"""One takes .02 to .1 milliseconds, two processes 70 to start."""


def parallel(
    work: Callable[[int], T],
    indices: Sequence[int],
    *,
    title: str,
    progress: bool = True,
    per_process: int = PER_PROCESS,
) -> Iterator[tuple[int, T]]:
    """``(i, work(i))`` for all indices, in the order in which they are done; ``work`` must pickle.

    Fewer than ``per_process`` do not pay for another process. A bar is shown on a terminal.

    Raises: what ``work`` raises; DataError if a process is killed.
    """
    processes = min(cpus(), len(indices) // per_process)
    results = _pooled(work, indices, processes) if processes > 1 else _serial(work, indices)
    with _bar(shown=progress) as bar:
        task = bar.add_task(title, total=len(indices))
        for chunk in results:
            bar.advance(task, len(chunk))
            yield from chunk


def _serial(work: Callable[[int], T], indices: Sequence[int]) -> Iterator[list[tuple[int, T]]]:
    for index in indices:
        yield [(index, work(index))]


def _pooled(
    work: Callable[[int], T], indices: Sequence[int], processes: int
) -> Iterator[list[tuple[int, T]]]:
    size = max(1, min(16, len(indices) // (8 * processes)))
    pool = ProcessPoolExecutor(
        processes, _fork_where_possible(), initializer=_start, initargs=(work, os.getpid())
    )
    try:
        chunks = [indices[first : first + size] for first in range(0, len(indices), size)]
        # All are submitted before the first is awaited: no process is forked beside a drawing bar.
        for future in as_completed([pool.submit(_work_on, chunk) for chunk in chunks]):
            yield future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "a process that reads images was killed",
            where=f"{processes} processes",
            fix="out of memory? Start again: what is decoded is kept",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_work: Callable[[int], Any]


def _start(work: Callable[[int], Any], parent: int) -> None:
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the handler that a training run inherits us
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)  # forked OpenMP pools hang
    if sys.platform == "linux":
        kill_with_parent = 1  # PR_SET_PDEATHSIG of prctl(2): leave no orphans
        ctypes.CDLL(None).prctl(kill_with_parent, signal.SIGKILL)
        if os.getppid() != parent:  # it died before it could take us along
            os._exit(1)


def _work_on(chunk: Iterable[int]) -> list[tuple[int, Any]]:
    return [(index, _work(index)) for index in chunk]


def _fork_where_possible() -> multiprocessing.context.BaseContext:
    methods = multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("fork" if "fork" in methods else None)


def _bar(*, shown: bool) -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (shown and console.is_terminal),
    )
