"""Colour below transparent pixels: whatever a drawing program left there."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def fill_hidden(colour: Tensor, alpha: Tensor) -> Tensor:
    """``colour`` where ``alpha > 0``; elsewhere the mean of the nearest visible colours.

    A network mixes neighbours: unfilled, hidden colours would come out as fringes. Filled by a
    pyramid of means over visible pixels only (pull-push, Gortler et al. 1996, section 3.4).

    Shapes: colour (B, C, H, W), alpha (B, 1, H, W) -> (B, C, H, W).
    """
    visible = (alpha > 0).to(colour.dtype)
    return torch.where(alpha > 0, colour, _pull_push(colour * visible, visible))


def _pull_push(weighted: Tensor, weight: Tensor) -> Tensor:
    """Mean colours at every pixel; 0 if nothing at all is visible."""
    mean = weighted / weight.clamp(min=1e-6)
    height, width = weight.shape[-2:]
    if height == width == 1:
        return mean
    sums = [functional.avg_pool2d(part, 2, ceil_mode=True) for part in (weighted, weight)]
    # Each cell counts once, however many of its pixels are visible.
    share = sums[1].clamp(min=1e-6)
    seen = (sums[1] > 0).to(weight.dtype)
    coarse = _pull_push(sums[0] / share * seen, seen)
    fine = functional.interpolate(coarse, scale_factor=2.0, mode="nearest")
    return torch.where(weight > 0, mean, fine[..., :height, :width])
