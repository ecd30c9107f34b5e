"""The standard protocol: everything that is measured of one image, and of a set."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from srtrain.checks import image_batch, same_shape
from srtrain.errors import DivergedError
from srtrain.metrics.consistency import CONSISTENCY, OF_BICUBIC, lr_psnr_of_rounded
from srtrain.metrics.one_pass import compare
from srtrain.metrics.quality import WINDOW, levels, shave
from srtrain.perception.lpips import smallest_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from srtrain.perception.dists import DISTS
    from srtrain.perception.lpips import LPIPS

PROTOCOL_VERSION = 1
SUMS = ("energy_gap", "squared_error")  # per image; ``reduce`` makes the set's ``rtm`` of them
LEFT_OUT = "_left_out"
FINITE = "finite"
NOT_FINITE = "the SR image holds values that are not finite"


def smallest_side(*, scale: int, lpips_net: str | None = None) -> int:
    """Pixels a side from which on an HR image, cut to a multiple of ``scale``, can be measured.

    Raises: ConfigError for an LPIPS net that there is not.
    """
    needed = max(WINDOW + 2 * scale, smallest_image(lpips_net) if lpips_net else 0)
    return math.ceil(needed / scale) * scale


class ImageMetrics:
    """Measures SR as the tables of the field do: 8-bit values, ``scale`` pixels of border cut.

    ``psnr_y ssim_y hf_ratio hf_truth`` on Y; ``psnr_rgb ssim_rgb rtm bias`` on RGB;
    ``lpips_<net>``, ``dists`` and ``lr_psnr`` on the whole RGB image. Y is BT.601's studio luma; a
    gray HR is its own Y, as in the tables (through the luma formula its PSNR would read 1.3 dB
    higher).

    A metric that cannot be had is absent, never approximated: LPIPS without ``lpips``, DISTS
    without ``dists``, ``lr_psnr`` without ``downscale`` or ``lr``. Where LR is ``blind``, not made
    by ``downscale``, that figure says nothing of consistency, and is called ``lr_psnr_bicubic``.
    ``sampled``: how the images are drawn, where a network can make many of one.
    """

    def __init__(
        self,
        *,
        scale: int,
        lpips: LPIPS | None = None,
        dists: DISTS | None = None,
        downscale: Callable[[Tensor], Tensor] | None = None,
        blind: bool = False,
        sampled: Mapping[str, object] | None = None,
    ) -> None:
        self.scale = scale
        self.sampled = sampled
        self.lpips = lpips
        self.dists = dists
        self.downscale = downscale
        self.consistency = OF_BICUBIC if blind else CONSISTENCY

    @torch.no_grad()
    def __call__(self, sr: Tensor, hr: Tensor, lr: Tensor | None = None) -> dict[str, Tensor]:
        """One value per image, float64 (B,); and the ``SUMS`` that ``reduce`` needs.

        Undefined values are not hidden: ``psnr_*`` and ``lr_psnr*`` of identical images are
        infinite, ``rtm`` of identical images and ``hf_*`` of an HR without texture are NaN.

        Shapes: sr, hr (B, 3, H, W), lr (B, 3, H / scale, W / scale), in [0, 1].
        Raises: ValueError if shapes do not fit; DivergedError if sr is not finite.
        """
        values = self.measure(sr, hr, lr)
        if not values.pop(FINITE).all():
            raise DivergedError(NOT_FINITE, fix="train with precision 32 or a smaller optimizer.lr")
        return values

    @torch.no_grad()
    def measure(self, sr: Tensor, hr: Tensor, lr: Tensor | None = None) -> dict[str, Tensor]:
        """The same without waiting for the device: ``FINITE`` says whether sr was, 1 or 0 (B,)."""
        same_shape(sr, hr)
        image_batch(sr, "sr")
        with torch.autocast(sr.device.type, enabled=False):
            finite = sr.float().sum(dim=(1, 2, 3)).isfinite().double()
            sr, hr = levels(sr), levels(hr)
            values = self._in_one_pass(*(shave(image, self.scale) for image in (sr, hr)))
            sr = sr.div_(255)
            if self.lpips is not None or self.dists is not None:
                values |= self._by_networks(sr, hr.div_(255))
            if self.downscale is not None and lr is not None:
                values[self.consistency] = lr_psnr_of_rounded(sr, lr.float(), self.downscale)
        return {**values, FINITE: finite}

    def _by_networks(self, sr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        found = {}
        if self.lpips is not None:
            found[self.lpips.name] = self.lpips(sr, hr).double()
        if self.dists is not None:
            found["dists"] = self.dists(sr, hr).double()
        return found

    def _in_one_pass(self, sr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        found = compare(sr, hr, scale=self.scale)
        return {
            "psnr_y": found.psnr_y,
            "ssim_y": found.ssim_y,
            "psnr_rgb": found.psnr_rgb,
            "ssim_rgb": found.ssim_rgb,
            "rtm": found.energy_gap / found.squared_error,
            "hf_ratio": found.band.ratio,
            "hf_truth": found.band.truth,
            "bias": found.bias,
            "energy_gap": found.energy_gap,
            "squared_error": found.squared_error,
        }

    def reduce(self, images: Iterable[Mapping[str, Tensor]]) -> dict[str, float]:
        """Mean over the images of a set; ``rtm`` from the sums over all its pixels.

        Values that are infinite or NaN stay out of the mean, and ``<metric>_left_out`` says how
        many did: one black image must not turn a table into ``inf``, nor vanish from it unsaid.
        Where nothing is left, the metric itself is absent.

        Raises: ValueError for an empty set, or images measured by different metrics.
        """
        images = list(images)
        if not images or any(image.keys() != images[0].keys() for image in images):
            raise ValueError("reduce needs at least one image, all with the same metrics")
        columns = {
            name: torch.cat([image[name].reshape(-1).cpu() for image in images]).double()
            for name in images[0]
        }
        gap, squared_error = (columns.pop(name).sum().item() for name in SUMS)
        del columns["rtm"]
        means = {"rtm": gap / squared_error} if squared_error else {}
        for name, column in columns.items():
            defined = column[column.isfinite()]
            if len(defined) < len(column):
                means[name + LEFT_OUT] = float(len(column) - len(defined))
            if len(defined):
                means[name] = defined.mean().item()
        return means

    def to(self, device: torch.device | str) -> ImageMetrics:
        """Moves what has weights; returns itself."""
        for network in (self.lpips, self.dists):
            if network is not None:
                network.to(device)
        return self

    @property
    def protocol(self) -> dict[str, object]:
        """What the numbers depend on, as JSON; different protocols must not be compared."""
        lpips: object = "absent: no backbone weights (metrics.lpips.net, metrics.lpips.features)"
        if self.lpips is not None:
            lpips = {
                "net": self.lpips.net,
                "version": "0.1",
                "features_sha256": self.lpips.features_sha256,
                "heads_sha256": self.lpips.heads_sha256,
                "region": "whole RGB image",
            }
        return {
            "version": PROTOCOL_VERSION,
            "scale": self.scale,
            "border": self.scale,
            "rounding": "8 bit, half up",
            "luma": "BT.601 studio range, unrounded; gray images as they are",
            "psnr": "per image, then mean",
            "ssim": "11x11 Gaussian, sigma 1.5, valid region",
            "frequency": "DCT of Y above the LR Nyquist",
            "lpips": lpips,
            self.consistency: "whole RGB image" if self.downscale is not None else "absent",
            **({} if self.dists is None else {"dists": _of_dists(self.dists)}),
            **({} if self.sampled is None else {"sampled": dict(self.sampled)}),
        }


def _of_dists(dists: DISTS) -> dict[str, str]:
    return {
        "net": "vgg",
        "features_sha256": dists.features_sha256,
        "heads_sha256": dists.heads_sha256,
        "region": "whole RGB image",
    }
