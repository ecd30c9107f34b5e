"""The band that the LR image cannot hold: how much of it SR has, and how much of that is true.

Measured in the cosine transform, whose mirrored borders join smoothly. A Fourier transform sees a
jump where the left border meets the right, and books it as texture above every Nyquist: bicubic x4
of Set5 ``head`` would get a ratio of .43 and a correlation of .66, where there is .02 and .18.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from srtrain.checks import same_shape

SILENCE = 1e-13  # mean energy per coefficient; one pixel of 3 million off by one level has 5e-12


@dataclass(frozen=True)
class HighBand:
    """Energies of SR and HR above the LR Nyquist, and their scalar product; each (B,)."""

    sr: Tensor
    hr: Tensor
    product: Tensor

    @property
    def ratio(self) -> Tensor:
        """``E_sr / E_hr``: 1 is as much texture as HR has. NaN where HR has none."""
        return torch.where(self.hr > SILENCE, self.sr / self.hr, torch.nan)

    @property
    def truth(self) -> Tensor:
        """``<sr, hr> / √(E_sr · E_hr)``: 1 is all true, 0 invented. NaN where HR has no texture.

        An SR without any gets 0: there is nothing true in it.
        """
        scale = (self.sr * self.hr).sqrt().clamp_min(SILENCE)
        return torch.where(self.hr > SILENCE, self.product / scale, torch.nan)


def high_band(sr: Tensor, hr: Tensor, *, scale: int) -> HighBand:
    """Mean energy above ``1 / (2 · scale)`` cycles per pixel, along either axis or both.

    Shapes: sr, hr (B, C, H, W) -> three times (B,) float64.
    Raises: ValueError if shapes differ.
    """
    same_shape(sr, hr)
    height, width = sr.shape[-2:]
    images = torch.stack([sr, hr], dim=1).double()
    images -= images.mean(dim=(3, 4), keepdim=True)  # the larger the rest, the less of it is exact
    low = low_rows(low_rows(images, low_count(width, scale)).mT, low_count(height, scale))
    both, below = images.flatten(2), low.flatten(2)
    energy = (both @ both.mT - below @ below.mT) / sr[0].numel()
    return HighBand(energy[:, 0, 0].clamp_min(0), energy[:, 1, 1].clamp_min(0), energy[:, 0, 1])


def hf_ratio(sr: Tensor, hr: Tensor, *, scale: int) -> Tensor:
    """Energy above the LR Nyquist, SR ÷ HR, per image; see ``HighBand.ratio``."""
    return high_band(sr, hr, scale=scale).ratio


def hf_truth(sr: Tensor, hr: Tensor, *, scale: int) -> Tensor:
    """Correlation of SR and HR above the LR Nyquist, per image; see ``HighBand.truth``."""
    return high_band(sr, hr, scale=scale).truth


def low_count(side: int, scale: int) -> int:
    """How many of a row's ``side`` coefficients an LR image can hold: k has k / 2n cycles/pixel."""
    return min(side, side // scale + 1)


def low_rows(image: Tensor, kept: int) -> Tensor:
    """The first ``kept`` coefficients of the orthonormal DCT-II over the last axis.

    By one transform of the same length (Makhoul 1980, "A fast cosine transform").

    Shapes: (..., N) -> (..., kept), for kept of at most N.
    """
    length = image.shape[-1]
    order = torch.cat([image[..., ::2], image[..., 1::2].flip(-1)], dim=-1)
    angle = torch.arange(kept, device=image.device, dtype=image.dtype) * (-math.pi / 2 / length)
    turn = torch.polar(torch.full_like(angle, math.sqrt(2 / length)), angle)
    half = kept <= length // 2 + 1  # a real transform has no more, and takes half the time
    turned = torch.fft.rfft(order) if half else torch.fft.fft(order)
    low: Tensor = (turned[..., :kept] * turn).real
    low[..., 0] *= math.sqrt(0.5)
    return low
