"""Losses of the spectrum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from srtrain.checks import same_shape
from srtrain.losses.precision import full_precision

if TYPE_CHECKING:
    from torch import Tensor


class FFTL1(nn.Module):
    """``mean |F(sr - hr)|`` over the non-redundant half of the orthonormal 2-D spectrum.

    The absolute value is what matters: squared, Parseval makes it an MSE. Orthonormal, so that
    values stay those of pixels (``√π / 2 · RMSE`` for a white error) and a weight means the same
    for every patch size.

    Shapes: sr, hr (B, C, H, W) in [0, 1] -> scalar.
    Raises: ValueError if shapes differ.
    Source: Cho et al. 2021, MIMO-UNet, eq. 6 (there unnormalised).
    """

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """The mean loss."""
        same_shape(sr, hr)
        with full_precision(sr, hr) as (sr, hr):
            spectrum: Tensor = torch.fft.rfft2(sr - hr, norm="ortho")
            return spectrum.abs().mean()
