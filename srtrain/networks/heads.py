"""Heads: what a generator's output means when it predicts more than one image.

A network with a head has 3K channels. The first three are the point estimate, with whatever skip
the network has; the others are raw widths in units of the image. A head turns them into K maps of
three channels that losses, metrics and bands read: quantiles in rising order, or an image and its
scale. Since the point estimate is a slice, the last layer cut to three channels is an ordinary
super-resolution network.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

# No value is known better than it was recorded: the standard deviation of rounding to 8 bits.
ROUNDING = 1 / (255 * math.sqrt(12))
# Where the softplus bends: widths are linear in the raw channel above 1/64, four gray levels.
SHARPNESS = 64.0


class Band(NamedTuple):
    """Two images between which the truth is expected."""

    lower: Tensor
    upper: Tensor


class Head(nn.Module):
    """``maps(channels)``, and a point estimate and a band of them; ``factor`` calibrates the band.

    ``level``: the share of values that the band is meant to hold. ``factor`` stretches it about the
    point estimate, on both sides; training starts at 1, validation measures it (see
    ``srtrain.metrics.coverage``), checkpoints keep it.
    """

    factor: Tensor

    def __init__(self, *, num_maps: int, level: float) -> None:
        super().__init__()
        if not 0 < level < 1:
            raise ValueError(f"level = {level} must lie inside (0, 1)")
        self.num_maps = num_maps
        self.level = level
        self.register_buffer("factor", torch.ones(()))

    def maps(self, channels: Tensor) -> Tensor:
        """Shapes: the network's (B, 3K, H, W) -> the maps that it means, the same."""
        raise NotImplementedError

    def point(self, maps: Tensor) -> Tensor:
        """The one image that stands for all. Shapes: (B, 3K, H, W) -> (B, 3, H, W)."""
        raise NotImplementedError

    def nominal(self, maps: Tensor, level: float) -> Band:
        """The band as trained, before calibration."""
        raise NotImplementedError

    def interval(self, maps: Tensor, level: float | None = None) -> Band:
        """The calibrated band: the nominal one, ``factor`` times as far from the point estimate.

        The factor is measured at ``self.level``; at others it is the same, and unproven.
        """
        point = self.point(maps)
        lower, upper = self.nominal(maps, self.level if level is None else level)
        return Band(point + self.factor * (lower - point), point + self.factor * (upper - point))


class Quantiles(Head):
    """The ``taus``-quantiles of every value, which cannot cross; the point is the median.

    Crossing is impossible by construction: the median, and positive steps away from it, added up.
    Sorting the maps would do as well, but a sorted median is no slice of the channels: it could not
    be exported alone, and its gradient would reach whichever map lies in the middle just now.

    Raises: ValueError unless ``taus`` rise inside (0, 1) with 0.5 between the others.
    Source: Chernozhukov et al. 2010, "Quantile and probability curves without crossing" (the
    problem); steps by softplus as in Park et al. 2022, "Learning quantile functions without
    quantile crossing".
    """

    def __init__(self, *, taus: Sequence[float] = (0.05, 0.5, 0.95)) -> None:
        rising = all(low < high for low, high in zip(taus, taus[1:], strict=False))
        if not (rising and 0.5 in taus[1:-1] and 0 < taus[0] and taus[-1] < 1):
            raise ValueError(f"taus = {list(taus)} must rise inside (0, 1), with 0.5 in between")
        super().__init__(num_maps=len(taus), level=round(taus[-1] - taus[0], 9))
        self.taus = tuple(taus)
        self.middle = self.taus.index(0.5)

    def maps(self, channels: Tensor) -> Tensor:
        """Quantiles in rising order, (B, 3K, H, W)."""
        _check_channels(channels, self.num_maps)
        median, raw = channels[:, :3], channels[:, 3:]
        steps = positive(raw).unflatten(1, (self.num_maps - 1, 3))
        down, up = steps[:, : self.middle], steps[:, self.middle :]
        below = median[:, None] - down.flip(1).cumsum(1).flip(1)
        above = median[:, None] + up.cumsum(1)
        return torch.cat([below, median[:, None], above], dim=1).flatten(1, 2)

    def point(self, maps: Tensor) -> Tensor:
        """The median."""
        return self._map(maps, self.middle)

    def nominal(self, maps: Tensor, level: float) -> Band:
        """Between the quantiles ``(1 ∓ level) / 2``.

        Raises: ValueError for a level that ``taus`` do not hold.
        """
        ends = (1 - level) / 2, (1 + level) / 2
        found = [index for index, tau in enumerate(self.taus) for end in ends if _same(tau, end)]
        if len(found) != 2:
            raise ValueError(f"a band of {level:g} is not between two of taus {list(self.taus)}")
        return Band(self._map(maps, found[0]), self._map(maps, found[1]))

    def _map(self, maps: Tensor, index: int) -> Tensor:
        return maps[:, 3 * index : 3 * index + 3]


class _LocationScale(Head):
    """An image and the scale of the errors around it."""

    def __init__(self, *, level: float = 0.9) -> None:
        super().__init__(num_maps=2, level=level)

    def maps(self, channels: Tensor) -> Tensor:
        """The image, and its scale, at least that of rounding: (B, 6, H, W)."""
        _check_channels(channels, self.num_maps)
        return torch.cat([channels[:, :3], positive(channels[:, 3:])], dim=1)

    def point(self, maps: Tensor) -> Tensor:
        """The image."""
        return maps[:, :3]

    def nominal(self, maps: Tensor, level: float) -> Band:
        """Symmetric about the image, as wide as the law says."""
        half = self.half_width(level) * maps[:, 3:]
        return Band(self.point(maps) - half, self.point(maps) + half)

    def half_width(self, level: float) -> float:
        """Of a band of scale 1 that holds ``level``."""
        raise NotImplementedError


class GaussianHead(_LocationScale):
    """Mean and standard deviation of every value."""

    def half_width(self, level: float) -> float:
        """``Φ⁻¹((1 + level) / 2)``: 1.645 at 90 %."""
        return NormalDist().inv_cdf((1 + level) / 2)


class LaplaceHead(_LocationScale):
    """Median and mean absolute deviation of every value."""

    def half_width(self, level: float) -> float:
        """``-log(1 - level)``: 2.303 at 90 %."""
        return -math.log(1 - level)


def positive(raw: Tensor) -> Tensor:
    """``ROUNDING + softplus(raw)``: linear in image units, bent only below four gray levels.

    An exponential would need raw values a hundred times as large as the image's own corrections,
    and step over them; a network of zeros starts at three gray levels.
    """
    return ROUNDING + functional.softplus(raw, beta=SHARPNESS)


def _same(tau: float, end: float) -> bool:
    return abs(tau - end) < 1e-6


def _check_channels(channels: Tensor, num_maps: int) -> None:
    if channels.ndim != 4 or channels.shape[1] != 3 * num_maps:
        raise ValueError(
            f"{num_maps} maps are {3 * num_maps} channels, got {tuple(channels.shape)}; "
            "build the network with out_channels to match"
        )
