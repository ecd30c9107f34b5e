"""A velocity for a few minutes of training: a Gaussian in every band of every block, and the rest.

Trained for hours, a U-Net finds by itself that flat areas take no noise and edges much, that colour
varies less than luma, and how fast each noise must go. Here that is built in: an untrained network
already is the best linear flow of one size of error, a little training makes the size local.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from srtrain.networks.flow_unet import TimeEmbedding, padded

if TYPE_CHECKING:
    from collections.abc import Iterator

TIME = 64  # channels that tell the moment
# Standard deviations of a photo's values around 0.5, and of what a mean image keeps of its detail.
CONTRAST = 0.25
KEPT = 0.03
# exp(-5) and exp(3) times ``spread``: no error lies beyond.
LEAST, MOST = -5.0, 3.0
TINY = 1e-8


class FlowBands(nn.Module):
    """Velocity ``v(x, t)``: in bands of blocks of ``patch`` pixels, ``gain · x + correction``.

    The bands are the 2D cosine transform of each block, of luma and two opponent colours: an
    orthonormal matrix, so that white noise stays white and the squared error what it is. In each,
    the way ``x = k + t · r + (1 - t) · sigma · noise`` from a source ``k + sigma · noise`` to an
    image ``k + r`` has, for Gaussian k and r of variances p and s², the exact velocity

        E[r - sigma · noise | x] = (t s² - (1 - t) sigma²) / (p + t² s² + (1 - t)² sigma²) · x.

    The network says s for each band and block (and p; where it is told k, x - k is looked at and
    p = 0), and adds a correction in units of ``s sigma / √(t² s² + (1 - t)² sigma²)``, the standard
    deviation that a Gaussian velocity still has when x is known. Both start at zero: s = ``spread``
    everywhere. ``sigma`` should be that of the flow's source; another is a worse start, no error.

    ``blocks`` residual blocks of ``channels`` at one ``patch``-th of the size, without
    normalisation: how strong a detail is, is what they must know.

    Shapes: x (B, 3 or 6, H, W), the half-made image and, of 6, what it is told, which must be what
    its source lies around; t (B,) in [0, 1] -> (B, 3, H, W).
    Raises: ValueError for other ``in_channels``; sizes below 1; ``sigma``, ``spread`` not above 0.
    Source: the split into a closed form and a learnt rest of unit size follows Karras et al. 2022,
    "Elucidating the design space of diffusion-based generative models", for a line's velocity.
    """

    bands: Tensor
    units: Tensor
    known: Tensor

    def __init__(
        self,
        *,
        in_channels: int = 3,
        channels: int = 64,
        blocks: int = 5,
        patch: int = 4,
        sigma: float = 0.03,
        spread: float = 0.06,
    ) -> None:
        super().__init__()
        if in_channels not in (3, 6) or min(channels, blocks, patch) < 1:
            raise ValueError(
                f"in_channels = {in_channels} (3, 6), channels = {channels}, blocks = {blocks}, "
                f"patch = {patch} (1 or more)"
            )
        if not min(sigma, spread) > 0:
            raise ValueError(f"sigma = {sigma}, spread = {spread} must be above 0")
        self.told, self.sigma, self.spread = in_channels == 6, sigma, spread
        self.patch = self.multiple_of = patch
        size = 3 * patch * patch
        self.register_buffer("bands", _bands(patch), persistent=False)
        flat = torch.arange(size).view(1, -1, 1, 1) % (patch * patch) == 0
        wide = CONTRAST * patch  # a block's mean is its first band ÷ patch
        self.register_buffer("units", torch.where(flat, 1 / wide, 1 / spread), persistent=False)
        self.register_buffer("known", torch.where(flat, wide**2, KEPT**2), persistent=False)
        self.time = TimeEmbedding(TIME)
        self.first = nn.Conv2d(2 * size if self.told else size, channels, 3, padding=1)
        self.blocks = nn.ModuleList(_Block(channels) for _ in range(blocks))
        self.last = nn.Conv2d(channels, (2 if self.told else 3) * size, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Shapes: x (B, C, H, W), t (B,) -> (B, 3, H, W)."""
        height, width = x.shape[-2:]
        x = padded(x.float(), self.patch)
        half_made, *told = x.split(3, dim=1)
        moment = t.float().view(-1, 1, 1, 1)
        noise = ((1 - moment) * self.sigma).square()
        size = (moment * self.spread).square() + noise
        if self.told:
            y = self.into_bands(half_made - told[0])
            seen = torch.cat([y * size.rsqrt(), self.into_bands(told[0] - 0.5) * self.units], dim=1)
        else:
            y = self.into_bands(half_made - 0.5)
            seen = y * self.units
        correction, *logs = self.guessed(seen, t)
        spread = self.spread**2 * logs[0].float().clamp(LEAST, MOST).mul(2).exp()
        known = 0 if self.told else self.known * logs[1].float().clamp(LEAST, MOST).mul(2).exp()
        variance = known + moment.square() * spread + noise + TINY
        gain = (moment * spread - (1 - moment) * self.sigma**2) / variance
        unit = self.spread * self.sigma * size.rsqrt()
        velocity = functional.conv_transpose2d(
            gain * y + unit * correction.float(), self.bands, stride=self.patch
        )
        return velocity[..., :height, :width]

    def guessed(self, seen: Tensor, t: Tensor) -> Iterator[Tensor]:
        """Correction, log of s, and where nothing is told log of √p, in units, for each band."""
        moment = self.time(t)
        features = self.first(seen)
        for block in self.blocks:
            features = block(features, moment)
        maps: Tensor = self.last(functional.silu(features))
        return iter(maps.chunk(2 if self.told else 3, dim=1))

    def into_bands(self, image: Tensor) -> Tensor:
        """Shapes: (B, 3, H, W) -> (B, 3 · patch², H / patch, W / patch)."""
        return functional.conv2d(image, self.bands, stride=self.patch)


class _Block(nn.Module):
    """``x + conv(silu(film(conv(x), t)))``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.film = nn.Linear(TIME, 2 * channels)
        with torch.no_grad():  # nearly nothing at first: without a norm, sums of blocks would grow
            self.conv2.weight.mul_(0.1)
            self.film.weight.mul_(0.1)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """Shapes: x (B, C, H, W), told (B, TIME) -> (B, C, H, W)."""
        scale, shift = self.film(told)[:, :, None, None].chunk(2, dim=1)
        moved = torch.addcmul(shift, self.conv1(x), 1 + scale)
        out: Tensor = x + self.conv2(functional.silu(moved))
        return out


def _bands(patch: int) -> Tensor:
    """(3 · patch², 3, patch, patch): orthonormal rows; luma first, then opponent colours."""
    at = torch.arange(patch)
    waves = torch.cos(math.pi * (at + 0.5) * at[:, None] / patch) * math.sqrt(2 / patch)
    waves[0] /= math.sqrt(2)
    colours = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]])
    colours = colours / colours.norm(dim=1, keepdim=True)
    bands = torch.einsum("kc,iy,jx->kijcyx", colours, waves, waves)
    return bands.reshape(3 * patch * patch, 3, patch, patch)
