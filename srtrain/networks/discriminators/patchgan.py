"""PatchGAN: one logit per overlapping patch, so texture is judged and composition is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from srtrain.checks import image_batch
from srtrain.networks.discriminators.blocks import (
    Norm,
    block,
    convolution,
    known_norm,
    receptive_field,
)

if TYPE_CHECKING:
    from torch import Tensor

WIDEST = 8  # x base_channels


class PatchGAN(nn.Module):
    """``n_layers`` halvings by 4x4 convolutions, then two more: a map of logits.

    One logit sees 16, 34, 70, 142 pixels for ``n_layers`` 1 to 4. The first layer has no
    statistics, as published. Spectral norm instead of the paper's batch norm: a logit then depends
    on its image alone, whatever is in the batch or on other ranks, and D's slope stays bounded.

    Shapes: image (B, 3, H, W) in [0, 1] -> logits (B, 1, h, w), h about H / 2^n_layers.
    Raises: ValueError for an unknown norm, ``n_layers`` < 1, and an image smaller than a patch.
    Source: Isola et al. 2017, Image-to-Image Translation with Conditional Adversarial Networks,
    section 6.1.2.
    """

    def __init__(
        self, *, n_layers: int = 3, base_channels: int = 64, norm: Norm = "spectral"
    ) -> None:
        super().__init__()
        known_norm(norm)
        if n_layers < 1:
            raise ValueError(f"n_layers = {n_layers} must be at least 1")
        widths = [base_channels * min(2**level, WIDEST) for level in range(n_layers + 1)]
        layers = block(3, widths[0], 4, norm=norm, stride=2, normalised=False)
        for level in range(1, n_layers):
            layers += block(widths[level - 1], widths[level], 4, norm=norm, stride=2)
        layers += block(widths[-2], widths[-1], 4, norm=norm)
        self.layers = nn.Sequential(*layers, convolution(widths[-1], 1, 4, norm=norm))

    @property
    def receptive_field(self) -> int:
        """Side of the patch that one logit judges."""
        return receptive_field(self.layers.modules())

    def forward(self, image: Tensor) -> Tensor:
        """Shapes: (B, 3, H, W) -> (B, 1, h, w)."""
        image_batch(image)
        patch = self.receptive_field
        if min(image.shape[-2:]) < patch:
            raise ValueError(
                f"the discriminator judges {patch} x {patch} patches, the image is "
                f"{image.shape[-2]} x {image.shape[-1]}: give it data.hr_patch_size >= {patch} or "
                "fewer discriminator.n_layers"
            )
        logits: Tensor = self.layers(image)
        return logits
