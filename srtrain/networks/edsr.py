"""Residual networks without batch norm: EDSR, SRResNet, and EDSRLite for a laptop.

Batch statistics would make the result depend on what else is in the batch, and would differ
between ranks; EDSR showed that super-resolution loses nothing without them.

Each takes ``out_channels``: the first three are the image, which alone gets the skip or the mean
colour; heads (``srtrain.networks.heads``) read the others. The width maps of a head must not start
as images.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from srtrain.networks.enlarging import enlarged

# Pixel shuffles, in order, for each scale: x4 in two steps, so that x2 weights can start it.
SHUFFLES: dict[int, tuple[int, ...]] = {1: (), 2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}

# Mean RGB of the DIV2K training images (EDSR-PyTorch, BasicSR), on which EDSR is centred.
DIV2K_MEAN = (0.4488, 0.4371, 0.4040)


class ResidualBlock(nn.Module):
    """``x + res_scale * conv2(relu(conv1(x)))``, 3x3 convolutions, any size kept."""

    def __init__(self, num_features: int, *, res_scale: float = 1.0) -> None:
        super().__init__()
        self.res_scale = res_scale
        self.conv1 = _conv(num_features, num_features)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv(num_features, num_features)

    def forward(self, features: Tensor) -> Tensor:
        """Shapes: (B, C, h, w) -> the same."""
        residual: Tensor = self.conv2(self.relu(self.conv1(features)))
        if self.res_scale != 1.0:
            residual = residual * self.res_scale
        return features + residual


class EDSR(nn.Module):
    """Head, residual body with a long skip, pixel-shuffle tail; 64 x 16 is the baseline.

    The baseline has 1,369,859 parameters at x2, 1,517,571 at x4; the full network is 256 x 32 with
    ``res_scale`` 0.1, without which it does not train stably. Images are centred and multiplied by
    ``image_range`` inside: the network is trained on [0, 255] as published. Parameter names are
    those of BasicSR, so its EDSR files can start a training.

    Shapes: lr (B, 3, h, w) in [0, 1] -> (B, 3, h * scale, w * scale), not clamped.
    Raises: ValueError for a scale other than 1, 2, 3, 4, 8.
    Source: Lim et al. 2017, Enhanced Deep Residual Networks for Single Image Super-Resolution.
    """

    mean: Tensor

    def __init__(
        self,
        *,
        scale: int,
        num_features: int = 64,
        num_blocks: int = 16,
        res_scale: float = 1.0,
        image_range: float = 255.0,
        out_channels: int = 3,
    ) -> None:
        super().__init__()
        self.image_range = image_range
        self.register_buffer("mean", torch.tensor(DIV2K_MEAN).view(1, 3, 1, 1), persistent=False)
        self.conv_first = _conv(3, num_features)
        self.body = _body(num_features, num_blocks, res_scale=res_scale)
        self.conv_after_body = _conv(num_features, num_features)
        steps = [_upsample(num_features, factor) for factor in shuffles(scale)]
        self.upsample = nn.Sequential(*(layer for step in steps for layer in step))
        self.conv_last = _conv(num_features, _at_least_rgb(out_channels))

    def forward(self, lr: Tensor) -> Tensor:
        """Shapes: lr (B, 3, h, w) -> sr (B, out_channels, h * scale, w * scale)."""
        features = self.conv_first((lr - self.mean) * self.image_range)
        features = features + self.conv_after_body(self.body(features))
        sr: Tensor = self.conv_last(self.upsample(features))
        return _onto(self.mean, sr / self.image_range)


class SRResNet(nn.Module):
    """SRGAN's generator as ESRGAN revised it: no batch norm, a bilinear skip, small first weights.

    At its start it returns nearly the bilinear image. Parameter names are those of BasicSR
    (``MSRResNet``), so its files can start a training. 64 x 16 has 1,517,571 parameters at x4.

    Shapes: lr (B, 3, h, w) in [0, 1] -> (B, 3, h * scale, w * scale), not clamped.
    Raises: ValueError for a scale other than 1, 2, 3, 4, 8.
    Source: Ledig et al. 2017, Photo-Realistic Single Image Super-Resolution Using a GAN; Wang et
    al. 2018, ESRGAN, section 3.1 (weights x 0.1 as in its supplementary material).
    """

    def __init__(
        self, *, scale: int, num_features: int = 64, num_blocks: int = 16, out_channels: int = 3
    ) -> None:
        super().__init__()
        self.scale = scale
        self.factors = shuffles(scale)
        self.conv_first = _conv(3, num_features)
        self.body = _body(num_features, num_blocks)
        for number, factor in enumerate(self.factors, start=1):
            self.add_module(f"upconv{number}", _conv(num_features, num_features * factor**2))
        self.conv_hr = _conv(num_features, num_features)
        self.conv_last = _conv(num_features, _at_least_rgb(out_channels))
        self.act = nn.LeakyReLU(0.1, inplace=True)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _small_init(module)

    def forward(self, lr: Tensor) -> Tensor:
        """Shapes: lr (B, 3, h, w) -> sr (B, out_channels, h * scale, w * scale)."""
        features = self.body(self.act(self.conv_first(lr)))
        for number, factor in enumerate(self.factors, start=1):
            wide = self.get_submodule(f"upconv{number}")(features)
            features = self.act(functional.pixel_shuffle(wide, factor))
        detail: Tensor = self.conv_last(self.act(self.conv_hr(features)))
        return _onto(enlarged(lr, self.scale, mode="bilinear"), detail)


class EDSRLite(nn.Module):
    """``bicubic(lr) + detail``: a residual body at the LR size, one pixel shuffle, for CPUs.

    32 x 4 has 78 thousand parameters at x2, 89 thousand at x4. The tail starts at zero, so training
    starts at the bicubic image (a = -0.5, as MATLAB and Pillow) and passes it within seconds on two
    cores; against a tail of small random weights that gains 0.1 dB in the first 200 steps.

    Shapes: lr (B, 3, h, w) in [0, 1] -> (B, 3, h * scale, w * scale), not clamped.
    Raises: ValueError for a scale other than 1, 2, 3, 4, 8.
    Source: EDSR's blocks (Lim et al. 2017), ESPCN's tail (Shi et al. 2016), VDSR's skip (Kim et
    al. 2016).
    """

    def __init__(
        self, *, scale: int, num_features: int = 32, num_blocks: int = 4, out_channels: int = 3
    ) -> None:
        super().__init__()
        shuffles(scale)
        self.scale = scale
        self.head = _conv(3, num_features)
        self.body = _body(num_features, num_blocks)
        self.tail = _conv(num_features, _at_least_rgb(out_channels) * scale**2)
        nn.init.zeros_(self.tail.weight)
        nn.init.zeros_(_bias(self.tail))

    def forward(self, lr: Tensor) -> Tensor:
        """Shapes: lr (B, 3, h, w) -> sr (B, out_channels, h * scale, w * scale)."""
        head = self.head(lr)
        detail = functional.pixel_shuffle(self.tail(head + self.body(head)), self.scale)
        return _onto(enlarged(lr, self.scale), detail)


def shuffles(scale: int) -> tuple[int, ...]:
    """Factors of the pixel shuffles that make ``scale``.

    Raises: ValueError for a scale that has none.
    """
    if scale not in SHUFFLES:
        raise ValueError(f"scale = {scale} must be one of {sorted(SHUFFLES)}")
    return SHUFFLES[scale]


def _conv(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1)


def _body(num_features: int, num_blocks: int, *, res_scale: float = 1.0) -> nn.Sequential:
    blocks = (ResidualBlock(num_features, res_scale=res_scale) for _ in range(num_blocks))
    return nn.Sequential(*blocks)


def _upsample(num_features: int, factor: int) -> tuple[nn.Module, nn.Module]:
    return _conv(num_features, num_features * factor**2), nn.PixelShuffle(factor)


def _onto(image: Tensor, channels: Tensor) -> Tensor:
    """``channels`` with ``image`` added to the first three."""
    if channels.shape[1] == 3:
        return channels + image
    return torch.cat([channels[:, :3] + image, channels[:, 3:].to(image.dtype)], dim=1)


def _at_least_rgb(out_channels: int) -> int:
    if out_channels < 3:
        raise ValueError(f"out_channels = {out_channels} must be at least 3: an RGB image")
    return out_channels


def _small_init(conv: nn.Conv2d) -> None:
    nn.init.kaiming_normal_(conv.weight)
    with torch.no_grad():
        conv.weight.mul_(0.1)
    nn.init.zeros_(_bias(conv))


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias
