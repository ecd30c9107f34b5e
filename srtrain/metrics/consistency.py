"""Does SR, made small again, give back the image that it was made from?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from srtrain.metrics.quality import psnr, round8

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

CONSISTENCY = "lr_psnr"  # where ``downscale`` is what made LR
OF_BICUBIC = "lr_psnr_bicubic"  # where LR was made in another way: no measure of consistency


def lr_psnr(sr: Tensor, lr: Tensor, downscale: Callable[[Tensor], Tensor]) -> Tensor:
    """PSNR of ``downscale(sr)`` against ``lr`` in RGB, whole image, all rounded to 8 bit.

    Below 45 dB, SR contradicts its input visibly (NTIRE 2021's target). Infinite where nothing
    differs after rounding.

    Shapes: sr (B, C, H, W), lr (B, C, h, w), both in [0, 1] -> (B,) float64.
    Raises: ValueError if ``downscale`` does not lead to the shape of ``lr``.
    Source: Lugmayr et al. 2021, NTIRE challenge on learning the super-resolution space.
    """
    return lr_psnr_of_rounded(round8(sr).to(sr.dtype), lr, downscale)


def lr_psnr_of_rounded(sr: Tensor, lr: Tensor, downscale: Callable[[Tensor], Tensor]) -> Tensor:
    """The same, of an SR that is rounded already."""
    small = downscale(sr)
    if small.shape != lr.shape:
        raise ValueError(
            f"downscale led to {tuple(small.shape)}, lr is {tuple(lr.shape)}; is `scale` right?"
        )
    return psnr(round8(small), round8(lr))
