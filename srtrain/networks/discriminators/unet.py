"""A U-Net with one logit per pixel: which parts of the image look wrong, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn.functional import leaky_relu

from srtrain.checks import image_batch
from srtrain.networks.discriminators.blocks import SLOPE, receptive_field
from srtrain.networks.discriminators.spectral import SpectralConv2d

if TYPE_CHECKING:
    from torch import Tensor

DIVISOR = 8  # three halvings, and as many doublings to meet the skips


class UNet(nn.Module):
    """Three halvings, three bilinear doublings, skips added; per-pixel logits, spectral norm.

    The first and last convolutions are plain, as published. A logit sees 56 or 64 pixels; that is
    no patch the crop must hold, as every pixel of it is judged, with padded borders.
    Parameters have BasicSR's names (``conv0`` … ``conv9``). 64 channels: 4.4M parameters.

    Shapes: image (B, 3, H, W) in [0, 1] -> logits (B, 1, H, W).
    Raises: ValueError unless H and W are multiples of 8.
    Source: Wang et al. 2021, Real-ESRGAN, section 3.2.
    """

    def __init__(self, *, base_channels: int = 64) -> None:
        super().__init__()
        wide = base_channels
        self.conv0 = nn.Conv2d(3, wide, 3, padding=1)
        self.conv1 = _halving(wide, wide * 2)
        self.conv2 = _halving(wide * 2, wide * 4)
        self.conv3 = _halving(wide * 4, wide * 8)
        self.conv4 = _spectral(wide * 8, wide * 4)
        self.conv5 = _spectral(wide * 4, wide * 2)
        self.conv6 = _spectral(wide * 2, wide)
        self.conv7 = _spectral(wide, wide)
        self.conv8 = _spectral(wide, wide)
        self.conv9 = nn.Conv2d(wide, 1, 3, padding=1)
        self.enlarge = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)

    @property
    def receptive_field(self) -> int:
        """Side of the square that the widest logit sees."""
        down = [self.conv0, self.conv1, self.conv2, self.conv3]
        up = [self.enlarge, self.conv4, self.enlarge, self.conv5, self.enlarge, self.conv6]
        return receptive_field([*down, *up, self.conv7, self.conv8, self.conv9])

    def forward(self, image: Tensor) -> Tensor:
        """Shapes: (B, 3, H, W) -> (B, 1, H, W)."""
        image_batch(image)
        if image.shape[-2] % DIVISOR or image.shape[-1] % DIVISOR:
            raise ValueError(
                f"the U-Net discriminator halves its image three times: {image.shape[-2]} x "
                f"{image.shape[-1]} must be multiples of {DIVISOR}; see data.hr_patch_size"
            )
        full = leaky_relu(self.conv0(image), SLOPE)
        half = leaky_relu(self.conv1(full), SLOPE)
        quarter = leaky_relu(self.conv2(half), SLOPE)
        eighth = leaky_relu(self.conv3(quarter), SLOPE)
        features = leaky_relu(self.conv4(self.enlarge(eighth)), SLOPE) + quarter
        features = leaky_relu(self.conv5(self.enlarge(features)), SLOPE) + half
        features = leaky_relu(self.conv6(self.enlarge(features)), SLOPE) + full
        features = leaky_relu(self.conv8(leaky_relu(self.conv7(features), SLOPE)), SLOPE)
        logits: Tensor = self.conv9(features)
        return logits


def _spectral(channels_in: int, channels_out: int) -> SpectralConv2d:
    return SpectralConv2d(channels_in, channels_out, 3, padding=1, bias=False)


def _halving(channels_in: int, channels_out: int) -> SpectralConv2d:
    return SpectralConv2d(channels_in, channels_out, 4, stride=2, padding=1, bias=False)
