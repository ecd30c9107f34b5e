"""Losses of edges."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kornia.filters import spatial_gradient
from torch import nn

from srtrain.checks import same_shape
from srtrain.losses.precision import full_precision

if TYPE_CHECKING:
    from torch import Tensor


class GradientL1(nn.Module):
    """``mean |∇sr - ∇hr|`` over both directions, by normalised Sobel filters.

    Never alone: it does not see a constant error. Sobel, being linear, is run once, on the
    difference.

    Shapes: sr, hr (B, C, H, W) in [0, 1] -> scalar.
    Raises: ValueError if shapes differ.
    """

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """The mean loss."""
        same_shape(sr, hr)
        with full_precision(sr, hr) as (sr, hr):
            slope: Tensor = spatial_gradient(sr - hr, mode="sobel", order=1, normalized=True)
            return slope.abs().mean()
