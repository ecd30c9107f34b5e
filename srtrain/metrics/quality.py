"""PSNR and SSIM as the published tables compute them, one value per image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from srtrain.checks import image_batch, same_shape

if TYPE_CHECKING:
    from torch import Tensor

WINDOW = 11  # Gaussian of Wang et al. 2004: 11 taps, sigma 1.5
SIGMA = 1.5
C1, C2 = 0.01**2, 0.03**2  # (k L)^2 with L = 1, the range of the images


def psnr(sr: Tensor, hr: Tensor) -> Tensor:
    """``-10 log10(mean((sr - hr)²))`` per image, in dB, over all its channels and pixels.

    Never pooled over images: the mean of a set's PSNR is what tables print. Identical images give
    infinity, as they should; whoever averages has to say what he does with it.

    Shapes: sr, hr (B, C, H, W) in [0, 1] -> (B,) float64.
    Raises: ValueError if shapes differ; (B, 3) against (B, 1) would broadcast silently.
    """
    same_shape(sr, hr)
    error = sr.double() - hr.double()
    return -10 * error.square().mean(dim=(1, 2, 3)).log10()


def ssim(sr: Tensor, hr: Tensor) -> Tensor:
    """Mean structural similarity over the windows that lie wholly inside the image.

    This is MATLAB's ``ssim_index`` and every table's; torchmetrics' scalar also averages windows
    over a reflected border (.0006 lower on Set5 x4). In float64, since a variance is the small
    difference of large numbers. Colour: mean over the channels.

    Shapes: sr, hr (B, C, H, W) in [0, 1] -> (B,) float64.
    Raises: ValueError if shapes differ, or for images smaller than the 11 x 11 window.
    Source: Wang et al. 2004, "Image quality assessment", eq. 13.
    """
    same_shape(sr, hr)
    image_batch(sr, "sr")
    if min(sr.shape[-2:]) < WINDOW:
        raise ValueError(
            f"ssim needs at least {WINDOW} x {WINDOW} pixels, got {tuple(sr.shape[-2:])}; "
            "use larger images (the border of `scale` pixels is cut before)"
        )
    # Channel by channel: a 2040 x 1356 plane takes 22 MB in float64, and there are a dozen.
    planes = [
        _ssim_plane(sr[:, [channel]].double(), hr[:, [channel]].double())
        for channel in range(sr.shape[1])
    ]
    return torch.cat(planes, dim=1).mean(dim=1)


def round8(image: Tensor) -> Tensor:
    """The nearest of the 256 values that an 8-bit file can hold, halves up; float64 in [0, 1]."""
    return (image.clamp(0, 1) * 255 + 0.5).floor().double() / 255


def levels(image: Tensor) -> Tensor:
    """``255 · round8(image)`` in float32, where whole gray levels are exact."""
    return (image.float() * 255).add_(0.5).floor_().clamp_(0, 255)


def shave(image: Tensor, border: int) -> Tensor:
    """The image without ``border`` pixels on each side.

    Raises: ValueError if nothing would be left.
    """
    if min(image.shape[-2:]) <= 2 * border:
        raise ValueError(f"a border of {border} leaves nothing of {tuple(image.shape[-2:])}")
    return image[..., border : image.shape[-2] - border, border : image.shape[-1] - border]


def gaussian(device: torch.device | str = "cpu") -> Tensor:
    """The window's weights along one axis, (WINDOW,) float64; they sum to 1."""
    offset = torch.arange(WINDOW, dtype=torch.float64, device=device) - WINDOW // 2
    weight = torch.exp(-offset.square() / (2 * SIGMA**2))
    return weight / weight.sum()


def _ssim_plane(sr: Tensor, hr: Tensor) -> Tensor:
    mean_sr, mean_hr = _blur(sr), _blur(hr)
    covariance = _blur(sr * hr) - mean_sr * mean_hr
    variances = _blur(sr.square().add_(hr.square()))  # of both: the formula needs but their sum
    energy = mean_sr.square() + mean_hr.square()
    variances -= energy
    similarity = (2 * mean_sr * mean_hr + C1) * (2 * covariance + C2)
    similarity /= (energy + C1) * (variances + C2)
    return similarity.mean(dim=(2, 3))


def _blur(plane: Tensor) -> Tensor:
    """Gaussian-weighted local mean, valid region.

    As 11 shifted sums per direction: half the time and a third of the memory of a float64
    convolution, which the CPU unfolds first.
    """
    taps: list[float] = gaussian().tolist()
    for dim in (2, 3):
        size = plane.shape[dim] - WINDOW + 1
        blurred = taps[0] * plane.narrow(dim, 0, size)
        for shift, tap in enumerate(taps[1:], start=1):
            blurred.add_(plane.narrow(dim, shift, size), alpha=tap)
        plane = blurred
    return plane
