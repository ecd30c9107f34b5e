"""A U-Net in pixel space: where to move each pixel of a half-made image, at a moment of its making.

Nothing in it averages over the image (the published ones normalise by group over all pixels): what
one pixel is told depends on a bounded neighbourhood, so that an image can be made tile by tile and
come out as one, and a crop teaches what a photo asks.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

EPS = 1e-6
# Periods of the sines that time is told in, from 2π down: 1/100 is finer than any sampler's step.
FREQUENCIES = 16
FASTEST = 100.0


class FlowUNet(nn.Module):
    """Velocity ``v(x, t)``: ``channels · multipliers`` wide, half the size at each next level.

    ``blocks`` residual blocks a level on the way down, one more beside each skip on the way up;
    time scales and shifts the features of every block (FiLM). The last layer starts at zero: an
    untrained network moves nothing. Sizes that do not halve are padded by repetition and cropped.

    Shapes: x (B, in_channels, H, W), the first three channels the half-made image, the others what
    it is conditioned on; t (B,) in [0, 1] -> (B, 3, H, W).
    Raises: ValueError for no level, or for a level without channels.
    Source: Ronneberger et al. 2015, "U-Net"; Perez et al. 2018, "FiLM"; per-pixel normalisation:
    Zhang & Sennrich 2019, "Root mean square layer normalization".
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        channels: int = 64,
        multipliers: Sequence[int] = (1, 2, 4),
        blocks: int = 2,
    ) -> None:
        super().__init__()
        widths = [channels * multiplier for multiplier in multipliers]
        if not widths or min(widths) < 1:
            raise ValueError(f"channels = {channels} · {list(multipliers)} must be 1 or more")
        self.multiple_of = 2 ** (len(widths) - 1)
        self.time = TimeEmbedding(4 * channels)
        self.first = _conv(in_channels, widths[0])
        self.down = nn.ModuleList(
            _blocks([width] * (blocks + 1), time=4 * channels) for width in widths
        )
        self.smaller = nn.ModuleList(
            _conv(wide, narrow, stride=2) for wide, narrow in itertools.pairwise(widths)
        )
        self.larger = nn.ModuleList(
            _conv(narrow, wide) for wide, narrow in itertools.pairwise(widths)
        )
        self.up = nn.ModuleList(
            _blocks([2 * width, *[width] * blocks], time=4 * channels) for width in widths[:-1]
        )
        self.norm = PixelNorm(widths[0])
        self.last = nn.Conv2d(widths[0], 3, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Shapes: x (B, C, H, W), t (B,) -> (B, 3, H, W)."""
        height, width = x.shape[-2:]
        told = self.time(t)
        features = self.first(padded(x, self.multiple_of))
        skips = []
        for level, blocks in enumerate(self.down):
            features = _through(blocks, features, told)
            if level < len(self.smaller):
                skips.append(features)
                features = self.smaller[level](features)
        for level in reversed(range(len(self.larger))):
            large = functional.interpolate(features, scale_factor=2.0, mode="nearest")
            beside = torch.cat([self.larger[level](large), skips[level]], dim=1)
            features = _through(self.up[level], beside, told)
        velocity: Tensor = self.last(functional.silu(self.norm(features)))
        return velocity[..., :height, :width]


class TimeEmbedding(nn.Module):
    """Sines and cosines of ``t`` at ``FREQUENCIES`` periods, through two layers: (B,) -> (B, N)."""

    frequencies: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        powers = torch.linspace(0, math.log(FASTEST), FREQUENCIES)
        self.register_buffer("frequencies", powers.exp(), persistent=False)
        self.layers = nn.Sequential(
            nn.Linear(2 * FREQUENCIES, size), nn.SiLU(), nn.Linear(size, size), nn.SiLU()
        )

    def forward(self, t: Tensor) -> Tensor:
        """Shapes: (B,) -> (B, size)."""
        angles = t[:, None] * self.frequencies
        told: Tensor = self.layers(torch.cat([angles.sin(), angles.cos()], dim=1))
        return told


class PixelNorm(nn.Module):
    """``x · gain / √(mean of x² over the channels of this pixel)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) -> the same."""
        wide = x.float()  # squares of bfloat16 have two digits
        shrunk = wide * torch.rsqrt(wide.square().mean(dim=1, keepdim=True) + EPS)
        return (shrunk * self.gain).to(x.dtype)


class FilmBlock(nn.Module):
    """``skip(x) + conv(silu(film(norm(conv(silu(norm(x)))), t)))``; starts as ``skip(x)``."""

    def __init__(self, channels_in: int, channels: int, *, time: int) -> None:
        super().__init__()
        self.norm1 = PixelNorm(channels_in)
        self.conv1 = _conv(channels_in, channels)
        self.norm2 = PixelNorm(channels)
        self.conv2 = _conv(channels, channels)
        self.film = nn.Linear(time, 2 * channels)
        same = channels_in == channels
        self.skip = nn.Identity() if same else nn.Conv2d(channels_in, channels, 1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """Shapes: x (B, C, H, W), told (B, N) -> (B, C', H, W)."""
        inner = self.norm2(self.conv1(functional.silu(self.norm1(x))))
        scale, shift = self.film(told)[:, :, None, None].chunk(2, dim=1)
        moved = torch.addcmul(shift, inner, 1 + scale)
        out: Tensor = self.skip(x) + self.conv2(functional.silu(moved))
        return out


def _blocks(widths: Sequence[int], *, time: int) -> nn.ModuleList:
    pairs = itertools.pairwise(widths)
    return nn.ModuleList(FilmBlock(before, after, time=time) for before, after in pairs)


def _through(blocks: nn.Module, features: Tensor, told: Tensor) -> Tensor:
    assert isinstance(blocks, nn.ModuleList)
    for block in blocks:
        features = block(features, told)
    return features


def _conv(channels_in: int, channels: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1)


def padded(x: Tensor, multiple: int) -> Tensor:
    """``x`` (B, C, H, W), repeated at the right and bottom up to a multiple."""
    right, bottom = (-x.shape[-1]) % multiple, (-x.shape[-2]) % multiple
    return functional.pad(x, (0, right, 0, bottom), mode="replicate") if right or bottom else x
