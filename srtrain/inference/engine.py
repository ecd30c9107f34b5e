"""Whole images through a network, in tiles that fit the memory."""

from __future__ import annotations

import functools
import logging
import math
from typing import TYPE_CHECKING, ClassVar, TypeVar

import torch
from torch import Tensor

from srtrain.inference.forward import Forward
from srtrain.inference.memory import available, bytes_per_pixel
from srtrain.inference.receptive import Reach, measure
from srtrain.inference.tiling import joined, lay_out, strips

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from srtrain.inference.tiling import Operation
    from srtrain.networks.generator import Generator

T = TypeVar("T")

# LR pixels a side. On a CPU larger windows leave the caches: 384 is 17 % slower a pixel than 256,
# which is what the smaller share of halos gains (compact, halo 18).
_LARGEST = {"cpu": 256, "cuda": 1024}
# Pixels that are computed at once where images are small. On a CPU more gain nothing (16x16: half
# the time a pixel, 128x128: the same), and only delay what decodes and encodes beside it.
_TOGETHER = {"cpu": 128**2, "cuda": 1024**2}
_SMALLEST = 16
_SMALL = 64  # up to this size an image is computed whole without a look at the memory
# Of the free memory; and on a CPU, where it is not reserved, no more than this.
_SHARE, _ON_CPU = 0.5, 768 * 2**20
_BEYOND_TENSORS = 1024  # bytes per LR pixel of the libraries' own scratch memory (oneDNN's: 1.1 kB)

_log = logging.getLogger(__name__)


class Engine:
    """``generator`` on a device, for images of any size.

    ``tile``: LR pixels a side of the pieces in which large images are computed; None chooses by
    the free memory and what the network takes of it, 0 never cuts.
    """

    largest: ClassVar[dict[str, int]] = _LARGEST
    on_cpu: ClassVar[int] = _ON_CPU

    def __init__(
        self, generator: Generator, *, precision: torch.dtype, tile: int | None = None
    ) -> None:
        self.generator = generator
        self.forward = Forward(generator, precision)
        self.device = self.forward.device
        self.tile = tile

    @functools.cached_property
    def reach(self) -> Reach:
        """How far the generator looks, measured when a tile is first needed."""
        return self.told(measure(self.generator))

    def told(self, reach: Reach) -> Reach:
        """``reach``, with a warning where tiles can only be blended."""
        if not reach.exact:
            _log.warning("the network looks at the whole image: tiles are blended, approximate")
        return reach

    def whole(
        self,
        lr: Tensor,
        *,
        forward: Forward | None = None,
        on_tile: Callable[[], None] | None = None,
        finish: Operation | None = None,
    ) -> Tensor:
        """As ``strips``, in one piece on the device of ``lr``; smaller tiles where memory ends."""

        def work() -> Tensor:
            found = self.strips(lr, forward=forward, on_tile=on_tile, finish=finish)
            return joined(found, lr.shape[-2] * self.generator.scale, lr.device)

        return self.retried(work, lr)

    @torch.no_grad()
    def strips(
        self,
        lr: Tensor,
        *,
        forward: Forward | None = None,
        on_tile: Callable[[], None] | None = None,
        finish: Operation | None = None,
    ) -> Iterator[Tensor]:
        """The larger image from top to bottom, each strip as soon as it is final.

        Shapes: lr (B, 1 | 3, h, w), levels or floats -> (B, C', k, w·scale) float32 on the
        engine's device, or what ``finish`` makes of that.
        Raises: ValueError for images without pixels.
        """
        if not lr.numel():
            raise ValueError(f"lr {tuple(lr.shape)} has no pixels")
        longest = max(lr.shape[-2:])
        tile = min(self._tile_for(lr), longest)
        forward = forward or self.forward
        if tile == longest:  # no halo: a network that is never cut is never probed
            sr = forward(lr)
            if on_tile is not None:
                on_tile()
            yield sr if finish is None else finish(sr)
            return
        grid = lay_out(self.generator, lr, tile=tile, reach=self.reach)
        room = min((tile + 2 * self.reach.halo) ** 2, _of(_TOGETHER, self.device))
        yield from strips(forward, lr, grid, room=room, on_tile=on_tile, finish=finish)

    def together(self, height: int, width: int) -> int:
        """How many images of this size are best computed at once."""
        side = self.tile or self._window
        room = min(side**2, _of(_TOGETHER, self.device))
        return 1 if max(height, width) > side else max(1, room // (height * width))

    def retried(self, work: Callable[[], T], lr: Tensor) -> T:
        """``work()``, once more with smaller tiles each time that memory runs out over ``lr``."""
        while True:
            try:
                return work()
            except RuntimeError as error:
                if not is_out_of_memory(error) or 0 < (self.tile or 0) <= _SMALLEST:
                    raise
            # Here, not in the handler: the exception holds what filled the memory.
            self._halve(lr)

    def _halve(self, lr: Tensor) -> None:
        count, _, height, width = lr.shape
        used = max(height, width, math.isqrt(count * height * width))
        self.tile = max(_SMALLEST, min(self.tile or used, used) // 2)
        _log.warning("out of memory: continuing with tiles of %d pixels", self.tile)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _tile_for(self, lr: Tensor) -> int:
        longest = max(lr.shape[-2:])
        if self.tile == 0 or (self.tile is None and (longest <= _SMALL or longest <= self._window)):
            return longest
        if self.tile is None:
            self.tile = max(_SMALLEST, min(self._window, self._side - 2 * self.reach.halo))
        return self.tile

    @property
    def _window(self) -> int:
        """LR pixels a side of what is computed whole."""
        return min(self._side, _of(self.largest, self.device))

    @functools.cached_property
    def _side(self) -> int:
        """Of the largest window that fits the memory."""
        share = int(_SHARE * available(self.device))
        budget = share if self.device.type == "cuda" else min(share, self.on_cpu)
        try:
            needed = 1.25 * bytes_per_pixel(self.forward) + _BEYOND_TENSORS
        except (RuntimeError, ValueError):  # will be told of the image that meets it
            return _SMALL
        return max(_SMALLEST, math.isqrt(int(budget / needed)))


def _of(sizes: dict[str, int], device: torch.device) -> int:
    return sizes.get(device.type, sizes["cpu"])


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether smaller pieces may help."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return "allocate memory" in str(error) or "out of memory" in str(error)
