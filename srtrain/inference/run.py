"""Many files through one upscaler: decoded, computed and encoded at the same time."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from srtrain.errors import SrtrainError, StorageError
from srtrain.images import Sheet, shown, takes_strips, write_picture, write_strips
from srtrain.inference.pipe import BrokenOffError, Pipe
from srtrain.inference.threads import Decoding, Encoding
from srtrain.memory import cpus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from srtrain.images.picture import Picture, Pixels
    from srtrain.images.writing import Put
    from srtrain.inference.jobs import Job
    from srtrain.inference.threads import Decoded
    from srtrain.inference.upscaler import Upscaler

_AHEAD = 64 * 2**20  # bytes of strips that wait for the encoder
_ENCODERS = 4  # one makes some 15 megapixels of PNG a second
# Threads of a network on a CPU that give one encoder enough to do.
_THREADS_AN_ENCODER = 4
BAD = (SrtrainError, OSError, ValueError, RuntimeError, MemoryError)


@dataclass(frozen=True)
class Outcome:
    """``failure`` is None, or says why there is no ``job.target``; ``notes``: what was lost."""

    job: Job
    notes: tuple[str, ...] = ()
    failure: str | None = None


def run(
    upscaler: Upscaler, jobs: Iterable[Job], *, on_tile: Callable[[], None] | None = None
) -> Iterator[Outcome]:
    """Does the jobs and yields, in order, what became of each; one bad image stops nothing else.

    The next images are decoded and the last ones encoded while one is computed; small ones of equal
    size are computed together; the rows of large ones are encoded while the rest is computed.

    Raises: StorageError when the disk is full or cannot be written, which would fail every job.
    """
    jobs = list(jobs)
    with Decoding(jobs) as decoding, Encoding(_encoders(upscaler)) as encoding:
        work = _Work(upscaler, encoding, on_tile)
        told = 0
        for group in _groups(decoding, upscaler):
            work.do(group)
            for outcome in work.outcomes(told):
                told += 1
                yield outcome
        encoding.finish()
        yield from work.outcomes(told)


def _encoders(upscaler: Upscaler) -> int:
    """Beside a network on few cores one: more would only take turns with it."""
    if upscaler.device.type != "cpu":
        return _ENCODERS
    threads = torch.get_num_threads()
    return min(_ENCODERS, max(1 + threads // _THREADS_AN_ENCODER, cpus() - threads))


def _groups(decoding: Iterable[Decoded], upscaler: Upscaler) -> Iterator[list[Decoded]]:
    """Neighbours that are computed together; what could not be read stands alone."""
    group: list[Decoded] = []
    most = 1
    for item in decoding:
        if group and (item.picture is None or item.kind != group[0].kind):
            yield group
            group = []
        if not group:
            most = 1 if item.picture is None else upscaler.at_once(item.picture)
        group.append(item)
        if len(group) >= most:
            yield group
            group = []
    if group:
        yield group


class _Work:
    """Computes groups, hands the results to the encoders, and notes what became of each image."""

    def __init__(
        self, upscaler: Upscaler, encoding: Encoding, on_tile: Callable[[], None] | None
    ) -> None:
        self.upscaler = upscaler
        self.encoding = encoding
        self.on_tile = on_tile
        self.items: dict[int, Decoded] = {}
        self.done: dict[int, BaseException | None] = {}

    def do(self, group: list[Decoded]) -> None:
        self.items.update({item.number: item for item in group})
        pictures = [item.picture for item in group if item.picture is not None]
        if len(pictures) > 1:
            try:
                larger = self.upscaler.upscale_pictures(pictures)
            except BAD:  # whose fault it is shows when they are alone
                pass
            else:
                for item, picture in zip(group, larger, strict=True):
                    self._encode(item, picture)
                return
        for item in group:
            try:
                self._alone(item)
            except BAD as error:
                self.done[item.number] = error

    def outcomes(self, first: int) -> Iterator[Outcome]:
        """Of the images from number ``first`` on, as far as all before them are known.

        Raises: StorageError for the first that the disk did not take.
        """
        while not self.encoding.done.empty():
            number, error = self.encoding.done.get()
            self.done[number] = error
        while first in self.done:
            yield outcome_of(self.items.pop(first), self.done.pop(first))
            first += 1

    def _alone(self, item: Decoded) -> None:
        if item.picture is None:
            assert item.error is not None
            raise item.error
        picture = item.picture
        if takes_strips(item.job.target) and self.upscaler.streams(picture):
            self.upscaler.retried(partial(self._stream, item, picture), picture)
        else:
            self._encode(item, self.upscaler.upscale_picture(picture, on_tile=self.on_tile))

    def _encode(self, item: Decoded, picture: Picture) -> None:
        def write(put: Put) -> None:
            write_picture(item.job.target, picture, put=put)

        self.encoding.submit(item.number, write, picture.pixels.nbytes)

    def _stream(self, item: Decoded, picture: Picture) -> None:
        height, width = (side * self.upscaler.scale for side in picture.size)
        sheet = Sheet((height, width), picture.pixels.shape[2], picture.bits, picture.icc)
        pipe: Pipe[Pixels] = Pipe(_AHEAD)
        self.encoding.submit(item.number, partial(_write, item.job.target, sheet, pipe), 0)
        try:
            for strip in self.upscaler.strips(picture, on_tile=self.on_tile):
                pipe.put(strip, strip.nbytes)
            pipe.end()
        except BrokenOffError:  # by the encoder, which tells why
            pass
        except BaseException:
            pipe.break_off()
            raise


def _write(target: Path, sheet: Sheet, pipe: Pipe[Pixels], put: Put) -> None:
    try:
        write_strips(target, sheet, pipe, put=put)
    finally:
        pipe.break_off()  # if it failed: nothing more need be computed


def outcome_of(item: Decoded, error: BaseException | None) -> Outcome:
    """What became of an image.

    Raises: StorageError if the disk is full or cannot be written; ``error`` itself for a bug.
    """
    job, notes = item.job, item.picture.notes if item.picture is not None else ()
    if error is None:
        return Outcome(job, notes)
    if isinstance(error, SrtrainError):
        return Outcome(job, failure=str(error))
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise StorageError(
                f"cannot write: {error.strerror}", where=shown(job.target), fix="another -o"
            ) from error
        reason = error.strerror or error
        if item.picture is not None:
            return Outcome(job, failure=f"cannot write: {reason} · {shown(job.target)}")
        return Outcome(job, failure=f"{reason} · {shown(job.source)}")
    if isinstance(error, BAD):
        reason = str(error).split("\n", 1)[0] or type(error).__name__
        return Outcome(job, failure=f"{reason} · {shown(job.source)}")
    raise error
