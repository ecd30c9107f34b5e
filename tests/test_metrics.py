"""Metrics against skimage, torchmetrics, published images and laws that hold exactly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from skimage.metrics import structural_similarity
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from srtrain.color import luma
from srtrain.metrics.quality import psnr, round8, shave, ssim


def photo(name: str, size: int = 96) -> Tensor:
    """The centre of one of skimage's photos, (1, 3, size, size) float64 in [0, 1]."""
    pixels = getattr(skimage.data, name)()
    top, left = ((side - size) // 2 for side in pixels.shape[:2])
    crop = pixels[top : top + size, left : left + size]
    return torch.from_numpy(crop.copy()).permute(2, 0, 1)[None].double() / 255


def read(path: Path) -> Tensor:
    """An image file as (1, 3, H, W) float64 in [0, 1]."""
    pixels = np.array(Image.open(path).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].double() / 255


def noisy(image: Tensor, sigma: float = 0.05) -> Tensor:
    """The image with Gaussian noise, within [0, 1]."""
    source = torch.Generator().manual_seed(0)
    noise = torch.randn(image.shape, generator=source, dtype=image.dtype)
    return (image + sigma * noise).clamp(0, 1)


# psnr, ssim ------------------------------------------------------------------------------------


def test_psnr_is_per_image() -> None:
    hr = torch.zeros(2, 3, 4, 4)
    sr = hr + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)
    # By hand: -20 log10(0.1), -20 log10(0.01). Pooled, they would read 22.97.
    torch.testing.assert_close(psnr(sr, hr), torch.tensor([20.0, 40.0], dtype=torch.float64))
    assert psnr(hr, hr).isinf().all()


@pytest.mark.parametrize("name", ["astronaut", "coffee"])
@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_is_skimage_and_cropped_torchmetrics(name: str, channels: int) -> None:
    hr = photo(name)[:, :channels]
    sr = noisy(hr)
    ours = ssim(sr, hr).item()
    theirs = structural_similarity(  # averages the valid region: crops 5 pixels itself
        sr[0].numpy(),
        hr[0].numpy(),
        channel_axis=0,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert ours == pytest.approx(theirs, abs=1e-9)
    full = structural_similarity_index_measure(sr, hr, data_range=1.0, return_full_image=True)[1]
    assert ours == pytest.approx(full[..., 5:-5, 5:-5].mean().item(), abs=1e-9)


def test_ssim_of_images_and_batches() -> None:
    hr = torch.cat([photo("astronaut"), photo("coffee")])
    sr = noisy(hr)
    torch.testing.assert_close(
        ssim(sr, hr), torch.cat([ssim(sr[:1], hr[:1]), ssim(sr[1:], hr[1:])])
    )
    torch.testing.assert_close(ssim(hr, hr), torch.ones(2, dtype=torch.float64))
    assert ssim(sr.float(), hr.float()).dtype == torch.float64


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_shapes_must_agree(metric: object) -> None:
    with pytest.raises(ValueError, match="must have one shape"):
        metric(torch.rand(1, 3, 12, 12), torch.rand(1, 1, 12, 12))


def test_ssim_needs_a_window() -> None:
    with pytest.raises(ValueError, match="at least 11 x 11"):
        ssim(torch.rand(1, 3, 10, 64), torch.rand(1, 3, 10, 64))


def test_round8_is_half_up_after_clamping() -> None:
    levels = torch.tensor([-9.0, 0.49, 0.5, 1.5, 2.5, 254.5, 300.0], dtype=torch.float64)
    assert (round8(levels / 255) * 255).round().tolist() == [0, 0, 1, 2, 3, 255, 255]


def test_shave() -> None:
    assert shave(torch.rand(1, 3, 9, 11), 2).shape == (1, 3, 5, 7)
    assert shave(torch.rand(1, 3, 9, 11), 0).shape == (1, 3, 9, 11)
    with pytest.raises(ValueError, match="leaves nothing"):
        shave(torch.rand(1, 3, 8, 20), 4)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_published_images_measure_as_published(shared: Path, scale: int) -> None:
    """BSRN's own SR images; reference.json holds an independent implementation's values."""
    folder = shared / "data" / "published"
    reference = json.loads((folder / "reference.json").read_text())[f"BSRN_x{scale}"]["Set5"]
    for name, expected in reference["images"].items():
        sr = read(folder / f"BSRN_x{scale}" / "Set5" / f"{name}.png")
        hr = read(shared / "data" / "Set5" / "HR" / f"{name}.png")
        hr = hr[..., : sr.shape[-2], : sr.shape[-1]]
        pair = [shave(luma(image), scale) for image in (sr, hr)]
        assert psnr(*pair).item() == pytest.approx(expected["psnr_y"], abs=1e-3), name
        assert ssim(*pair).item() == pytest.approx(expected["ssim_y"], abs=1e-4), name
