"""Sensor noise: Gaussian or Poisson, in colour or gray, of another strength for each sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from srtrain.degradation.levels import constant, settle_, whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_GRAY = (0.2989, 0.587, 0.114)  # torchvision's rgb_to_grayscale, as in Real-ESRGAN


@dataclass(frozen=True)
class Noise:
    """What is added to one sample.

    ``strength``: of Gaussian noise its σ in levels; of Poisson noise the factor on ``P(image) -
    image``. ``gray``: one field for all channels.
    """

    gaussian: bool
    strength: float
    gray: bool


def add_noise_(
    levels: Tensor,
    noises: Sequence[Noise],
    *,
    sizes: Tensor,
    streams: Sequence[torch.Generator],
) -> Tensor:
    """Each sample with its own noise, drawn from its own stream, clamped to 0 … 255; in place.

    A loop: what a stream gives for a shape must not depend on the other samples' shapes.

    Shapes: levels float64 (B, 3, H, W), sizes (B, 2) -> as levels.
    """
    for b, (noise, (height, width)) in enumerate(zip(noises, sizes.tolist(), strict=True)):
        part = levels[b, :, :height, :width]
        draw = gaussian_field if noise.gaussian else poisson_field
        part += draw(part, gray=noise.gray, stream=streams[b]).double() * noise.strength
    return settle_(levels.clamp_(0.0, 255.0))


def gaussian_field(levels: Tensor, *, gray: bool, stream: torch.Generator) -> Tensor:
    """Standard normal: (3, h, w) -> (1 if gray else 3, h, w)."""
    shape = (1 if gray else len(levels), *levels.shape[1:])
    return torch.randn(shape, generator=stream, device=levels.device)


def poisson_field(levels: Tensor, *, gray: bool, stream: torch.Generator) -> Tensor:
    """``P(clean) - clean`` in levels, its variance proportional to the signal.

    Of the image rounded to 8 bit, counted in photons: white is the power of two that holds the
    number of distinct levels, 256 for all but nearly flat patches.

    Shapes: levels (3, h, w) -> (1 if gray else 3, h, w).
    """
    if gray:
        levels = torch.einsum("c,chw->hw", constant(_GRAY, levels.device), levels)[None]
    clean = whole(levels)
    seen = torch.zeros(256, dtype=levels.dtype, device=levels.device)
    seen[clean.flatten().long()] = 1.0
    photons = 2.0 ** torch.ceil(torch.log2(seen.sum())) / 255.0
    rate = (clean * photons).float()
    return torch.poisson(rate, generator=stream).double() / photons - clean
