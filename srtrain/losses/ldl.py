"""LDL: the adversary's artefacts are damped, its details are left alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srtrain.checks import same_shape
from srtrain.losses.precision import at_least_float32

GLOBAL_POWER = 1 / 5  # of the whole image's variance, by Liang et al. 2022


class LDL(nn.Module):
    """``mean(w · |sr - hr|)``, w = var(R)^⅕ · localvar(R), and 0 where R < R of the average.

    R = Σ_channels |hr - sr|. Artefacts are where the residual varies from pixel to pixel and is
    larger than that of ``average``, the SR of the averaged weights, which moves slowly and has
    fewer of them. w is a map of where, not a thing to learn: no gradient flows through it (the
    authors' code lets it).

    Shapes: sr, hr, average (B, C, H, W) in [0, 1], H and W above ``window`` / 2 -> scalar.
    Raises: ValueError if shapes differ, or for a window that is not odd and above 1.
    Source: Liang, Zeng & Zhang 2022, "Details or artifacts", §3.2.
    """

    takes_average = True

    def __init__(self, *, window: int = 7) -> None:
        super().__init__()
        if window < 3 or window % 2 == 0:
            raise ValueError(f"LDL's window = {window} must be odd and at least 3")
        self.window = window

    def forward(self, sr: Tensor, hr: Tensor, average: Tensor) -> Tensor:
        """The mean loss."""
        same_shape(sr, hr)
        same_shape(average, hr)
        with torch.autocast(sr.device.type, enabled=False):
            sr, hr = at_least_float32(sr), at_least_float32(hr)
            weight = artefacts(sr.detach(), hr, average.detach().to(sr.dtype), window=self.window)
            return (weight * (sr - hr).abs()).mean()


@torch.no_grad()
def artefacts(sr: Tensor, hr: Tensor, average: Tensor, *, window: int) -> Tensor:
    """The map w of ``LDL``: (B, 1, H, W)."""
    residual, of_average = ((hr - image).abs().sum(dim=1, keepdim=True) for image in (sr, average))
    overall = residual.var(dim=(1, 2, 3), keepdim=True) ** GLOBAL_POWER
    return overall * _local_variance(residual, window) * (residual >= of_average)


def _local_variance(x: Tensor, window: int) -> Tensor:
    """Unbiased variance in each window x window square, borders reflected."""
    # Variance ignores the level, and rounding does not: take it out first.
    x = F.pad(x - x.mean(dim=(2, 3), keepdim=True), [window // 2] * 4, mode="reflect")
    square, mean = F.avg_pool2d(x.square(), window, 1), F.avg_pool2d(x, window, 1)
    count = window**2
    return (square - mean.square()).clamp_min_(0.0) * (count / (count - 1))
