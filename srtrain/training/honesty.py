"""What a texture may cost: colours that drift, and an SR image that contradicts its input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from srtrain.checks import same_shape
from srtrain.metrics.consistency import CONSISTENCY

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
    Computed at every step, hence without the metric's rounding: LR's own makes some 58 dB of a
    faultless image, where the metric is infinite; at 30 dB, where an alarm is due, both are one.
    """
    sr = sr.float()
    drift = (sr - example.hr).mean((0, 2, 3)).unbind()
    figures = {f"colour_drift_{name}": mean for name, mean in zip("rgb", drift, strict=True)}
    small = downscale(sr.clamp(0, 1)).clamp(0, 1)
    same_shape(small, example.lr)
    error = (small - example.lr).square().mean((1, 2, 3))
    return {**figures, consistency: (-10 * error.log10()).clamp(max=LOSSLESS).mean()}
