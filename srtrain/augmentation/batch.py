"""RGB permutation, CutBlur, CutMix and mixup of whole batches of pairs, on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from srtrain import rng
from srtrain.augmentation.partners import circle, partner_rows
from srtrain.augmentation.regions import cutblur_boxes, cutmix_boxes, enlarged, inside
from srtrain.process_group import world_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class BatchAugmentation:
    """Each pair of a batch is changed with the given probabilities, independently, in this order.

    - ``rgb_permutation``: the channels of both images in another order.
    - ``cutblur``: a region of LR is replaced by the degradation-free ``downscale(hr)``, or all but
      the region; HR stays. So a network learns where to restore, and not only how. The paper
      pastes HR into an enlarged LR; a network that takes the small LR meets the same question in
      the small. Where LR is bicubic, both are the same image, and nothing happens.
    - ``cutmix``: a region of both images is replaced by the partner's.
    - ``mixup``: ``λ · own + (1 - λ) · partner`` of both images, λ ~ Beta(alpha, alpha).

    Partners are other pairs of the *global* batch, after the first two steps. All draws depend on
    (seed, step, position in the global batch) alone: equal for any number of ranks and
    micro-batches, and after any resume. Regions lie on the LR grid. Within the reach of the
    degradation's kernel along a seam, LR is not the degradation of HR; elsewhere it is. A mixture
    of LR is the degraded mixture of HR only where degrading is linear: noise is averaged down.

    Source: Zhang et al. 2018, "mixup", eq. 1; Yun et al. 2019, "CutMix", eqs. 1-2; Yoo et al. 2020,
        "Rethinking data augmentation for image super-resolution", eqs. 1-2, whose alpha of mixup
        (1.2) and side of CutBlur (0.7) are the defaults.
    """

    def __init__(
        self,
        *,
        seed: int,
        downscale: Callable[[Tensor], Tensor],
        rgb_permutation: float = 0.0,
        cutblur: float = 0.0,
        cutmix: float = 0.0,
        mixup: float = 0.0,
        cutblur_ratio: float = 0.7,
        cutmix_alpha: float = 1.0,
        mixup_alpha: float = 1.2,
    ) -> None:
        self.seed = seed
        self.downscale = downscale
        self.rgb_permutation = _share("rgb_permutation", rgb_permutation)
        self.cutblur = _share("cutblur", cutblur)
        self.cutmix = _share("cutmix", cutmix)
        self.mixup = _share("mixup", mixup)
        self.cutblur_ratio = _share("cutblur_ratio", cutblur_ratio)
        self.cutmix_alpha = _above_0("cutmix_alpha", cutmix_alpha)
        self.mixup_alpha = _above_0("mixup_alpha", mixup_alpha)

    @property
    def active(self) -> bool:
        """Whether anything can happen."""
        return any((self.rgb_permutation, self.cutblur, self.cutmix, self.mixup))

    @torch.no_grad()
    def __call__(self, hr: Tensor, lr: Tensor, *, step: int, first: int) -> tuple[Tensor, Tensor]:
        """The changed pairs; the given ones stay as they are.

        Row i of this rank is number ``first + i · ranks`` of the global batch.

        Shapes: hr (B, 3, H, W), lr (B, 3, H / scale, W / scale) -> the same, channels last.
        """
        if self.rgb_permutation:
            hr, lr = self._permuted(hr, lr, _Draw(self.seed, step, first, "rgb", hr))
        if self.cutblur:
            lr = self._cutblurred(hr, lr, _Draw(self.seed, step, first, "cutblur", hr))
        if self.cutmix or self.mixup:
            draw = _Draw(self.seed, step, first, "partner", hr)
            others = _partners(hr, lr, circle(draw.source, draw.total), first)
            if self.cutmix:
                draw = _Draw(self.seed, step, first, "cutmix", hr)
                hr, lr = self._cutmixed((hr, lr), others, draw)
            if self.mixup:
                draw = _Draw(self.seed, step, first, "mixup", hr)
                hr, lr = self._mixed((hr, lr), others, draw)
        layout = torch.channels_last
        return hr.contiguous(memory_format=layout), lr.contiguous(memory_format=layout)

    def _permuted(self, hr: Tensor, lr: Tensor, draw: _Draw) -> tuple[Tensor, Tensor]:
        chosen = draw.chosen(self.rgb_permutation)
        order = np.tile(np.arange(3), (draw.total, 1))
        order[chosen] = draw.source.permuted(order, axis=1)[chosen]
        index = draw.own(order)
        row = torch.arange(len(hr), device=hr.device)[:, None]
        return hr[row, index], lr[row, index]

    def _cutblurred(self, hr: Tensor, lr: Tensor, draw: _Draw) -> Tensor:
        height, width = lr.shape[-2:]
        chosen = draw.chosen(self.cutblur)
        boxes = cutblur_boxes(
            draw.source, draw.total, height=height, width=width, ratio=self.cutblur_ratio
        )
        swapped = draw.source.random(draw.total) < 0.5
        region = inside(draw.own(boxes), height=height, width=width)
        region = (region ^ _column(draw.own(swapped))) & _column(draw.own(chosen))
        return torch.where(region, self.downscale(hr).to(lr.dtype), lr)

    def _cutmixed(
        self, own: tuple[Tensor, Tensor], others: tuple[Tensor, Tensor], draw: _Draw
    ) -> tuple[Tensor, Tensor]:
        (hr, lr), (other_hr, other_lr) = own, others
        height, width = lr.shape[-2:]
        chosen = draw.chosen(self.cutmix)
        boxes = cutmix_boxes(
            draw.source, draw.total, height=height, width=width, alpha=self.cutmix_alpha
        )
        boxes[~chosen] = 0
        region = inside(draw.own(boxes), height=height, width=width)
        large = enlarged(region, hr.shape[-1] // width)
        return torch.where(large, other_hr, hr), torch.where(region, other_lr, lr)

    def _mixed(
        self, own: tuple[Tensor, Tensor], others: tuple[Tensor, Tensor], draw: _Draw
    ) -> tuple[Tensor, Tensor]:
        chosen = draw.chosen(self.mixup)
        drawn = draw.source.beta(self.mixup_alpha, self.mixup_alpha, draw.total)
        share = _column(draw.own(np.where(chosen, drawn, 1.0))).to(own[0].dtype)
        hr, lr = (share * a + (1 - share) * b for a, b in zip(own, others, strict=True))
        return hr, lr


class _Draw:
    """Random numbers of one stage for the whole global batch, of which every rank takes its own."""

    def __init__(self, seed: int, step: int, first: int, stage: str, hr: Tensor) -> None:
        ranks = world_size()
        self.source = rng.generator(seed, step, f"augment/{stage}")
        self.total = len(hr) * ranks
        self._rows = slice(first, None, ranks)
        self._device = hr.device

    def chosen(self, probability: float) -> np.ndarray:
        """Which pairs of the global batch are changed."""
        return self.source.random(self.total) < probability

    def own(self, values: np.ndarray) -> Tensor:
        """This rank's share, on the device."""
        return torch.from_numpy(np.ascontiguousarray(values[self._rows])).to(self._device)


def _partners(hr: Tensor, lr: Tensor, partner: np.ndarray, first: int) -> tuple[Tensor, Tensor]:
    flat = torch.cat([hr.flatten(1), lr.flatten(1)], dim=1)
    rows = partner_rows(flat, partner, first=first)
    other_hr, other_lr = rows.split([hr[0].numel(), lr[0].numel()], dim=1)
    return other_hr.view(hr.shape), other_lr.view(lr.shape)


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _share(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} = {value} must lie in 0 … 1")
    return value


def _above_0(name: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"{name} = {value} must be above 0")
    return value
