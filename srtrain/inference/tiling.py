"""Large images piece by piece, with the result of the whole."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from srtrain.checks import image_batch
from srtrain.inference.receptive import Reach, device_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from srtrain.networks.generator import Generator

    Operation = Callable[[Tensor], Tensor]


class Span(NamedTuple):
    """Along one axis in LR pixels: the core that is kept, inside the window that is computed."""

    start: int
    stop: int
    left: int
    right: int


class Grid(NamedTuple):
    """The tiles of an image; where ``exact`` is not, the outputs of their windows are blended."""

    rows: list[Span]
    columns: list[Span]
    scale: int
    exact: bool


def upscale_tiled(
    generator: Generator,
    lr: Tensor,
    *,
    tile: int,
    halo: int | Reach,
    on_tile: Callable[[], None] | None = None,
    finish: Operation | None = None,
) -> Tensor:
    """``generator(lr)`` from tiles of ``tile`` LR pixels, each computed with ``halo`` around it.

    With a halo of at least the network's reach (``receptive.measure``) the result is that of the
    whole image to rounding (1e-5). A ``Reach`` that is not exact is an overlap whose outputs are
    blended. Tiles are computed where the generator is and gathered where ``lr`` is.
    ``finish``, a function of each pixel alone, is applied to every tile as soon as that is final:
    what it returns is all that is kept of the whole.

    Shapes: lr (B, C, h, w) -> (B, C', h·scale, w·scale) float32, or what ``finish`` makes of that.
    Raises: ValueError for a tile below 1.
    """
    image_batch(lr, "lr")
    reach = halo if isinstance(halo, Reach) else Reach(halo, generator.multiple_of)
    device = device_of(generator)

    def forward(windows: Tensor) -> Tensor:
        sr: Tensor = generator(windows.to(device, torch.float32))
        return sr

    grid = lay_out(generator, lr, tile=tile, reach=reach)
    return joined(
        strips(forward, lr, grid, on_tile=on_tile, finish=finish),
        lr.shape[-2] * generator.scale,
        lr.device,
    )


def lay_out(generator: Generator, lr: Tensor, *, tile: int, reach: Reach) -> Grid:
    """Tiles of at most ``tile`` LR pixels a side that cover ``lr`` (…, h, w)."""
    if tile < 1:
        raise ValueError(f"tile must be at least 1 LR pixel, got {tile}")
    if not lr.numel():
        raise ValueError(f"lr {tuple(lr.shape)} has no pixels")
    rows, columns = (
        spans(length, tile=tile, reach=reach, smallest=generator.min_size)
        for length in lr.shape[-2:]
    )
    return Grid(rows, columns, generator.scale, reach.exact)


def strips(
    forward: Operation,
    lr: Tensor,
    grid: Grid,
    *,
    room: int = 1,
    on_tile: Callable[[], None] | None = None,
    finish: Operation | None = None,
) -> Iterator[Tensor]:
    """The larger image from top to bottom, in strips of full width that do not change any more.

    Neighbours whose windows are equal in size go through ``forward`` together, as long as they
    have no more than ``room`` pixels.

    Shapes: lr (B, C, h, w) -> some (B, C', k, w·scale), together h·scale high.
    """
    blended = None if grid.exact else _Blended(grid)
    for number, row in enumerate(grid.rows):
        pasted: Tensor | None = None
        for columns in _neighbours(grid.columns, room // (len(lr) * (row.right - row.left))):
            windows = [lr[..., row.left : row.right, c.left : c.right] for c in columns]
            outputs = forward(windows[0] if len(windows) == 1 else torch.cat(windows))
            for part, column in zip(outputs.split(len(lr)), columns, strict=True):
                if blended is not None:
                    blended.add(part, row, column)
                else:
                    core = part[..., _kept(row, grid.scale), _kept(column, grid.scale)]
                    pasted = _paste(pasted, core if finish is None else finish(core), column, grid)
                if on_tile is not None:
                    on_tile()
        if blended is not None:
            pasted = blended.take(number)
            pasted = pasted if finish is None else finish(pasted)
        assert pasted is not None  # no image is without columns
        if pasted.shape[-2]:
            yield pasted


def joined(parts: Iterator[Tensor], height: int, device: torch.device) -> Tensor:
    """``strips`` below each other, ``height`` pixels in all."""
    first = next(parts)
    if first.shape[-2] == height:
        return first.to(device)
    whole = _empty_like(first, (*first.shape[:2], height, first.shape[-1]), device)
    top = 0
    for part in itertools.chain([first], parts):
        bottom = top + part.shape[-2]
        whole[..., top:bottom, :] = part
        top = bottom
    return whole


def spans(length: int, *, tile: int, reach: Reach, smallest: int = 1) -> list[Span]:
    """Cores that cover ``length`` once, and their windows, no smaller than the network takes.

    Windows begin at multiples of ``reach.align``, so that padding and attention windows fall as
    they do in the whole image, and end at such or at the border. Cores are about equal: as few
    sizes as possible, the largest as small as possible.
    """
    align = reach.align
    count = -(-length // tile)
    step = -(-length // count)
    found = []
    for start in range(0, length, step):
        stop = min(start + step, length)
        right = min(length, _up(stop + reach.halo, align))
        left = max(0, min(start - reach.halo, right - smallest)) // align * align
        right = min(length, max(right, left + _up(smallest, align)))
        found.append(Span(start, stop, left, right))
    return found


def _neighbours(columns: list[Span], most: float) -> Iterator[list[Span]]:
    """Runs of windows of one width, no wider together than ``most`` pixels; at least one each."""
    run: list[Span] = []
    for column in columns:
        width = column.right - column.left
        if run and (run[0].right - run[0].left != width or (len(run) + 1) * width > most):
            yield run
            run = []
        run.append(column)
    yield run


def _paste(strip: Tensor | None, core: Tensor, column: Span, grid: Grid) -> Tensor:
    if len(grid.columns) == 1:
        return core
    if strip is None:
        width = grid.columns[-1].stop * grid.scale
        strip = _empty_like(core, (*core.shape[:3], width), core.device)
    strip[..., column.start * grid.scale : column.stop * grid.scale] = core
    return strip


def _empty_like(image: Tensor, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Of the same type and order in memory."""
    last = image.shape[1] > 1 and image.stride(1) == 1
    order = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, dtype=image.dtype, device=device, memory_format=order)


def _kept(span: Span, scale: int) -> slice:
    return slice((span.start - span.left) * scale, (span.stop - span.left) * scale)


class _Blended:
    """Weighted sums of overlapping windows, only of the rows that are not final yet."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.height, self.width = (axis[-1].stop * grid.scale for axis in (grid.rows, grid.columns))
        self.top = 0
        self.sum: Tensor | None = None
        self.weight = torch.empty(0)

    def add(self, part: Tensor, row: Span, column: Span) -> None:
        scale = self.grid.scale
        self._reach_down(part, row.right * scale)
        assert self.sum is not None
        down, across = _ramp(row, self.height, scale), _ramp(column, self.width, scale)
        weight = (down[:, None] * across).to(part.device)
        rows = slice(row.left * scale - self.top, row.right * scale - self.top)
        area = (..., rows, slice(column.left * scale, column.right * scale))
        self.sum[area] += part * weight
        self.weight[area] += weight

    def take(self, number: int) -> Tensor:
        """The rows that no window below row ``number`` of the grid touches."""
        rows = self.grid.rows[number + 1 :]
        final = (rows[0].left * self.grid.scale if rows else self.height) - self.top
        assert self.sum is not None
        done = self.sum[..., :final, :] / self.weight[:final]
        self.sum, self.weight = self.sum[..., final:, :], self.weight[final:]
        self.top += final
        return done

    def _reach_down(self, part: Tensor, bottom: int) -> None:
        had = 0 if self.sum is None else self.sum.shape[-2]
        if self.top + had >= bottom:
            return
        size = (bottom - self.top, self.width)
        longer, weight = part.new_zeros((*part.shape[:2], *size)), part.new_zeros(size)
        if self.sum is not None:
            longer[..., :had, :], weight[:had] = self.sum, self.weight
        self.sum, self.weight = longer, weight


def _ramp(span: Span, length: int, scale: int) -> Tensor:
    """1 inside the core, falling to 0 across both overlaps, not at the image's border.

    As half a cosine: a window's outermost pixels, next to its padding, hardly count. The largest
    error is a tenth of what it is if this falls linearly (RealPLKSR, SeemoRe).
    """
    size = (span.right - span.left) * scale
    at = torch.arange(size) + 0.5
    ramp = torch.ones_like(at)
    if span.left > 0:  # two windows overlap by the halo on either side of the core's edge
        ramp = torch.minimum(ramp, at / (2 * (span.start - span.left) * scale))
    if span.right * scale < length:
        after = 2 * (span.right - span.stop) * scale
        ramp = torch.minimum(ramp, (size - at) / after)
    return (1 - torch.cos(math.pi * ramp)) / 2


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
