"""Blind degradation: what a photo may have gone through, drawn anew for each sample."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from srtrain import rng
from srtrain.checks import divisible_by, image_batch
from srtrain.degradation import kernels
from srtrain.degradation.blur import blur
from srtrain.degradation.jpeg import jpeg
from srtrain.degradation.levels import beside, settle_, whole
from srtrain.degradation.noise import add_noise_
from srtrain.degradation.parameters import (
    NUM_UNIFORMS,
    Pass,
    Range,
    Weights,
    between,
    check_probability,
    check_range,
    check_weights,
    pick,
    whole_between,
)
from srtrain.degradation.resample import MODES, resample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from srtrain.degradation.parameters import Drawn


class Blind(nn.Module):
    """``lr = (sinc · resize · JPEG)(noise · resize · blur)(JPEG · noise · resize · blur)(hr)``.

    Real-ESRGAN's second-order model. Sizes of the ``first`` pass are relative to HR, of the
    ``second`` to LR; ``first=None`` leaves a first-order model. At the end the resize to LR and a
    sinc filter come before the JPEG (``sinc_first_probability``) or after it. ``source``: what is
    degraded is ``source(hr)``; Real-ESRGAN degrades its sharpened target.

    Drawn from (seed, sample) alone: a sample has the same pixels in any batch, on any rank.
    In evaluation mode drawn from (``val_seed``, number of the image), so that every run
    and every round validates on the same images, drawn independently of the training's.

    LR is no function of HR here, so no metric says whether SR is consistent with it. SR shrunk by
    bicubic against LR measures LR's own damage too, and a network that removes noise well scores
    low: that figure is called ``lr_psnr_bicubic``, and not ``lr_psnr``.

    Unlike the original: samples of a batch differ in sizes, modes and noise (it draws those once a
    batch, and mixes batches in a pool); resizing maps borders to borders (its ``scale_factor`` with
    rounded sizes shifts by up to a pixel of the result); JPEG rounds as files do; the patch itself
    is degraded, its borders mirrored (it degrades 400 pixels a side and crops 256 of them).

    Source: Wang et al. 2021, Real-ESRGAN.
    """

    def __init__(
        self,
        *,
        scale: int,
        seed: int,
        first: Pass | None,
        second: Pass,
        sinc_probability: float = 0.8,
        sinc_size: Range = (7, 21),
        sinc_cutoff: Range = (1 / 3, 1.0),
        sinc_first_probability: float = 0.5,
        resize_modes: Weights | None = None,
        source: Callable[[Tensor], Tensor] | None = None,
        val_seed: int = 0,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.seed = seed
        self.first = first
        self.second = second
        self.sinc_probability = sinc_probability
        self.sinc_size = sinc_size
        self.sinc_cutoff = sinc_cutoff
        self.sinc_first_probability = sinc_first_probability
        self.resize_modes = resize_modes or dict.fromkeys(MODES, 1.0)
        self.source = source
        self.val_seed = val_seed
        check_range("sinc_size", sinc_size, within=(1, math.inf))
        check_range("sinc_cutoff", sinc_cutoff, within=(0, 1))
        check_probability("sinc_probability", sinc_probability)
        check_probability("sinc_first_probability", sinc_first_probability)
        check_weights("resize_modes", self.resize_modes, MODES)

    @torch.no_grad()
    def forward(self, hr: Tensor, sample: Tensor) -> Tensor:
        """Shapes: hr float (B, 3, H, W) in [0, 1], sample (B,) -> float32 (B, 3, H/s, W/s).

        ``sample`` had better be on the CPU: nothing else here waits for the device.

        Raises: ValueError if the scale does not divide HR's sides.
        """
        image_batch(hr, "hr")
        for side in hr.shape[-2:]:
            divisible_by(side, self.scale, "hr side (crop it to a multiple of the scale first)")
        numbers = sample.tolist()
        levels = settle_((hr if self.source is None else self.source(hr)).double() * 255.0)
        small = levels.new_empty(*hr.shape[:2], *(side // self.scale for side in hr.shape[-2:]))
        for rows in self._groups(numbers):
            index = beside(torch.tensor(rows), levels)
            small[index] = self._degrade(levels[index], [numbers[row] for row in rows])
        return small.div_(255.0).float()

    def _groups(self, numbers: list[int]) -> list[list[int]]:
        """The rows that the first pass enlarges, and the others: each on a canvas that fits."""
        everything = list(range(len(numbers)))
        if self.first is None:
            return [everything]
        larger = (self.first.zoom(self._uniforms(numbers, "first")) > 1).tolist()
        groups = [[row for row in everything if larger[row] is kind] for kind in (False, True)]
        return [rows for rows in groups if rows]

    def _degrade(self, levels: Tensor, numbers: list[int]) -> Tensor:
        """All passes: (B, 3, H, W) in levels -> whole levels (B, 3, H/s, W/s)."""
        sizes = large = torch.tensor([levels.shape[-2:]]).expand(len(levels), -1)
        small = large // self.scale
        if self.first is not None:
            drawn = self.first.draw(self._uniforms(numbers, "first"))
            levels, sizes = self._pass(levels, sizes, drawn, numbers, "first", base=large)
            levels = jpeg(levels, quality=drawn.quality, sizes=sizes)
        drawn = self.second.draw(self._uniforms(numbers, "second"))
        levels, sizes = self._pass(levels, sizes, drawn, numbers, "second", base=small)
        return whole(self._finish(levels, sizes, drawn.quality, numbers, small=small))

    def _pass(
        self,
        levels: Tensor,
        sizes: Tensor,
        drawn: Drawn,
        numbers: list[int],
        stage: str,
        *,
        base: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Blur, resize to ``base`` · zoom, noise."""
        levels = blur(levels, drawn.kernels, sizes=sizes)
        new = (base * drawn.zoom[:, None]).long().clamp(min=1)
        levels = resample(levels, sizes=sizes, new_sizes=new, modes=drawn.modes)
        streams = [
            rng.stream(self._seed, number, f"{self._stage} {stage} noise", levels.device)
            for number in numbers
        ]
        return add_noise_(levels, drawn.noises, sizes=new, streams=streams), new

    def _finish(
        self, levels: Tensor, sizes: Tensor, quality: Tensor, numbers: list[int], *, small: Tensor
    ) -> Tensor:
        """To LR's size through a sinc filter, and JPEG before or after."""
        u = iter(self._uniforms(numbers, "last").T)
        modes = pick(next(u), self.resize_modes, MODES)
        sinc = self._sinc(u)
        sinc_first = beside(next(u) < self.sinc_first_probability, levels)[:, None, None, None]
        levels = torch.where(sinc_first, levels, jpeg(levels, quality=quality, sizes=sizes))
        levels = resample(levels, sizes=sizes, new_sizes=small, modes=modes)
        levels = blur(levels, sinc, sizes=small)
        return torch.where(sinc_first, jpeg(levels, quality=quality, sizes=small), levels)

    def _sinc(self, u: Iterator[Tensor]) -> Tensor:
        largest = int(self.sinc_size[1]) // 2
        radius = whole_between(next(u), self.sinc_size)
        kernel = kernels.sinc(largest, math.pi * between(next(u), self.sinc_cutoff))
        filtered = (next(u) < self.sinc_probability)[:, None, None]
        return torch.where(filtered, kernels.trimmed(kernel, radius), kernels.identity(largest))

    def _uniforms(self, numbers: list[int], stage: str) -> Tensor:
        """(B, NUM_UNIFORMS) float64 in [0, 1), each row from its sample's number alone."""
        draws = [rng.generator(self._seed, number, f"{self._stage} {stage}") for number in numbers]
        return torch.from_numpy(np.stack([draw.random(NUM_UNIFORMS) for draw in draws]))

    @property
    def _seed(self) -> int:
        return self.seed if self.training else self.val_seed

    @property
    def _stage(self) -> str:
        return "degradation" if self.training else "degradation of validation"
