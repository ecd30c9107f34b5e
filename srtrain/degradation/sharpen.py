"""The sharpened target of Real-ESRGAN."""

from __future__ import annotations

import functools

import torch
from kornia.filters import get_gaussian_kernel1d
from torch import Tensor, nn

from srtrain.checks import image_batch
from srtrain.degradation.levels import mirrored, settle_


class USM(nn.Module):
    """``hr + weight · (hr - blurred hr)`` where that differs by more than ``threshold`` levels.

    The mask of those places is blurred too, so that the sharpening fades in. ``radius`` is that of
    OpenCV's kernel: 2·⌊radius/2⌋ + 1 pixels, σ = 0.15 · (pixels - 1) + 0.5, 8 for 51 pixels.
    ``kornia.filters.UnsharpMask`` has neither threshold nor mask.

    Source: Wang et al. 2021, Real-ESRGAN, section 3.3 ("sharpened ground truths").
    """

    def __init__(self, *, radius: int = 50, threshold: float = 10.0, weight: float = 0.5) -> None:
        super().__init__()
        self.radius = radius
        self.threshold = threshold
        self.weight = weight

    @torch.no_grad()
    def forward(self, hr: Tensor) -> Tensor:
        """Shapes: hr float (B, C, H, W) in [0, 1] -> float32, the same shape and range."""
        image_batch(hr, "hr")
        levels = settle_(hr.double() * 255.0)
        detail = levels - self._blur(levels)
        mask = self._blur((detail.abs() > self.threshold).double() * 255.0) / 255.0
        sharp = (levels + self.weight * detail).clamp_(0.0, 255.0)
        return settle_(torch.lerp(levels, sharp, mask)).div_(255.0).float()

    def _blur(self, levels: Tensor) -> Tensor:
        rows, columns = (_gaussian(side, self.radius, levels.device) for side in levels.shape[-2:])
        return settle_(rows @ levels @ columns.T)

    def extra_repr(self) -> str:
        """Shown by ``print(module)``."""
        return f"radius={self.radius}, threshold={self.threshold:g}, weight={self.weight:g}"


@functools.lru_cache(maxsize=8)
def _gaussian(length: int, radius: int, device: torch.device) -> Tensor:
    """The blur of one axis, reflected at both ends, as a matrix: sides may be below the radius."""
    with torch.inference_mode(False):
        half = radius // 2
        sigma = torch.tensor([[0.3 * half + 0.5]], dtype=torch.float64)
        kernel = get_gaussian_kernel1d(2 * half + 1, sigma)[0]
        index = mirrored(torch.tensor([length]), before=half, count=length + 2 * half)[0]
        matrix = torch.zeros(length, length, dtype=torch.float64)
        matrix.scatter_add_(1, index.unfold(0, len(kernel), 1), kernel.expand(length, -1))
        return matrix.to(device)
