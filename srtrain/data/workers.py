"""Who loads batches: a thread, or processes which may be killed as if they had not been."""

from __future__ import annotations

import atexit
import contextlib
import logging
import shutil
import signal
import threading
import time
import weakref
from functools import partial
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader

from srtrain.data.ahead import AHEAD, Ahead
from srtrain.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch.utils.data.dataloader import _BaseDataLoaderIter

    from srtrain.batch import Batch
    from srtrain.data.crops import TrainingCrops
    from srtrain.data.sampler import EndlessBatches
    from srtrain.data.upload import Arriving, Upload

SHARED_MEMORY = Path("/dev/shm")
STARTS = 3  # of the processes for one batch; then it is no accident
DYING_S = 1.0  # until the system says that a process is dead whose pipe broke

log = logging.getLogger(__name__)


class EndlessLoader(DataLoader["Batch"]):
    """The batches of an `EndlessBatches`, loaded by a thread, or by processes.

    Processes are replaced when killed. Where the system's shared memory is too small for their
    batches (containers give 64 MB), the thread loads, and that is said.
    """

    def __init__(
        self,
        crops: TrainingCrops,
        batches: EndlessBatches,
        *,
        num_workers: int,
        upload: Upload | None = None,
    ) -> None:
        needed = (AHEAD * num_workers + 2) * batches.batch_size * 3 * crops.hr_patch_size**2
        num_workers = num_workers if _fits(needed, num_workers) else 0
        super().__init__(
            crops,
            batch_sampler=batches,
            collate_fn=as_is,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            worker_init_fn=_leave_signals_to_the_parent,
            prefetch_factor=AHEAD if num_workers else None,
            pin_memory=upload is not None and num_workers > 0,
        )
        self.crops = crops
        self.batches = batches
        self.upload = upload

    def __iter__(self) -> Iterator[Batch | Arriving]:  # type: ignore[override]  # torch's class
        """Never ends."""
        return _Batches(self) if self.num_workers else Ahead(self._loaded())

    def _loaded(self) -> Iterator[Batch | Arriving]:
        for samples in self.batches:
            yield self.sent(partial(self.crops.__getitems__, samples))

    def sent(self, make: Callable[[], Batch]) -> Batch | Arriving:
        """``make()``, on its way to the GPU if there is one."""
        return make() if self.upload is None else self.upload.send(make)

    def start(self) -> Any:  # noqa: ANN401 - torch names a private class
        """New processes, from the sampler's first sample; they end before this process does."""
        before = signal.getsignal(signal.SIGCHLD)
        self._iterator = None  # torch's, which it would use again
        iterator: Any = super().__iter__()
        if threading.current_thread() is threading.main_thread() and before is not None:
            # torch's handler would raise in the midst of a step, which could not be taken up again.
            # Somebody else's DataLoader may have set it before.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL if _of_torch(before) else before)
        # Finalize runs where a forked rank exits, atexit where Python does: before multiprocessing
        # closes the queues that tell them (priority 10), and sends the SIGTERM that they ignore.
        stop = Finalize(iterator, _stop_workers, args=(weakref.ref(iterator),), exitpriority=100)
        atexit.register(stop)
        # They ignore SIGTERM: one that was not reached would be waited for without end.
        Finalize(None, _kill, args=(iterator._workers,), exitpriority=50)
        return iterator


class _Batches:
    """Batches of processes; which samples come next is a number, so nothing is lost with a process.

    Raises: DataError naming the samples if processes are killed again and again at one batch.
    """

    def __init__(self, loader: EndlessLoader) -> None:
        self._loader = loader
        self._next = loader.batches.start_sample
        self._starts = 1
        self._iterator: Any = loader.start()

    @property
    def _workers(self) -> list[Any]:
        return list(self._iterator._workers)

    def __iter__(self) -> _Batches:
        return self

    def __next__(self) -> Batch | Arriving:
        return self._loader.sent(self._loaded)

    def _loaded(self) -> Batch:
        while True:
            try:
                batch: Batch = next(self._iterator)
            except (RuntimeError, OSError, EOFError) as error:
                if not self._killed():
                    raise
                self._again(error)
            else:
                self._next += self._loader.batches.batch_size
                self._starts = 1
                return batch

    def _killed(self) -> bool:
        until = time.monotonic() + DYING_S
        while not (dead := any(not worker.is_alive() for worker in self._workers)):
            if time.monotonic() > until:
                break
            time.sleep(0.01)
        return dead

    def _again(self, error: Exception) -> None:
        if self._starts == STARTS:
            # Which of the batches under way killed them, they cannot say any more.
            under_way = AHEAD * len(self._workers) * self._loader.batches.batch_size
            raise DataError(
                f"processes that load images were killed {STARTS} times at one place",
                where=f"samples {self._next} to {self._next + under_way - 1}",
                fix="out of memory, or of /dev/shm? try data.num_workers=0",
            ) from error
        self._starts += 1
        log.warning("a process that loads images was killed: again from sample %d", self._next)
        with contextlib.suppress(Exception):
            self._iterator._shutdown_workers()
        self._loader.batches.start_sample = self._next
        self._iterator = self._loader.start()


def _of_torch(handler: object) -> bool:
    return str(getattr(handler, "__module__", "")).startswith("torch.")


def as_is(batch: Any) -> Any:  # noqa: ANN401
    """What the data sets make: whole batches."""
    return batch


def _fits(needed: int, num_workers: int) -> bool:
    """Whether shared memory holds the batches on their way from the processes; says so if not."""
    if not num_workers or not SHARED_MEMORY.is_dir():
        return True
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free >= needed:
        return True
    log.warning(
        "%s has %d MB free, %d processes that load images need %d MB: a thread loads them instead "
        "(containers: --shm-size=1g; or ask for data.num_workers=0)",
        SHARED_MEMORY,
        free // 2**20,
        num_workers,
        -(-needed // 2**20),
    )
    return False


def _leave_signals_to_the_parent(_worker: int) -> None:
    # SLURM and terminals signal the whole process group; a worker that obeyed would take the run
    # down before its checkpoint is saved. Workers end when they are told to or the parent dies.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _stop_workers(iterator: weakref.ref[_BaseDataLoaderIter]) -> None:
    stop = getattr(iterator(), "_shutdown_workers", None)
    if stop is not None:
        stop()


def _kill(processes: list[Any]) -> None:
    for process in processes:
        if process.is_alive():
            process.kill()
