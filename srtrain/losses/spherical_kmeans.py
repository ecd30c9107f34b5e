"""Convolution filters without labels or back-propagation: spherical k-means on whitened patches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor


def whitening(patches: Tensor, *, epsilon: float) -> tuple[Tensor, Tensor]:
    """``(μ, Z)`` with ``(x - μ) @ Z`` decorrelated: ZCA, ``Z = V (Λ + ε mean λ)^-½ Vᵀ``.

    ``epsilon`` is relative to the mean eigenvalue: directions far below it are noise.

    Shapes: patches (N, D) -> (D,), (D, D).
    """
    mean = patches.mean(0)
    centered = patches - mean
    values, vectors = torch.linalg.eigh(centered.T @ centered / len(patches))
    values = values.clamp_min(0)
    gains = (values + epsilon * values.mean()).rsqrt()
    return mean, (vectors * gains) @ vectors.T


def spherical_kmeans(
    points: Tensor, *, count: int, iterations: int, generator: torch.Generator
) -> Tensor:
    """Unit vectors ``d`` that maximise ``Σ_points (d_best · point)²``, by alternation.

    Each point is explained by the direction with the largest absolute product; a direction becomes
    the normalised sum of what it explains, damped by its old self. It starts from random points;
    one that explains nothing is moved to another random point.

    Shapes: points (N, D) -> (count, D).
    Source: Coates & Ng 2012, "Learning feature representations with k-means", section 2.
    """
    size = len(points)
    directions = F.normalize(points[torch.randperm(size, generator=generator)[:count]], dim=1)
    for _ in range(iterations):
        sums = torch.zeros_like(directions)
        hits = torch.zeros(count)
        for part in torch.split(points, 8192):
            products = part @ directions.T
            best = products.abs().argmax(1)
            gains = products.gather(1, best[:, None])
            sums.index_add_(0, best, gains * part)
            hits.index_add_(0, best, torch.ones(len(part)))
        idle = hits == 0
        sums[idle] = points[torch.randint(size, (int(idle.sum()),), generator=generator)]
        directions = F.normalize(sums + directions * (~idle)[:, None], dim=1)
    return directions


def fit_convolution(
    patches: Tensor, *, outputs: int, iterations: int, epsilon: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Weight and bias of a 3x3 convolution whose filters are the whitened patches' directions.

    The bias removes the mean patch; each channel is scaled to a mean square of 1 after its ReLU.

    Shapes: patches (N, C * 9), in ``unfold``'s order -> (outputs, C, 3, 3), (outputs,).
    Raises: ValueError for fewer patches than outputs.
    """
    if len(patches) < outputs:
        raise ValueError(f"{len(patches)} patches must be at least as many as outputs={outputs}")
    mean, zca = whitening(patches, epsilon=epsilon)
    points = (patches - mean) @ zca
    directions = spherical_kmeans(points, count=outputs, iterations=iterations, generator=generator)
    response = (points @ directions.T).relu_().square_().mean(0).sqrt_().clamp_min_(1e-6)
    weight = directions @ zca / response[:, None]
    bias = -(weight @ mean)
    return weight.reshape(outputs, -1, 3, 3), bias


def random_patches(activation: Tensor, *, count: int, generator: torch.Generator) -> Tensor:
    """``count`` 3x3 patches from random places, the same number from every picture.

    Shapes: activation (B, C, H, W) -> (count // B * B, C * 9).
    """
    batch, _, height, width = activation.shape
    each = count // batch
    offsets = torch.arange(3)
    found = []
    for picture in activation:
        top = torch.randint(height - 2, (each,), generator=generator)
        left = torch.randint(width - 2, (each,), generator=generator)
        rows = (top[:, None] + offsets)[:, :, None]
        cols = (left[:, None] + offsets)[:, None, :]
        found.append(picture[:, rows, cols].movedim(0, 1).flatten(1))
    return torch.cat(found)
