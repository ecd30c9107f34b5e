"""Heads: what a generator's output means when it predicts more than one image.

A network with a head has 3K channels. The first three are the point estimate, with whatever skip
the network has; the others are raw widths in units of the image. A head turns them into K maps of
three channels that losses, metrics and bands read: quantiles in rising order, or an image and its
scale. Since the point estimate is a slice, the last layer cut to three channels is an ordinary
super-resolution network.
"""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from srtrain.networks.spec import Spec

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
    """``maps(channels)``, and of the maps a point estimate and a band, calibrated by ``offset``.

    ``level``: the share of values that the band is meant to hold. ``offset`` widens or narrows it;
    it is 0 until validation has measured it on ``images`` images (what that is worth:
    ``srtrain.metrics.coverage``). Checkpoints keep both.
    """

    offset: Tensor
    images: Tensor

    def __init__(self, *, num_maps: int, level: float) -> None:
        super().__init__()
        if not 0 < level < 1:
            raise ValueError(f"level = {level} must lie inside (0, 1)")
        self.num_maps = num_maps
        self.level = level
        self.register_buffer("offset", torch.zeros(()))
        self.register_buffer("images", torch.zeros((), dtype=torch.int64))

    @property
    def spec(self) -> Spec:
        """What rebuilds the head, uncalibrated."""
        own = type(self)
        return Spec(_target_=f"{own.__module__}.{own.__qualname__}", kwargs=self.arguments())

    @property
    def calibration(self) -> dict[str, float]:
        """Level, offset, and the number of images it was measured on (0: never)."""
        offset, images = float(self.offset), int(self.images)
        return {"level": self.level, "offset": offset, "images": images}

    def calibrate(self, *, offset: float, images: int) -> None:
        """Bands use ``offset`` from now on."""
        self.offset.fill_(offset)
        self.images.fill_(images)

    def interval(self, maps: Tensor, level: float | None = None) -> Band:
        """The calibrated band; it always holds the point estimate.

        ``level``: other than the head's own, the offset is the same, and unproven.
        """
        point = self.point(maps)
        lower, upper = self.nominal(maps, self.level if level is None else level)
        offset = self.offset.to(maps.device)
        below, above = self.stretched(point - lower, offset), self.stretched(upper - point, offset)
        return Band(point - below, point + above)

    def arguments(self) -> dict[str, Any]:
        """The constructor's, in JSON's types."""
        raise NotImplementedError

    def maps(self, channels: Tensor) -> Tensor:
        """Shapes: the network's (B, 3K, H, W) -> the maps that it means, the same."""
        raise NotImplementedError

    def point(self, maps: Tensor) -> Tensor:
        """The one image that stands for all. Shapes: (B, 3K, H, W) -> (B, 3, H, W)."""
        raise NotImplementedError

    def nominal(self, maps: Tensor, level: float) -> Band:
        """The band as trained, before calibration."""
        raise NotImplementedError

    def score(self, maps: Tensor, hr: Tensor) -> Tensor:
        """The smallest offset whose band holds ``hr``, value by value; 0 on the nominal bounds."""
        raise NotImplementedError

    def stretched(self, half: Tensor, offset: Tensor | float) -> Tensor:
        """How far a bound lies from the point estimate, if nominally ``half``."""
        raise NotImplementedError


class Quantiles(Head):
    """The ``taus``-quantiles of every value, which cannot cross; the point is the median.

    Crossing is impossible by construction: the median, and positive steps away from it, added up.
    Sorting the maps would do as well, but a sorted median is no slice of the channels: it could not
    be exported alone, and its gradient would reach whichever map lies in the middle just now.
    The offset is added on both sides (conformalised quantile regression).

    Raises: ValueError unless ``taus`` rise inside (0, 1) with 0.5 between the others.
    Source: Chernozhukov et al. 2010, "Quantile and probability curves without crossing"; Romano et
    al. 2019, "Conformalized quantile regression".
    """

    def __init__(self, *, taus: Sequence[float] = (0.05, 0.5, 0.95)) -> None:
        rising = all(low < high for low, high in itertools.pairwise(taus))
        if not (rising and 0.5 in taus[1:-1] and taus[0] > 0 and taus[-1] < 1):
            raise ValueError(f"taus = {list(taus)} must rise inside (0, 1), with 0.5 in between")
        super().__init__(num_maps=len(taus), level=round(taus[-1] - taus[0], 9))
        self.taus = tuple(taus)
        self.middle = self.taus.index(0.5)

    def arguments(self) -> dict[str, Any]:
        """The constructor's."""
        return {"taus": list(self.taus)}

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
        return _map(maps, self.middle)

    def nominal(self, maps: Tensor, level: float) -> Band:
        """From the first to the last quantile, or from ``(1 - level) / 2`` to ``(1 + level) / 2``.

        Raises: ValueError for a level that ``taus`` do not hold.
        """
        ends = (self.taus[0], self.taus[-1])
        if not _same(level, self.level):
            ends = ((1 - level) / 2, (1 + level) / 2)
        found = [index for end in ends for index, tau in enumerate(self.taus) if _same(tau, end)]
        if len(found) != 2:
            raise ValueError(f"a band of {level:g} does not lie between two of {list(self.taus)}")
        return Band(_map(maps, found[0]), _map(maps, found[1]))

    def score(self, maps: Tensor, hr: Tensor) -> Tensor:
        """``lower - hr`` below the median, ``hr - upper`` above it, in units of the image.

        The paper's ``max`` of the two, but for negative offsets that close one side at the median.
        """
        lower, upper = self.nominal(maps, self.level)
        return torch.where(hr < self.point(maps), lower - hr, hr - upper)

    def stretched(self, half: Tensor, offset: Tensor | float) -> Tensor:
        """``max(half + offset, 0)``."""
        return (half + offset).clamp_min(0)


class _LocationScale(Head):
    """An image and the scale of the errors around it; bands are stretched in proportion."""

    def __init__(self, *, level: float = 0.9) -> None:
        super().__init__(num_maps=2, level=level)

    def arguments(self) -> dict[str, Any]:
        """The constructor's."""
        return {"level": self.level}

    def maps(self, channels: Tensor) -> Tensor:
        """The image, and its scale, at least that of rounding: (B, 6, H, W)."""
        _check_channels(channels, self.num_maps)
        return torch.cat([channels[:, :3], positive(channels[:, 3:])], dim=1)

    def point(self, maps: Tensor) -> Tensor:
        """The image."""
        return _map(maps, 0)

    def nominal(self, maps: Tensor, level: float) -> Band:
        """Symmetric about the image, as wide as the law says."""
        half = self.half_width(level) * _map(maps, 1)
        return Band(self.point(maps) - half, self.point(maps) + half)

    def score(self, maps: Tensor, hr: Tensor) -> Tensor:
        """``|hr - image| / half - 1``: the error in units of the scale, against the law's own."""
        half = self.half_width(self.level) * _map(maps, 1)
        return (hr - self.point(maps)).abs() / half - 1

    def stretched(self, half: Tensor, offset: Tensor | float) -> Tensor:
        """``half · (1 + offset)``."""
        return half * (1 + offset)

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

    An exponential would take steps as large as the width itself, where the image's own channels
    move by hundredths; a network of zeros starts at three gray levels.
    """
    return ROUNDING + functional.softplus(raw, beta=SHARPNESS)


def _map(maps: Tensor, index: int) -> Tensor:
    return maps[:, 3 * index : 3 * index + 3]


def _same(one: float, other: float) -> bool:
    return abs(one - other) < 1e-6


def _check_channels(channels: Tensor, num_maps: int) -> None:
    if channels.ndim != 4 or channels.shape[1] != 3 * num_maps:
        raise ValueError(
            f"{num_maps} maps are {3 * num_maps} channels, got {tuple(channels.shape)}; "
            "build the network with out_channels to match"
        )
