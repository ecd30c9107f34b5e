"""Many samples of many files, each written while the next is made."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from srtrain.files import write_atomic
from srtrain.images import read_quickly, write_picture
from srtrain.images.picture import Picture
from srtrain.inference.kinds import as_given, opened_picture
from srtrain.inference.run import BAD, Outcome, outcome_of
from srtrain.inference.spread import Spread
from srtrain.inference.threads import Decoded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from srtrain.images.picture import Pixels
    from srtrain.inference.jobs import Job
    from srtrain.inference.upscaler import Upscaler

    Levels = np.ndarray[Any, np.dtype[np.float32]]

_WRITERS = 4


def run_samples(
    upscaler: Upscaler,
    jobs: Iterable[Job],
    *,
    draw: Callable[[Levels], Pixels],
    on_tile: Callable[[], None] | None = None,
) -> Iterator[Outcome]:
    """Writes ``job.files`` of every job and yields, in order, what became of each image.

    The mean of the samples is rounded once, not the samples before it; ``draw`` makes a picture of
    their spread, levels of 255 (H, W). One bad image stops nothing else.

    Raises: StorageError when the disk is full or cannot be written, which would fail every job.
    """
    with _Writing() as writing:
        last: tuple[Decoded, _Files] | None = None
        for number, job in enumerate(jobs):
            made = _made(upscaler, Decoded(number, job), writing, draw, on_tile)
            if last is not None:
                yield _told(*last)
            last = made
        if last is not None:
            yield _told(*last)


class _Files:
    """What is being written for one image, and what went wrong before."""

    def __init__(self) -> None:
        self.futures: list[Future[None]] = []
        self.error: BaseException | None = None


class _Writing:
    """Threads that write; of what waits for them there is never more than they can take up."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_WRITERS, thread_name_prefix="encoder")
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> _Writing:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def add(self, files: _Files, write: Callable[[], None]) -> None:
        """Have ``write`` called; its failure is told by its future."""
        while len(self._waiting) >= _WRITERS:
            self._waiting.popleft().exception()
        future = self._pool.submit(write)
        self._waiting.append(future)
        files.futures.append(future)


def _made(
    upscaler: Upscaler,
    item: Decoded,
    writing: _Writing,
    draw: Callable[[Levels], Pixels],
    on_tile: Callable[[], None] | None,
) -> tuple[Decoded, _Files]:
    """One image's samples, mean and spread, on their way to the disk."""
    files = _Files()
    try:
        picture = read_quickly(item.job.source)
        item = Decoded(item.number, item.job, picture)
        _sample(upscaler, item.job, picture, partial(writing.add, files), draw, on_tile)
    except BAD as error:
        files.error = error
    return item, files


def _sample(
    upscaler: Upscaler,
    job: Job,
    picture: Picture,
    add: Callable[[Callable[[], None]], None],
    draw: Callable[[Levels], Pixels],
    on_tile: Callable[[], None] | None,
) -> None:
    lr, made = opened_picture(picture, upscaler.larger_alpha)
    targets, spread = iter(job.files), Spread()
    for sample in upscaler.samples(lr, on_tile=on_tile):
        sr = as_given(sample, lr)
        add(partial(write_picture, next(targets), made(sr)))
        if job.samples > 1:
            spread.add(sr)
    if job.samples > 1:
        add(partial(write_picture, next(targets), made(spread.mean)))
        levels = spread.levels()
        add(partial(write_picture, next(targets), Picture(draw(levels))))
        for target in targets:
            add(partial(_write_values, target, levels))


def _write_values(target: Path, levels: Levels) -> None:
    write_atomic(target, lambda stream: np.save(stream, levels))


def _told(item: Decoded, files: _Files) -> Outcome:
    errors = [files.error, *(future.exception() for future in files.futures)]
    return outcome_of(item, next((error for error in errors if error is not None), None))
