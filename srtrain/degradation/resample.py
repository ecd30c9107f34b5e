"""Another size for each sample of a batch, by matrices: area, bilinear, bicubic."""

from __future__ import annotations

import torch
from torch import Tensor

from srtrain.degradation.levels import beside, settle_

MODES = ("area", "bilinear", "bicubic")
_AREA, _BILINEAR = 0, 1
_A = -0.75  # OpenCV's and torch's bicubic; MATLAB's, in resize.py, is -0.5


def resample(levels: Tensor, *, sizes: Tensor, new_sizes: Tensor, modes: Tensor) -> Tensor:
    """Each sample at its own new size, by its own mode, without anti-aliasing as in the field.

    Equals ``F.interpolate(size=…, mode=…)`` of each sample.

    Shapes: levels float64 (B, C, H, W), sizes and new_sizes (B, 2), modes (B,), index into MODES
    -> (B, C, H', W') where H', W' are the largest new sizes.
    """
    height, width = levels.shape[-2:]
    tall, wide = (int(side) for side in new_sizes.amax(0))
    old, new, modes = (beside(drawn, levels) for drawn in (sizes, new_sizes, modes))
    rows = _matrices(old[:, 0], new[:, 0], modes, shape=(tall, height))
    columns = _matrices(old[:, 1], new[:, 1], modes, shape=(wide, width))
    return settle_(rows[:, None] @ levels @ columns[:, None].mT)


def _matrices(old: Tensor, new: Tensor, modes: Tensor, *, shape: tuple[int, int]) -> Tensor:
    """``out = M @ in`` along one axis, for each sample: float64 (B, *shape)."""
    device = old.device
    position = torch.arange(shape[0], dtype=torch.float64, device=device)
    mode = modes[:, None, None]
    taps = _interpolation(position, old, new, bilinear=mode == _BILINEAR)
    index, weight = taps
    fine = torch.zeros(len(old), *shape, dtype=torch.float64, device=device)
    fine.scatter_add_(2, index, weight)
    return torch.where(mode == _AREA, _means(shape, old, new), fine)


def _interpolation(
    position: Tensor, old: Tensor, new: Tensor, *, bilinear: Tensor
) -> tuple[Tensor, Tensor]:
    """Four pixels around each output pixel's centre, the border's repeated, and their weights."""
    centre = (position + 0.5) * (old / new)[:, None] - 0.5
    first = centre.floor()[..., None] - 1 + torch.arange(4, device=old.device)
    distance = (centre[..., None] - first).abs()
    near = ((_A + 2) * distance - (_A + 3)) * distance**2 + 1
    far = ((_A * distance - 5 * _A) * distance + 8 * _A) * distance - 4 * _A
    cubic = torch.where(distance <= 1, near, torch.where(distance < 2, far, 0.0))
    weight = torch.where(bilinear, (1 - distance).clamp(min=0), cubic)
    index = torch.minimum(first.clamp(min=0).long(), (old - 1)[:, None, None])
    return index, weight


def _means(shape: tuple[int, int], old: Tensor, new: Tensor) -> Tensor:
    """Adaptive average pooling: output i is the mean over ``⌊i·r⌋ … ⌈(i+1)·r⌉``, r = old / new."""
    i = torch.arange(shape[0], device=old.device)[None, :, None]
    x = torch.arange(shape[1], device=old.device)[None, None, :]
    old, new = old[:, None, None], new[:, None, None]
    start, end = i * old // new, ((i + 1) * old + new - 1) // new
    return ((x >= start) & (x < end)).double() / (end - start)
