"""LPIPS and DISTS as losses: distances fitted to people's judgement, and their weaknesses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from srtrain.perception.dists import DISTS
from srtrain.perception.lpips import LPIPS

if TYPE_CHECKING:
    from pathlib import Path


class LPIPSLoss(nn.Module):
    """``mean_images LPIPS_net(sr, hr)``.

    Its authors recommend ``vgg`` for training and ``alex`` for measuring. A run that trains on
    LPIPS is no longer judged by the same net's LPIPS: measure with another. Alone it leaves a
    pattern that it cannot see: use it beside a pixel term.

    Shapes: sr, hr (B, 3, H, W) in [0, 1], at least 16 px (``vgg``), 17 (``squeeze``), 31
        (``alex``) a side -> scalar. Gradient reaches ``sr`` only.
    Raises: as ``srtrain.perception.lpips.LPIPS``, for ``features`` too.
    Source: Zhang et al. 2018, "The unreasonable effectiveness of deep features".
    """

    def __init__(self, *, net: str = "vgg", features: str | Path | None = None) -> None:
        super().__init__()
        self.distance = LPIPS(net, features, key="loss.terms.perceptual_lpips")

    @property
    def features_name(self) -> str:
        """What the backbone's weights honestly are: "vgg/imagenet", or "vgg/STEM" of a file."""
        return self.distance.features_name

    @property
    def features_sha256(self) -> str:
        """SHA-256 of the backbone's file."""
        return self.distance.features_sha256

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """The mean over the batch."""
        distance: Tensor = self.distance(sr, hr.detach())
        return distance.mean()


class DISTSLoss(nn.Module):
    """``mean_images DISTS(sr, hr)``: structure as in SSIM, textures only by their statistics.

    It compares statistics of whole maps, so it says where nothing: use it beside a pixel term.

    Shapes: sr, hr (B, 3, H, W) in [0, 1], at least 16 px a side -> scalar. Gradient reaches ``sr``
        only.
    Raises: as ``srtrain.perception.dists.DISTS``, for ``features`` too.
    Source: Ding et al. 2020, "Image quality assessment: unifying structure and texture
        similarity".
    """

    def __init__(self, *, features: str | Path | None = None) -> None:
        super().__init__()
        self.distance = DISTS(features, key="loss.terms.perceptual_dists")

    @property
    def features_name(self) -> str:
        """What the backbone's weights honestly are: "vgg/imagenet", or "vgg/STEM" of a file."""
        return self.distance.features_name

    @property
    def features_sha256(self) -> str:
        """SHA-256 of the backbone's file."""
        return self.distance.features_sha256

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """The mean over the batch."""
        distance: Tensor = self.distance(sr, hr.detach())
        return distance.mean()
