"""What goes on beside the network: images decoded ahead of it and encoded behind it."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Self

from srtrain.files import put_in_place, write_beside
from srtrain.images import pixels_in, read_quickly
from srtrain.inference.pipe import BrokenOffError, Pipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from srtrain.files import Content
    from srtrain.images.picture import Picture
    from srtrain.images.writing import Put
    from srtrain.inference.jobs import Job

    Write = Callable[[Put], None]

_PIXELS_AHEAD = 16 * 2**20
_BYTES_BEHIND = 64 * 2**20
TOGETHER_S = 1.0
"""Files that are written within such a time wait for the disk together."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """The image of job ``number``, or why there is none."""

    number: int
    job: Job
    picture: Picture | None = None
    error: BaseException | None = None

    @property
    def kind(self) -> object:
        """What images must have in common to be computed together."""
        picture = self.picture
        return picture and (picture.pixels.shape, picture.bits, picture.alpha is None)


class Decoding:
    """The images of jobs, in order, read by a thread up to 16 megapixels ahead of who iterates."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = jobs
        self._pipe: Pipe[Decoded] = Pipe(_PIXELS_AHEAD)
        self._thread = threading.Thread(target=self._read_all, name="decoder")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.break_off()
        self._thread.join()

    def __iter__(self) -> Iterator[Decoded]:
        return iter(self._pipe)

    def _read_all(self) -> None:
        with suppress(BrokenOffError):
            for number, job in enumerate(self._jobs):
                self._read(number, job)
            self._pipe.end()

    def _read(self, number: int, job: Job) -> None:
        pixels = 1
        try:
            pixels = pixels_in(job.source)
            self._pipe.wait_for_room(pixels)
            item = Decoded(number, job, read_quickly(job.source))
        except BrokenOffError:
            raise
        except BaseException as error:  # for who waits for this image: a thread has nobody else
            item = Decoded(number, job, error=error)
        self._pipe.put(item, pixels)


class Encoding:
    """Threads that write what they are given; ``done``: (number, None or what went wrong).

    A file appears, whole, once it is on disk. For that small ones wait together, by a thread of
    its own: until nothing else is to be written, or for ``TOGETHER_S``, which is at most what is
    lost when the process is killed.
    """

    def __init__(self, threads: int) -> None:
        self.done: SimpleQueue[tuple[int, BaseException | None]] = SimpleQueue()
        self._tasks: Pipe[tuple[int, Write]] = Pipe(_BYTES_BEHIND)
        self._writers = [
            threading.Thread(target=self._write_all, name=f"encoder-{number}")
            for number in range(threads)
        ]
        self._placer = threading.Thread(target=self._place_all, name="placer")
        self._changed = threading.Condition()
        self._beside: dict[int, tuple[Path, Path]] = {}
        self._ended = False

    def __enter__(self) -> Self:
        for thread in (*self._writers, self._placer):
            thread.start()
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        """After a failure, what is being written is finished, and the rest dropped."""
        if failed is not None:
            self._tasks.break_off()
        self.finish()

    def submit(self, number: int, write: Write, weight: int) -> None:
        """Have ``write(put)`` called; waits while 64 MB (by ``weight``) wait before it."""
        self._tasks.put((number, write), weight)

    def finish(self) -> None:
        """Nothing more will come: returns when all is ``done``."""
        self._tasks.end()
        for thread in self._writers:
            thread.join()
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._placer.join()

    def _write_all(self) -> None:
        with suppress(BrokenOffError):
            for number, write in self._tasks:
                if self._tasks.is_empty():  # what was written before this waits for nothing else
                    with self._changed:
                        self._changed.notify()
                self._write(number, write)

    def _write(self, number: int, write: Write) -> None:
        def put(path: Path, content: Content) -> None:
            beside = write_beside(path, content)
            with self._changed:
                self._beside[number] = beside, path
                self._changed.notify()

        try:
            write(put)
        except BrokenOffError:  # by who computes it, who knows why
            pass
        except BaseException as error:
            self.done.put((number, error))

    def _place_all(self) -> None:
        ended = False
        while not ended:
            with self._changed:
                self._changed.wait_for(lambda: self._beside or self._ended)
                self._changed.wait_for(lambda: self._tasks.is_empty() or self._ended, TOGETHER_S)
                (beside, self._beside), ended = (self._beside, {}), self._ended
            self._put_in_place(beside)

    def _put_in_place(self, beside: dict[int, tuple[Path, Path]]) -> None:
        failures: list[BaseException | None]
        try:
            failures = [*put_in_place([*beside.values()])]
        except BaseException as error:  # for who waits for them: a thread has nobody else
            failures = [error] * len(beside)
        for number, failure in zip(beside, failures, strict=True):
            self.done.put((number, failure))
