"""Images between the stages of a degradation: float64, in levels, on a fine grid.

Every stage computes in float64 and rounds its result to 1/256 of a level. The order in which a
BLAS, an FFT or a GPU sums then never shows, so a sample has the same pixels whatever batch it is
in; in float32, one value in a hundred would fall on the other side of a grid line.

Samples of a batch differ in size: each lies in the top left corner of a common canvas, ``sizes``
(B, 2) says how much of it is image. What lies beyond is finite and means nothing.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

Numbers = tuple[float, ...]

GRID = 256.0
_TIE = 1e-6  # far above summation error (1e-10), far below the next value that is not a tie


def settle_(levels: Tensor) -> Tensor:
    """The nearest 1/256 of a level, half up; in place."""
    return levels.mul_(GRID).add_(0.5 + _TIE).floor_().div_(GRID)


def whole(levels: Tensor) -> Tensor:
    """The nearest level within 0 … 255, half up: what an 8-bit file holds."""
    return nearest(levels).clamp_(0.0, 255.0)


def nearest(values: Tensor) -> Tensor:
    """The nearest whole number, half up."""
    return values.add(0.5 + _TIE).floor_()


def beside(drawn: Tensor, levels: Tensor) -> Tensor:
    """What was drawn on the CPU on the device of ``levels``; the CPU does not wait for it."""
    return drawn.to(levels.device, non_blocking=True)


@functools.lru_cache(maxsize=64)
def constant(values: Numbers | tuple[Numbers, ...], device: torch.device) -> Tensor:
    """``values`` as float64, made once for each device."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float64).to(device)


def mirrored(length: Tensor, *, before: int, count: int) -> Tensor:
    """Where ``count`` positions from ``-before`` on lie, reflected about the first and last pixel.

    Shapes: length (B,) -> int64 (B, count).
    """
    period = (2 * (length - 1)).clamp(min=1)[:, None]
    index = (torch.arange(count, device=length.device) - before) % period
    return torch.minimum(index, (period - index).clamp(max=length[:, None] - 1))


def clamped(length: Tensor, *, count: int) -> Tensor:
    """``0 … count - 1``, the last pixel repeated: (B,) -> int64 (B, count)."""
    return torch.minimum(torch.arange(count, device=length.device), length[:, None] - 1)


def take(levels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``levels[b, c, rows[b, i], columns[b, j]]``.

    Shapes: levels (B, C, H, W), rows (B, n), columns (B, m) -> (B, C, n, m).
    """
    batch, channels, _, width = levels.shape
    row = rows[:, None, :, None].expand(batch, channels, -1, width)
    tall = torch.gather(levels, 2, row)
    column = columns[:, None, None, :].expand(batch, channels, rows.shape[1], -1)
    return torch.gather(tall, 3, column)
