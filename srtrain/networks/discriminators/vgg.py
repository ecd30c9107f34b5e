"""SRGAN's discriminator: one logit for the whole crop, so composition is judged too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from srtrain.checks import image_batch
from srtrain.networks.discriminators.blocks import SLOPE, Norm, block, known_norm
from srtrain.networks.discriminators.spectral import SpectralConv2d

if TYPE_CHECKING:
    from torch import Tensor

HALVINGS = 4
SMALLEST = 32  # below, the last features are a single pixel
HIDDEN = 16  # x base_channels: 1024 in the paper


class VGGStyle(nn.Module):
    """Eight 3x3 convolutions, every second one halving, then two dense layers: one logit.

    Spectral norm instead of the paper's batch norm. Real and fake images come in batches of their
    own, so under batch norm D may tell them by their batch's statistics and judges no single
    image; micro-batches, ranks and the gradient penalty would see another D.

    The dense layer grows with the crop: of 23.6M parameters at 64 channels and 96 pixels, 18.9M are
    its own; at 192 pixels, 75.5M. It is written as a convolution as large as its input.

    Shapes: image (B, 3, input_size, input_size) in [0, 1] -> logits (B, 1, 1, 1).
    Raises: ValueError for an unknown norm, an ``input_size`` below 32, and images of another size.
    Source: Ledig et al. 2017, Photo-Realistic Single Image Super-Resolution Using a GAN, figure 4.
    """

    def __init__(
        self, *, input_size: int, base_channels: int = 64, norm: Norm = "spectral"
    ) -> None:
        super().__init__()
        known_norm(norm)
        if input_size < SMALLEST:
            raise ValueError(
                f"input_size = {input_size} must be at least {SMALLEST} (four halvings); give it "
                "data.hr_patch_size"
            )
        self.input_size = input_size
        layers = block(3, base_channels, 3, norm=norm, normalised=False)
        width = base_channels
        for level in range(HALVINGS):
            layers += block(width, width, 3, norm=norm, stride=2)
            if level < HALVINGS - 1:
                layers += block(width, 2 * width, 3, norm=norm)
                width *= 2
        self.features = nn.Sequential(*layers)
        side = -(-input_size // 2**HALVINGS)
        dense = SpectralConv2d if norm == "spectral" else nn.Conv2d
        hidden = HIDDEN * base_channels
        self.classifier = nn.Sequential(
            dense(width, hidden, side), nn.LeakyReLU(SLOPE, inplace=True), dense(hidden, 1, 1)
        )

    @property
    def receptive_field(self) -> int:
        """The whole crop: the dense layer sees all of it."""
        return self.input_size

    def forward(self, image: Tensor) -> Tensor:
        """Shapes: (B, 3, input_size, input_size) -> (B, 1, 1, 1)."""
        image_batch(image)
        if image.shape[-2:] != (self.input_size, self.input_size):
            raise ValueError(
                f"the discriminator takes {self.input_size} x {self.input_size} images, got "
                f"{image.shape[-2]} x {image.shape[-1]}; set discriminator.input_size to "
                "data.hr_patch_size, or take patchgan, which takes any size"
            )
        logit: Tensor = self.classifier(self.features(image))
        return logit
