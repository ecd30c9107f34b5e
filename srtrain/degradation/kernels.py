"""Blur kernels for a batch at once: bells of any shape and direction, and the circular sinc.

All (B, 2·radius + 1, 2·radius + 1) float64, row = y; point-symmetric, so correlation with them is
convolution. ``kornia.filters.get_gaussian_kernel2d`` has neither rotation nor the other shapes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def quadratic_form(radius: int, *, sigma: Tensor, angle: Tensor) -> Tensor:
    """``dᵀ Σ⁻¹ d`` with ``Σ = R(angle) diag(sigma²) R(angle)ᵀ``: 1 on the ellipse of one sigma.

    Shapes: sigma (B, 2) along and across ``angle`` (B,), radians from the x axis towards y.
    """
    y, x = _offsets(radius)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    along, across = cos * x + sin * y, cos * y - sin * x
    return (along / sigma[:, 0, None, None]) ** 2 + (across / sigma[:, 1, None, None]) ** 2


def generalised_gaussian(form: Tensor, beta: Tensor) -> Tensor:
    """``exp(-form^beta / 2)``: the Gaussian at 1, peaked below, boxy above."""
    return torch.exp(-0.5 * form ** beta[:, None, None])


def plateau(form: Tensor, beta: Tensor) -> Tensor:
    """``1 / (1 + form^beta)``: a flat top with long tails."""
    return 1.0 / (1.0 + form ** beta[:, None, None])


def sinc(radius: int, cutoff: Tensor) -> Tensor:
    """``cutoff · J₁(cutoff·r) / 2πr``: passes a disc of frequencies, and rings at edges.

    Shapes: cutoff (B,) in radians a pixel, at most π.
    Source: Wang et al. 2021, Real-ESRGAN, equation 6.
    """
    y, x = _offsets(radius)
    distance = torch.hypot(x, y).clamp(min=1e-9)
    omega = cutoff[:, None, None]
    ripples: Tensor = torch.special.bessel_j1(omega * distance)
    kernel = omega * ripples / (2 * math.pi * distance)
    kernel[:, radius, radius] = cutoff**2 / (4 * math.pi)
    return kernel


def trimmed(kernel: Tensor, radius: Tensor) -> Tensor:
    """Zero beyond each kernel's own ``radius`` (B,), sum 1."""
    y, x = _offsets(kernel.shape[-1] // 2)
    kernel = kernel * (torch.maximum(x.abs(), y.abs()) <= radius[:, None, None])
    return kernel / kernel.sum(dim=(1, 2), keepdim=True)


def identity(radius: int) -> Tensor:
    """The kernel (2·radius + 1)² that changes nothing."""
    y, x = _offsets(radius)
    return ((x == 0) & (y == 0)).double()


def _offsets(radius: int) -> tuple[Tensor, Tensor]:
    axis = torch.arange(-radius, radius + 1, dtype=torch.float64)
    return axis[:, None].expand(-1, len(axis)), axis[None, :].expand(len(axis), -1)
