"""Whether what was written makes the images that the network makes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

# (batch, height, width) in LR pixels: odd, below every window, no multiple of one, two at once.
SIZES = ((1, 5, 9), (2, 24, 40), (1, 67, 19))
LARGE = (1, 16, 293)  # for what may hold in small images alone
HALF = 0.02  # fp16, of images in [0, 1]: five gray levels


class Agreement(NamedTuple):
    """The largest difference between two makers of SR images, and the largest value they made.

    ``shown`` is the difference of the images in [0, 1]; ``difference`` that before clamping, which
    hides errors.
    """

    difference: float
    largest: float
    shown: float
    sizes: tuple[tuple[int, int, int], ...]

    def within(self, tolerance: float) -> bool:
        """Whether the images do, and before clamping parts of the largest value above 1 do."""
        whole = self.difference <= tolerance * max(1.0, self.largest)
        return whole and self.shown <= tolerance

    def __str__(self) -> str:
        """``1.2e-07 at 5×9, 24×40 (two at once), 67×19``."""
        sizes = (f"{h}×{w}{' (two at once)' if n > 1 else ''}" for n, h, w in self.sizes)
        hidden = self.difference > 10 * self.shown
        before = f" ({self.difference:.2g} before clamping)" if hidden else ""
        return f"{self.shown:.2g}{before} at {', '.join(sizes)}"


@torch.no_grad()
def agreement(
    expected: Callable[[Tensor], Tensor],
    found: Callable[[Tensor], Tensor],
    sizes: tuple[tuple[int, int, int], ...] = SIZES,
) -> Agreement:
    """How far ``found`` is from ``expected`` on noise in [0, 1] of all ``sizes``.

    Another shape, or a value that is not finite, is an infinite difference.
    """
    source = torch.Generator().manual_seed(0)
    worst, largest, shown = 0.0, 0.0, 0.0
    for batch, height, width in sizes:
        lr = torch.rand(batch, 3, height, width, generator=source)
        want, got = expected(lr.clone()).float(), found(lr.clone()).float()
        if want.shape != got.shape or not bool((want - got).isfinite().all()):
            worst = shown = math.inf
            continue
        worst = max(worst, (want - got).abs().max().item())
        shown = max(shown, (want.clamp(0, 1) - got.clamp(0, 1)).abs().max().item())
        largest = max(largest, want.abs().max().item())
    return Agreement(worst, largest, shown, sizes)
