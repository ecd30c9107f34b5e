"""Rectangles on the LR grid, so that a cut is the same place in LR and HR, and what they cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

_JITTER = 0.01  # standard deviation of CutBlur's side, as in its authors' code (augments.py)


def cutmix_boxes(
    source: np.random.Generator, count: int, *, height: int, width: int, alpha: float
) -> np.ndarray:
    """Boxes of area ``1 - λ``, λ ~ Beta(alpha, alpha), centred anywhere, clipped by the border.

    Shapes: -> int64 (count, 4): top, bottom, left, right.
    Source: Yun et al. 2019, "CutMix", eq. 2; alpha = 1 there.
    """
    side = np.sqrt(1 - source.beta(alpha, alpha, count))
    edges = []
    for length in (height, width):
        half = (side * length).astype(np.int64) // 2
        centre = source.integers(length, size=count)
        edges += [(centre - half).clip(0, length), (centre + half).clip(0, length)]
    return np.stack(edges, axis=1)


def cutblur_boxes(
    source: np.random.Generator, count: int, *, height: int, width: int, ratio: float
) -> np.ndarray:
    """Boxes with ``ratio`` ± 0.01 of each side, anywhere inside.

    Shapes: -> int64 (count, 4): top, bottom, left, right.
    Source: Yoo et al. 2020, "Rethinking data augmentation for image super-resolution"; 0.7 there.
    """
    share = source.normal(ratio, _JITTER, count).clip(0, 1)
    edges = []
    for length in (height, width):
        cut = (share * length).astype(np.int64)
        start = source.integers(length - cut + 1)
        edges += [start, start + cut]
    return np.stack(edges, axis=1)


def inside(boxes: Tensor, *, height: int, width: int) -> Tensor:
    """Which pixels the boxes cover: bool (B, 1, height, width)."""
    row = torch.arange(height, device=boxes.device).view(1, height, 1)
    column = torch.arange(width, device=boxes.device).view(1, 1, width)
    top, bottom, left, right = boxes.view(-1, 4, 1, 1).unbind(dim=1)
    covered = (row >= top) & (row < bottom) & (column >= left) & (column < right)
    return covered.unsqueeze(1)


def enlarged(region: Tensor, scale: int) -> Tensor:
    """The same region on the HR grid."""
    return region.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
