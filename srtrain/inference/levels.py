"""The levels of files as tensors, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from srtrain.images import round_levels

if TYPE_CHECKING:
    from srtrain.images.picture import Pixels


def levels_of(pixels: Pixels) -> Tensor:
    """Shapes: pixels (H, W, C) -> the same levels as (1, C, H, W), without a copy."""
    return torch.from_numpy(writable(pixels)).permute(2, 0, 1)[None]


def writable(pixels: Pixels) -> Pixels:
    """As torch needs it: what a user gives may be a view on something, or protected."""
    return np.require(pixels, requirements=["C", "W"])


def to_levels(sr: Tensor, *, bits: int, gray: bool) -> Tensor:
    """Clamped, rounded half up; the mean of the channels if ``gray``.

    Shapes: sr float (B, C, H, W) in [0, 1] -> uint8 or uint16 (B, 1 | C, H, W).
    Raises: ValueError for NaN and infinity.
    """
    return round_levels(sr.mean(dim=1, keepdim=True) if gray else sr, bits=bits)


def pixels_of(levels: Tensor) -> Pixels:
    """Shapes: levels (1, C, H, W) -> (H, W, C)."""
    array: Pixels = levels[0].permute(1, 2, 0).contiguous().cpu().numpy()
    return array
