"""What a texture may cost: colours that drift, and an SR image that contradicts its input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from srtrain.metrics.consistency import CONSISTENCY, lr_psnr

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from srtrain.training.examples import Example

LOSSLESS = 100.0  # dB: stands for infinity where means are taken


@torch.no_grad()
def honesty(
    sr: Tensor,
    example: Example,
    downscale: Callable[[Tensor], Tensor],
    consistency: str = CONSISTENCY,
) -> dict[str, Tensor]:
    """``mean(sr - hr)`` per channel, and the mean PSNR of ``downscale(sr)`` against ``lr``.

    ``consistency``: what the latter is called, ``ImageMetrics.consistency`` of the same run.
    """
    drift = (sr.float() - example.hr).mean((0, 2, 3)).unbind()
    figures = {f"colour_drift_{name}": mean for name, mean in zip("rgb", drift, strict=True)}
    consistent = lr_psnr(sr.float(), example.lr, downscale).clamp(max=LOSSLESS)
    return {**figures, consistency: consistent.mean().float()}
