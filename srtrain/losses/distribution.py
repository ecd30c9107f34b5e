"""Losses of several maps at once: quantiles, or an image and the scale of its errors.

They take the generator's whole output as its head reads it (``srtrain.networks.heads``): K maps of
three channels. Each is minimised by the true conditional law's own figures, pixel by pixel, so what
is learnt is what can be known of a pixel from the LR image, not a picture that might be true.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

GRAY_LEVEL = 1 / 255


class Pinball(nn.Module):
    """``mean over maps of mean(max(τu, (τ - 1)u))``, ``u = hr - map``: the ``taus``-quantiles.

    One map for each τ, in their order. The gradient with respect to a map is -τ below the truth and
    1 - τ above it, whatever the distance.

    Shapes: output (B, 3K, H, W), hr (B, 3, H, W) -> scalar.
    Raises: ValueError if shapes do not fit or a τ is not inside (0, 1).
    Source: Koenker & Bassett 1978, "Regression quantiles".
    """

    takes_output = True

    def __init__(self, *, taus: Sequence[float] = (0.05, 0.5, 0.95)) -> None:
        super().__init__()
        if not (taus and all(0 < tau < 1 for tau in taus)):
            raise ValueError(f"taus = {list(taus)} must lie inside (0, 1)")
        self.taus = tuple(taus)
        # Made here: from the host, at every step, a GPU would be waited for.
        levels = torch.tensor(self.taus, dtype=torch.float64).view(-1, 1, 1, 1)
        self.register_buffer("levels", levels, persistent=False)

    def forward(self, output: Tensor, hr: Tensor) -> Tensor:
        """The mean loss."""
        missing = hr[:, None] - _maps(output, hr, len(self.taus))
        taus = self.get_buffer("levels").to(output.dtype)
        return torch.maximum(taus * missing, (taus - 1) * missing).mean()


class GaussianNLL(nn.Module):
    """``mean(w · (log s + r² / 2s² + log(2π) / 2))``, ``w = σ^2β`` held fixed: mean and variance.

    s and r are σ and ``hr - mean`` in gray levels, so that with β = 0 the value is the mean of
    ``-log p(recorded level)`` in nats, to be compared with ``LaplaceNLL``'s. β = 0 weighs a pixel's
    error by 1 / σ²: those that are hard to predict starve, and PSNR with them; β = 1 restores MSE's
    gradient of the mean; neither moves the minimiser of a pixel. ``nn.GaussianNLLLoss`` has no β.

    Without a floor the density of what is recorded in whole levels has no upper bound: on a flat
    or saturated area, where the mean can be exact, the loss falls forever as σ → 0 and its gradient
    rises as 1 / σ². The head keeps σ at or above the rounding's own (1/√12 of a level).

    Shapes: output (B, 6, H, W), the mean and then σ > 0; hr (B, 3, H, W) -> scalar.
    Raises: ValueError if shapes do not fit or ``beta`` is not in [0, 1].
    Source: Nix & Weigend 1994; Seitzer et al. 2022, "On the pitfalls of heteroscedastic
    uncertainty estimation with probabilistic neural networks", eq. 5 (β).
    """

    takes_output = True

    def __init__(self, *, beta: float = 0.5) -> None:
        super().__init__()
        if not 0 <= beta <= 1:
            raise ValueError(f"beta = {beta} must lie in [0, 1]")
        self.beta = beta

    def forward(self, output: Tensor, hr: Tensor) -> Tensor:
        """The mean loss."""
        mean, sigma = _maps(output, hr, 2).unbind(1)
        squares = ((hr - mean) / sigma).square()
        nll = torch.log(sigma / GRAY_LEVEL) + 0.5 * squares + 0.5 * math.log(2 * math.pi)
        return (sigma.detach().pow(2 * self.beta) * nll).mean() if self.beta else nll.mean()


class LaplaceNLL(nn.Module):
    """``mean(log 2s + |r| / s)``, s and r in gray levels: median and mean absolute deviation.

    The L1 loss with a scale of its own for every value. ``-log p(recorded level)`` in nats. Its
    gradient with respect to the median is ±1 / b: hard pixels count less, not, as under the
    Gaussian, in proportion to what is missing.

    Shapes: output (B, 6, H, W), the median and then b > 0; hr (B, 3, H, W) -> scalar.
    Raises: ValueError if shapes do not fit.
    """

    takes_output = True

    def forward(self, output: Tensor, hr: Tensor) -> Tensor:
        """The mean loss."""
        median, scale = _maps(output, hr, 2).unbind(1)
        nll = torch.log(2 * scale / GRAY_LEVEL) + (hr - median).abs() / scale
        return nll.mean()


def _maps(output: Tensor, hr: Tensor, count: int) -> Tensor:
    """``output`` as (B, K, 3, H, W).

    Raises: ValueError if it is not ``count`` maps of hr's shape.
    """
    batch, channels, *size = hr.shape
    if tuple(output.shape) != (batch, count * channels, *size):
        raise ValueError(
            f"output {tuple(output.shape)} is not {count} maps of hr {tuple(hr.shape)}; "
            "does `loss.head` belong to this term?"
        )
    return output.reshape(batch, count, channels, *size)
