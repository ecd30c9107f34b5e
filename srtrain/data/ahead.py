"""A thread that prepares what is asked for next."""

from __future__ import annotations

import os
import threading
import weakref
from queue import SimpleQueue
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")

AHEAD = 2  # batches: one is given out while the step takes its time, one is under way
NAME = "srtrain batches"
PATIENCE_S = 5.0  # for a thread that hangs in a disk or a driver; it ends with the process


class _Raised:
    """What the thread ended with."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Ahead(Generic[T]):
    """The same items in the same order, made by a thread that is at most ``ahead`` items ahead.

    The thread ends with this object, by `close`, garbage collection or the end of the process.

    Raises: what making an item raised, when that item is asked for, and from then on.
    """

    def __init__(self, items: Iterator[T], *, ahead: int = AHEAD) -> None:
        self._ready: SimpleQueue[T | _Raised] = SimpleQueue()
        self._room = threading.Semaphore(ahead)
        ended = threading.Event()
        # It must not know this object, which would then live as long as the thread.
        filling = (items, self._ready, self._room, ended)
        thread = threading.Thread(target=_fill, args=filling, name=NAME, daemon=True)
        self.close = weakref.finalize(self, _end, thread, self._room, ended, os.getpid())
        thread.start()

    def __iter__(self) -> Ahead[T]:
        return self

    def __next__(self) -> T:
        item = self._ready.get()
        if isinstance(item, _Raised):
            self._ready.put(item)
            raise item.error
        self._room.release()
        return item


def _fill(
    items: Iterator[T],
    ready: SimpleQueue[T | _Raised],
    room: threading.Semaphore,
    ended: threading.Event,
) -> None:
    try:
        while True:
            room.acquire()
            if ended.is_set():
                return
            ready.put(next(items))
    except BaseException as error:  # whoever asks for the item gets it, StopIteration too
        ready.put(_Raised(error))


def _end(
    thread: threading.Thread, room: threading.Semaphore, ended: threading.Event, owner: int
) -> None:
    if os.getpid() != owner:  # a fork has no such thread, and perhaps a lock that nobody releases
        return
    ended.set()
    room.release()
    if thread is not threading.current_thread():  # garbage is collected in any thread
        thread.join(PATIENCE_S)
