"""The measuring itself: batch after batch of images of one size, each kept when it is done."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from srtrain.batch import to_float
from srtrain.checks import counted
from srtrain.cli.evaluate.measuring import APPROXIMATE
from srtrain.errors import DataError, SrtrainError
from srtrain.images import read_rgb8, shown, to_uint8
from srtrain.inference.levels import writable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import Tensor

    from srtrain.cli.evaluate.journal import Journal
    from srtrain.cli.evaluate.kept import Kept
    from srtrain.cli.evaluate.measuring import Measuring
    from srtrain.cli.evaluate.models import Model
    from srtrain.cli.evaluate.saved import Saved
    from srtrain.cli.evaluate.sets import DataSet, Item

# HR pixels of images that are computed together, as in a validation.
BATCH_PIXELS = {"cpu": 2**18, "cuda": 2**21}
_BAD = (SrtrainError, OSError, ValueError, RuntimeError, MemoryError)


@dataclass(frozen=True)
class Task:
    """One image of one set by one model; ``key`` names the measurement in the journal."""

    model: Model
    data: DataSet
    item: Item
    key: str


class Pixels:
    """The files of an item, as uint8 tensors (3, H, W) and (3, h, w) or None."""

    def __init__(self, item: Item) -> None:
        height, width = item.size
        self.hr = _tensor(read_rgb8(item.hr)[:height, :width])
        self.lr = None if item.lr is None else _tensor(read_rgb8(item.lr))


class Work:
    """Does tasks on one device.

    ``batch_pixels``: HR pixels that are computed at once, in images of one size; 1 is one image.
    ``saved`` keeps every SR image as PNG. Bad images are in ``bad`` and stop nothing else.
    """

    def __init__(
        self,
        measuring: Measuring,
        journal: Journal,
        device: torch.device,
        *,
        batch_pixels: int,
        kept: Kept,
        saved: Saved | None = None,
    ) -> None:
        self.measuring = measuring
        self.journal = journal
        self.device = device
        self.batch_pixels = batch_pixels
        self.kept = kept
        self.saved = saved
        self.bad: dict[str, tuple[Task, str]] = {}

    def do(self, tasks: Sequence[Task], *, on_done: Callable[[Task], None]) -> None:
        """All of them, model after model, but for what another rank has done by then."""
        for model, own in _by_model(tasks):
            model.prepare(self.device)
            try:
                pixels = 1 if model.one_by_one else self.batch_pixels
                for batch, loaded in _ahead(_batches(own, pixels)):
                    self.journal.refresh()
                    pairs = zip(batch, loaded, strict=True)
                    self._batch([pair for pair in pairs if not self.is_done(pair[0])])
                    on_done(batch[-1])
            finally:
                model.release()

    def do_singly(self, tasks: Iterable[Task], *, on_done: Callable[[Task], None]) -> None:
        """One image at a time, each told when the one before is done; models come in groups."""
        ready: Model | None = None
        try:
            for task in tasks:
                if task.model is not ready:
                    if ready is not None:
                        ready.release()
                    ready = task.model
                    ready.prepare(self.device)
                self._batch([(task, load(task.item))])
                on_done(task)
        finally:
            if ready is not None:
                ready.release()

    def is_done(self, task: Task) -> bool:
        """Whether it is bad, or measured and, if that was asked for, saved."""
        if task.key not in self.journal.rows:
            return task.key in self.bad
        return self.saved is None or self.saved.has(task)

    def measured(self, tasks: Sequence[Task]) -> str:
        """How many of them are done and not bad, by whomever: ``3 of 24 images measured``."""
        self.journal.refresh()
        count = sum(task.key not in self.bad and self.is_done(task) for task in tasks)
        return f"{count} of {counted(len(tasks), 'image')} measured"

    def _batch(self, pairs: Sequence[tuple[Task, Pixels | BaseException]]) -> None:
        good: list[tuple[Task, Pixels]] = []
        for task, pixels in pairs:
            if isinstance(pixels, BaseException):
                self._fail(task, pixels)
            else:
                good.append((task, pixels))
        if not good:
            return
        try:
            self._measure(good)
        except _BAD as error:
            if len(good) == 1:
                self._fail(good[0][0], error)
                return
            for one in good:  # whose fault it is shows when they are alone
                self._batch([one])

    def _measure(self, good: list[tuple[Task, Pixels]]) -> None:
        tasks = [task for task, _ in good]
        first = tasks[0]
        hr, lr = self.images([pixels for _, pixels in good])
        made = first.model.make(lr, first.data, [task.item for task in tasks])
        rows = self.measuring(made.sr, hr, lr, whole_levels=first.model.whole_levels)
        for place, samples in enumerate(made.samples):
            rows[place] |= self.measuring.honesty(samples, hr[place], made.means[place])
        for task, values, image in zip(tasks, rows, made.sr, strict=True):
            levels = to_uint8(image)
            if self.saved is not None:
                self.saved.add(task, levels)
            self.kept.add(task.key, levels)
            self.journal.add(task.key, {**values, APPROXIMATE: float(first.model.approximate)})

    def images(self, pixels: Sequence[Pixels]) -> tuple[Tensor, Tensor]:
        """HR and LR of images of one size, as floats on the device; LR made where none is given."""
        hr = to_float(torch.stack([each.hr for each in pixels]).to(self.device))
        given = [each.lr for each in pixels if each.lr is not None]
        if not given:
            return hr, self.measuring.lr_of(hr)
        return hr, to_float(torch.stack(given).to(self.device))

    def _fail(self, task: Task, error: BaseException) -> None:
        if not isinstance(error, _BAD):
            raise error
        reason = str(error).split("\n", 1)[0] or type(error).__name__
        if not isinstance(error, DataError):
            reason = f"{reason} · {shown(task.item.hr)}"
        self.bad[task.key] = task, reason


def load(item: Item) -> Pixels | BaseException:
    """The pixels, or why there are none: for a thread, which has nobody to tell."""
    try:
        return Pixels(item)
    except Exception as error:
        return error


def _ahead(
    batches: Iterable[list[Task]],
) -> Iterator[tuple[list[Task], list[Pixels | BaseException]]]:
    """Each batch with its pixels; the next is decoded while one is measured."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting: list[tuple[list[Task], Future[list[Pixels | BaseException]]]] = []
        for batch in batches:
            waiting.append((batch, pool.submit(_load_all, batch)))
            if len(waiting) > 1:
                first, future = waiting.pop(0)
                yield first, future.result()
        for last, future in waiting:
            yield last, future.result()


def _load_all(batch: list[Task]) -> list[Pixels | BaseException]:
    return [load(task.item) for task in batch]


def _by_model(tasks: Iterable[Task]) -> Iterator[tuple[Model, list[Task]]]:
    groups: dict[int, list[Task]] = {}
    for task in tasks:
        groups.setdefault(id(task.model), []).append(task)
    for own in groups.values():
        yield own[0].model, own


def _batches(tasks: Iterable[Task], pixels: int) -> Iterator[list[Task]]:
    """Of one set and one size, in the order of their first images."""
    groups: dict[tuple[str, tuple[int, int], bool], list[Task]] = {}
    for task in tasks:
        kind = (task.data.name, task.item.size, task.item.lr is None)
        groups.setdefault(kind, []).append(task)
    for (_, (height, width), _), own in groups.items():
        count = max(1, pixels // (height * width))
        for first in range(0, len(own), count):
            yield own[first : first + count]


def _tensor(levels: np.ndarray) -> Tensor:
    return torch.from_numpy(writable(levels)).permute(2, 0, 1)
