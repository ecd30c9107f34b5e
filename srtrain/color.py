"""BT.601 studio-range luma, the Y of every published super-resolution table."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


LUMA = (65.481, 128.553, 24.966)  # of R, G, B in [0, 1]; gray levels
LUMA_BLACK = 16.0


def luma(rgb: Tensor) -> Tensor:
    """``Y = (65.481 R + 128.553 G + 24.966 B + 16) / 255``, the Y of MATLAB's ``rgb2ycbcr``.

    Unrounded, in [16, 235] / 255. kornia's YCbCr is full range, which reads 1.3 dB lower.

    Shapes: rgb (B, 3, H, W) in [0, 1] -> (B, 1, H, W).
    Source: ITU-R BT.601; MATLAB ``rgb2ycbcr``.
    """
    if rgb.shape[-3] != 3:
        raise ValueError(f"luma needs 3 channels, got {tuple(rgb.shape)}; repeat gray ones first")
    red, green, blue = rgb.split(1, dim=-3)
    y: Tensor = (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue + LUMA_BLACK) / 255.0
    return y
