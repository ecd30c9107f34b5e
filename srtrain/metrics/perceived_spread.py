"""LPIPS of many samples, to HR and among themselves, while each goes through the network once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

    from srtrain.perception.lpips import LPIPS


class PerceivedSpread:
    """Takes samples one by one; keeps the sum of their features beside those of ``hr``, no more.

    Of features ``a_k``, all pairs follow from sums: ``Σ_{k<l} (a_k - a_l)²`` is
    ``N Σ a_k² - (Σ a_k)²``. They are told relative to HR's, so that little is lost in that.

    Shapes: hr (1, 3, H, W) in [0, 1].
    """

    def __init__(self, lpips: LPIPS, hr: Tensor) -> None:
        self.lpips = lpips
        self.size = hr.shape[-2:]
        self.hr = list(lpips.features(hr))
        self.sums = [torch.zeros_like(features) for features in self.hr]
        self.to_hr = 0.0
        self.number = 0

    @torch.no_grad()
    def add(self, sample: Tensor) -> Tensor:
        """The sample's map of distances to HR, each layer's enlarged bilinearly to the image.

        Shapes: (1, 3, H, W) in [0, 1] -> (1, H, W).
        """
        total = sample.new_zeros(1, *self.size)
        for layer, features in enumerate(self.lpips.features(sample)):
            apart = features - self.hr[layer]
            self.sums[layer] += apart
            distances = self.lpips.weighed(layer, apart.square())
            self.to_hr += float(distances.double().mean())
            total += functional.interpolate(distances, size=self.size, mode="bilinear")[0]
        self.number += 1
        return total

    @property
    def pairwise(self) -> float:
        """Mean LPIPS over all pairs of the samples so far, which must be two or more."""
        of_sums = sum(
            float(self.lpips.weighed(layer, total.square()).double().mean())
            for layer, total in enumerate(self.sums)
        )
        pairs = self.number * (self.number - 1) / 2
        return max(0.0, (self.number * self.to_hr - of_sums) / pairs)
