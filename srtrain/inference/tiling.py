"""Large images piece by piece, with the result of the whole."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from srtrain.checks import image_batch
from srtrain.inference.receptive import Reach, device_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from srtrain.networks.generator import Generator


class Span(NamedTuple):
    """Along one axis in LR pixels: the core that is kept, inside the window that is computed."""

    start: int
    stop: int
    left: int
    right: int


def upscale_tiled(
    generator: Generator,
    lr: Tensor,
    *,
    tile: int,
    halo: int | Reach,
    on_tile: Callable[[], None] | None = None,
    finish: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """``generator(lr)`` from tiles of ``tile`` LR pixels, each computed with ``halo`` around it.

    With a halo of at least the network's reach (``receptive.measure``) the result is that of the
    whole image to rounding (1e-5). A ``Reach`` that is not exact is an overlap whose outputs are
    blended linearly. Tiles are computed where the generator is and gathered where ``lr`` is.
    ``finish``, a function of each pixel alone, is applied to every tile as soon as that is final:
    what it returns is all that is kept of the whole.

    Shapes: lr (B, C, h, w) -> (B, C', h·scale, w·scale) float32, or what ``finish`` makes of that.
    Raises: ValueError for a tile below 1.
    """
    image_batch(lr, "lr")
    if tile < 1:
        raise ValueError(f"tile must be at least 1 LR pixel, got {tile}")
    reach = halo if isinstance(halo, Reach) else Reach(halo, generator.multiple_of)
    rows, columns = (
        spans(length, tile=tile, reach=reach, smallest=generator.min_size)
        for length in lr.shape[-2:]
    )
    device = device_of(generator)
    canvas: _Canvas | None = None
    for row, column in itertools.product(rows, columns):
        window = lr[..., row.left : row.right, column.left : column.right]
        part = generator(window.to(device, torch.float32)).to(lr.device)
        if finish is not None and reach.exact:
            part = finish(part)
        if canvas is None:
            canvas = _Canvas(part, lr, generator.scale, exact=reach.exact)
        canvas.put(part, row, column)
        if on_tile is not None:
            on_tile()
    if canvas is None:
        raise ValueError(f"lr {tuple(lr.shape)} has no pixels")
    whole = canvas.result()
    return whole if finish is None or reach.exact else finish(whole)


def spans(length: int, *, tile: int, reach: Reach, smallest: int = 1) -> list[Span]:
    """Cores that cover ``length`` once, and their windows, no smaller than the network takes.

    Windows begin at multiples of ``reach.align``, so that padding and attention windows fall as
    they do in the whole image, and end at such or at the border.
    """
    align = reach.align
    found = []
    for start in range(0, length, tile):
        stop = min(start + tile, length)
        right = min(length, _up(stop + reach.halo, align))
        left = max(0, min(start - reach.halo, right - smallest)) // align * align
        right = min(length, max(right, left + _up(smallest, align)))
        found.append(Span(start, stop, left, right))
    return found


class _Canvas:
    """The output, filled tile by tile: cores pasted, or windows blended."""

    def __init__(self, part: Tensor, lr: Tensor, scale: int, *, exact: bool) -> None:
        height, width = (side * scale for side in lr.shape[-2:])
        self.scale = scale
        self.sr = part.new_zeros((*part.shape[:2], height, width))
        self.weight = None if exact else part.new_zeros((height, width))

    def put(self, part: Tensor, row: Span, column: Span) -> None:
        if self.weight is None:
            kept = part[..., self._part(row), self._part(column)]
            self.sr[..., self._at(row.start, row.stop), self._at(column.start, column.stop)] = kept
            return
        height, width = self.sr.shape[-2:]
        weight = self._ramp(row, height)[:, None] * self._ramp(column, width)
        area = (..., self._at(row.left, row.right), self._at(column.left, column.right))
        self.sr[area] += part * weight
        self.weight[area] += weight

    def result(self) -> Tensor:
        return self.sr if self.weight is None else self.sr / self.weight

    def _at(self, start: int, stop: int) -> slice:
        return slice(start * self.scale, stop * self.scale)

    def _part(self, span: Span) -> slice:
        return self._at(span.start - span.left, span.stop - span.left)

    def _ramp(self, span: Span, length: int) -> Tensor:
        """1 inside the core, falling linearly across both overlaps, not at the image's border."""
        size = (span.right - span.left) * self.scale
        at = torch.arange(size, device=self.sr.device) + 0.5
        ramp = torch.ones_like(at)
        if span.left > 0:  # two windows overlap by the halo on either side of the core's edge
            ramp = torch.minimum(ramp, at / (2 * (span.start - span.left) * self.scale))
        if span.right * self.scale < length:
            after = 2 * (span.right - span.stop) * self.scale
            ramp = torch.minimum(ramp, (size - at) / after)
        return ramp


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
