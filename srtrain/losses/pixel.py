"""Losses of single pixels: what each of them tends to, and where it turns from square to line.

On images in [0, 1] the residuals of super-resolution are 0.03 to 0.1. At the stock constants
(``beta = 1``, ``delta = 1``, ``cosh(r)``) nearly every pixel lies in the quadratic zone and the
"robust" loss is half an MSE. Constants are therefore written as ``k / 255``, k gray levels, and
``linear_share`` says how many pixels they reach: of a published x4 model's errors on Set5, 62 %
exceed 1 gray level, 38 % exceed 3, 11 % exceed 10.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import nn

from srtrain.checks import same_shape

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class Robust(Protocol):
    """A loss with a quadratic core and linear tails."""

    def linear_share(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Share of the pixels in the tails."""


def linear_zone(error: Tensor, threshold: float) -> Tensor:
    """Share of values with ``|error| > threshold``, in [0, 1]; detached."""
    return (error.detach().abs() > threshold).float().mean()


class SmoothL1(nn.SmoothL1Loss):
    """``mean(r² / 2β if |r| < β else |r| - β / 2)``: slope 1 beyond ``beta``; ``Huber / β``.

    ``beta`` in units of the image, 1 gray level by default (torch's own is 255).
    Minimiser: between median and mean.

    Shapes: sr, hr (B, C, H, W) in [0, 1] -> scalar.
    Raises: ValueError if shapes differ or ``beta`` is not positive.
    Source: Girshick 2015, Fast R-CNN, eq. 3.
    """

    def __init__(self, *, beta: float = 1 / 255) -> None:
        super().__init__(beta=_positive(beta, "beta"))

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """The mean loss."""
        same_shape(sr, hr)
        return super().forward(sr, hr)

    def linear_share(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Share of the pixels with ``|sr - hr| > beta``."""
        return linear_zone(sr - hr, self.beta)


class Huber(nn.HuberLoss):
    """``mean(r² / 2 if |r| < δ else δ (|r| - δ / 2))``: slope ``delta`` beyond ``delta``.

    Equals ``δ · SmoothL1(beta=δ)``, so a smaller ``delta`` also means a smaller loss: weigh it.
    ``delta`` in units of the image, 1 gray level by default (torch's own is 255).

    Shapes: sr, hr (B, C, H, W) in [0, 1] -> scalar.
    Raises: ValueError if shapes differ or ``delta`` is not positive.
    Source: Huber 1964, "Robust estimation of a location parameter".
    """

    def __init__(self, *, delta: float = 1 / 255) -> None:
        super().__init__(delta=_positive(delta, "delta"))

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """The mean loss."""
        same_shape(sr, hr)
        return super().forward(sr, hr)

    def linear_share(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Share of the pixels with ``|sr - hr| > delta``."""
        return linear_zone(sr - hr, self.delta)


class Charbonnier(nn.Module):
    """``mean(sqrt(r² + ε²))``: L1 for errors above ``eps``, L2 below.

    Unlike ``kornia.losses.charbonnier_loss`` (ε = 1, shifted by -1). ``eps`` in units of the
    image; the usual 1e-3 is a quarter of a gray level, all but L1. Minimiser: the median as ε -> 0.

    Shapes: sr, hr (B, C, H, W) in [0, 1] -> scalar.
    Raises: ValueError if shapes differ or ``eps`` is not positive.
    Source: Lai et al. 2017, LapSRN, eq. 4.
    """

    def __init__(self, *, eps: float = 0.255 / 255) -> None:
        super().__init__()
        self.eps = _positive(eps, "eps")

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """The mean loss."""
        same_shape(sr, hr)
        error = sr - hr
        return torch.hypot(error, error.new_full((), self.eps)).mean()

    def linear_share(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Share of the pixels with ``|sr - hr| > eps``."""
        return linear_zone(sr - hr, self.eps)


class LogCosh(nn.Module):
    """``mean(s · log cosh(r / s))``: ``r² / 2s`` below ``scale``, ``|r| - s log 2`` above.

    ``scale`` in units of the image, 1 gray level by default; at 1, the usual form, it is half an
    MSE. Gradient: ``tanh(r / s)``.

    Shapes: sr, hr (B, C, H, W) in [0, 1] -> scalar.
    Raises: ValueError if shapes differ or ``scale`` is not positive.
    """

    def __init__(self, *, scale: float = 1 / 255) -> None:
        super().__init__()
        self.scale = _positive(scale, "scale")

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """The mean loss."""
        same_shape(sr, hr)
        ratio = (sr - hr) / self.scale
        return self.scale * (torch.logaddexp(ratio, -ratio) - math.log(2)).mean()

    def linear_share(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Share of the pixels with ``|sr - hr| > scale``."""
        return linear_zone(sr - hr, self.scale)


class Quantile(nn.Module):
    """``mean(max(τu, (τ - 1)u))``, ``u = hr - sr``: its minimiser is the τ-quantile.

    Also called pinball loss; ``tau = 0.5`` is half an L1. One output for one ``tau``, a fraction
    and not a gray level: the loss is linear on either side of zero.

    Shapes: sr, hr (B, C, H, W) in [0, 1] -> scalar.
    Raises: ValueError if shapes differ or ``tau`` is not inside (0, 1).
    Source: Koenker & Bassett 1978, "Regression quantiles".
    """

    def __init__(self, *, tau: float = 0.5) -> None:
        super().__init__()
        if not 0 < tau < 1:
            raise ValueError(f"tau = {tau} must lie inside (0, 1)")
        self.tau = tau

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """The mean loss."""
        same_shape(sr, hr)
        missing = hr - sr
        return torch.maximum(self.tau * missing, (self.tau - 1) * missing).mean()

    def linear_share(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Share of the pixels that differ at all."""
        return linear_zone(sr - hr, 0.0)


def _positive(value: float, name: str) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(
            f"{name} = {value} must be positive and finite, in units of the image: k / 255"
        )
    return value
