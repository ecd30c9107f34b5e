"""How far samples lie apart, pixel by pixel, of as many as there are in the memory of two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

LEVELS = 255


class Spread:
    """Mean and standard deviation of all that was added.

    Source: Welford 1962, "Note on a method for calculating corrected sums of squares".
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.empty(0)
        self._squares = torch.empty(0)

    def add(self, sample: Tensor) -> None:
        """One more. Shapes: (1, C, H, W), all of one size."""
        self.count += 1
        if self.count == 1:
            self.mean, self._squares = sample.clone(), torch.zeros_like(sample)
            return
        apart = sample - self.mean
        self.mean.add_(apart, alpha=1 / self.count)
        self._squares.addcmul_(apart, sample - self.mean)

    def levels(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """√(Σ(x - mean)² / (N - 1)) in levels of 255, the mean over channels: float32 (H, W).

        Raises: ValueError for less than two samples.
        """
        if self.count < 2:
            raise ValueError(f"{self.count} samples have no spread, 2 or more do")
        deviation = self._squares.div(self.count - 1).sqrt_()
        spread: np.ndarray[Any, np.dtype[np.float32]] = (
            deviation.mean(dim=1)[0].mul_(LEVELS).cpu().numpy()
        )
        return spread
