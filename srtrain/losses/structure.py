"""Losses of local structure: mean, contrast and correlation of small windows."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

from torch import nn
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)

from srtrain.checks import same_shape
from srtrain.losses.precision import full_precision

if TYPE_CHECKING:
    from torch import Tensor

EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, table 1, fine to coarse
# The coarsest scale must hold the window of 11 pixels; 99 (for 88) is torchmetrics' own bound.
SMALLEST = (11, 22, 44, 99, 176)


class SSIMLoss(nn.Module):
    """``1 - SSIM``, in [0, 2]; windows of 11 x 11, sigma 1.5, with reflected borders.

    Blind to the exact level of bright flat regions: use it beside a pixel term. Not the metric,
    which averages inner windows of rounded images (``srtrain.metrics.quality.ssim``).

    Shapes: sr, hr (B, C, H, W) in [0, 1], at least 6 x 6 -> scalar.
    Raises: ValueError if shapes differ.
    Source: Wang et al. 2004, "Image quality assessment".
    """

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """The mean loss."""
        same_shape(sr, hr)
        with full_precision(sr, hr) as (sr, hr):
            similarity = structural_similarity_index_measure(sr, hr, data_range=1.0)
        return 1 - _single(similarity)


class MSSSIMLoss(nn.Module):
    """``1 - MS-SSIM``, in [0, 1]: contrast and structure at up to five scales, each half the last.

    Five scales need images of 176 pixels; smaller ones get as many as fit (3 for 96), their
    exponents scaled to the same sum. An image that is anticorrelated with HR at some
    scale counts 1 and has no gradient, one more reason for a pixel term beside it.

    This is MS-SSIM alone; ``kornia.losses.MS_SSIMLoss`` is its mix with L1.

    Shapes: sr, hr (B, C, H, W) in [0, 1], at least 11 x 11 -> scalar.
    Raises: ValueError if shapes differ or images are smaller than the window.
    Source: Wang et al. 2003, "Multiscale structural similarity", eq. 7.
    """

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """The mean loss."""
        same_shape(sr, hr)
        fine = EXPONENTS[: num_scales(min(sr.shape[-2:]))]
        exponents = tuple(exponent * sum(EXPONENTS) / sum(fine) for exponent in fine)
        with full_precision(sr, hr) as (sr, hr):
            similarity = multiscale_structural_similarity_index_measure(
                sr, hr, data_range=1.0, betas=exponents, normalize="relu"
            )
        return 1 - _single(similarity)


def num_scales(side: int) -> int:
    """How many of the five scales an image of this shorter side has room for.

    Raises: ValueError if there is none.
    """
    if side < SMALLEST[0]:
        raise ValueError(
            f"MS-SSIM needs images of at least {SMALLEST[0]} pixels a side, got {side}; "
            "enlarge data.hr_patch_size"
        )
    return bisect.bisect_right(SMALLEST, side)


def _single(similarity: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    # torchmetrics gives a pair where the whole map was asked for; here it never is.
    return similarity[0] if isinstance(similarity, tuple) else similarity
