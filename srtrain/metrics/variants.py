"""PSNR and SSIM by other rules in use: another border, no rounding, SSIM over reflected borders.

Each bears its rule as a suffix: ``psnr_y_border0``, ``ssim_rgb_unrounded``, ``ssim_y_reflect``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from srtrain.metrics.one_pass import compare
from srtrain.metrics.quality import WINDOW, levels, shave

if TYPE_CHECKING:
    from torch import Tensor

    from srtrain.metrics.one_pass import Found

QUALITY = ("psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb")
SIMILARITY = ("ssim_y", "ssim_rgb")


@dataclass(frozen=True)
class Variants:
    """Which of them are measured beside the standard protocol.

    ``borders``: pixels cut from each side, everything else as the protocol has it. ``unrounded``:
    SR clamped, but not rounded to 8 bit. ``reflect``: SSIM also of windows that reach over the
    border into the reflected image, as torchmetrics averages them (.0006 lower on Set5 ×4;
    scikit-image and BasicSR leave them out, as the protocol does).
    """

    scale: int
    borders: tuple[int, ...] = ()
    unrounded: bool = False
    reflect: bool = False

    @torch.no_grad()
    def __call__(self, sr: Tensor, hr: Tensor, *, whole_levels: bool) -> dict[str, Tensor]:
        """One value per image, float64 (B,).

        ``whole_levels``: SR comes from an 8-bit file; what only rounding would change is absent.

        Shapes: sr, hr (B, 3, H, W) in [0, 1].
        Raises: ValueError if shapes differ, or if a border leaves less than SSIM's window.
        """
        rounded, truth = levels(sr), levels(hr)
        found: dict[str, Tensor] = {}
        for border in self.borders:
            cut = self._compare(shave(rounded, border), shave(truth, border))
            found |= _named(cut, QUALITY, f"border{border}")
        if self.unrounded and not whole_levels:
            exact = sr.clamp(0, 1).double() * 255
            cut = self._compare(shave(exact, self.scale), shave(truth, self.scale))
            found |= _named(cut, QUALITY, "unrounded")
        if self.reflect:
            wide = [_reflected(shave(image, self.scale)) for image in (rounded, truth)]
            found |= _named(self._compare(*wide), SIMILARITY, "reflect")
        return found

    def _compare(self, sr: Tensor, hr: Tensor) -> Found:
        return compare(sr, hr, scale=self.scale)

    @property
    def protocol(self) -> dict[str, str]:
        """What each suffix means."""
        said = {f"border{border}": f"{border} pixels cut, not scale" for border in self.borders}
        if self.unrounded:
            said["unrounded"] = "SR clamped, not rounded to 8 bit; absent of 8-bit files"
        if self.reflect:
            said["reflect"] = "SSIM also of windows over the reflected border (torchmetrics)"
        return said


def _named(found: Found, metrics: tuple[str, ...], suffix: str) -> dict[str, Tensor]:
    return {f"{metric}_{suffix}": getattr(found, metric) for metric in metrics}


def _reflected(image: Tensor) -> Tensor:
    reach = WINDOW // 2
    return functional.pad(image, (reach, reach, reach, reach), mode="reflect")
