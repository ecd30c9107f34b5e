"""JPEG as libjpeg writes and reads it, batched on the device, one quality for each sample.

``kornia.enhance.jpeg_codec_differentiable`` rounds softly (its residual survives cubed), so that
gradients pass: it leaves a quarter less quantisation noise than a file has. No gradient is needed
here, hence all of a file's roundings: pixels, YCbCr, coefficients, and pixels again.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from srtrain.degradation.levels import beside, clamped, constant, nearest, take, whole

_BLOCK = 8
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56), (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99), (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)  # fmt: skip
# JFIF, full range; rows are Y, Cb, Cr of R, G, B.
_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


def jpeg(levels: Tensor, *, quality: Tensor, sizes: Tensor) -> Tensor:
    """Each sample through a JPEG file of its own ``quality`` (B,), whole numbers 1 … 100.

    4:2:0 chroma, the tables of the standard's annex K scaled as libjpeg does, triangular chroma
    upsampling; what Pillow, OpenCV and cameras of that setting do.

    Shapes: levels float64 (B, 3, H, W), sizes (B, 2) -> whole levels, as ``levels``.
    """
    height, width = levels.shape[-2:]
    sizes, quality = beside(sizes, levels), beside(quality, levels)
    units = [-(-side // (2 * _BLOCK)) * 2 * _BLOCK for side in (height, width)]
    rows, columns = (clamped(sizes[:, axis], count=n) for axis, n in enumerate(units))
    # 128 is subtracted from Y before the transform; Cb and Cr are centred on 0 to begin with.
    ycbcr = nearest(_mixed(whole(take(levels, rows, columns)), _YCBCR))
    luma = _coded(ycbcr[:, :1] - 128, _table(_LUMA, quality)) + 128
    halved = nearest(F.avg_pool2d(ycbcr[:, 1:], 2)).clamp_(-128, 127)
    chroma = _coded(halved, _table(_CHROMA, quality))
    # The upsampling reads a neighbour: the last one of the image, not of the canvas.
    halves = (clamped((sizes[:, axis] + 1) // 2, count=n // 2) for axis, n in enumerate(units))
    chroma = take(chroma, *halves)
    chroma = nearest(F.interpolate(chroma, scale_factor=2, mode="bilinear"))
    rgb = _mixed(torch.cat((luma, chroma), 1), _RGB)
    return whole(rgb[..., :height, :width])


def _coded(plane: Tensor, table: Tensor) -> Tensor:
    """Planes (B, C, H, W) with the coefficients of their 8×8 blocks quantised by (B, 64)."""
    basis = _basis(plane.device)
    blocks = plane.unflatten(3, (-1, _BLOCK)).unflatten(2, (-1, _BLOCK)).transpose(3, 4)
    step = table[:, None, None, None]
    coefficients = nearest(blocks.flatten(4) @ basis.T / step) * step
    decoded = (coefficients @ basis).unflatten(4, (_BLOCK, _BLOCK))
    pixels: Tensor = nearest(decoded).clamp_(-128, 127)
    return pixels.transpose(3, 4).flatten(4).flatten(2, 3)


def _table(base: tuple[tuple[int, ...], ...], quality: Tensor) -> Tensor:
    """Quantisation steps as libjpeg scales them: (B,) -> (B, 64)."""
    percent = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    steps = constant(base, quality.device).flatten()
    return ((steps * percent[:, None] + 50) / 100).floor().clamp(1, 255)


def _mixed(image: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    mixed: Tensor = (constant(matrix, image.device) @ image.flatten(2)).unflatten(
        2, image.shape[2:]
    )
    return mixed


@functools.lru_cache(maxsize=8)
def _basis(device: torch.device) -> Tensor:
    """The orthonormal 8×8 cosine transform of flattened blocks, (64, 64)."""
    with torch.inference_mode(False):
        n = torch.arange(_BLOCK, dtype=torch.float64)
        cosines = torch.cos(math.pi / 16 * (2 * n[None, :] + 1) * n[:, None]) / 2
        cosines[0] /= math.sqrt(2)
        return torch.kron(cosines, cosines).to(device)
