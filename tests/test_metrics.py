"""Metrics against skimage, torchmetrics, published images and laws that hold exactly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import skimage.data
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.metrics import structural_similarity
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from srtrain.color import luma
from srtrain.degradation.resize import Bicubic, bicubic_uint8, upscale_rounded
from srtrain.errors import DivergedError
from srtrain.metrics.consistency import lr_psnr
from srtrain.metrics.frequency import hf_ratio, hf_truth, high_band
from srtrain.metrics.image_metrics import ImageMetrics
from srtrain.metrics.mean_meter import bias, rtm, rtm_sums
from srtrain.metrics.quality import psnr, round8, shave, ssim
from srtrain.perception.lpips import LPIPS


def whole_photo(name: str) -> Tensor:
    """One of skimage's photos, (1, 3, H, W) float64 in [0, 1]."""
    pixels = getattr(skimage.data, name)()
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].double() / 255


def photo(name: str, size: int = 96) -> Tensor:
    """The centre of one of skimage's photos, (1, 3, size, size) float64 in [0, 1]."""
    whole = whole_photo(name)
    top, left = ((side - size) // 2 for side in whole.shape[-2:])
    return whole[..., top : top + size, left : left + size]


def read(path: Path) -> Tensor:
    """An image file as (1, 3, H, W) float64 in [0, 1]."""
    pixels = np.array(Image.open(path).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].double() / 255


def crop_to(image: Tensor, scale: int) -> Tensor:
    """The top left part whose sides are multiples of ``scale``."""
    height, width = (side // scale * scale for side in image.shape[-2:])
    return image[..., :height, :width]


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


# hf_ratio, hf_truth ----------------------------------------------------------------------------


def scramble_phases(image: Tensor) -> Tensor:
    """The image's own amplitudes with the phases of white noise.

    Of the mirrored image, so that no jump at the border is scrambled into texture.
    """
    height, width = image.shape[-2:]
    mirrored = torch.cat([image, image.flip(-1)], dim=-1)
    mirrored = torch.cat([mirrored, mirrored.flip(-2)], dim=-2)
    source = torch.Generator().manual_seed(0)
    noise = torch.fft.rfft2(torch.rand(mirrored.shape, generator=source, dtype=image.dtype))
    spectrum = torch.fft.rfft2(mirrored).abs() * noise / noise.abs()
    return torch.fft.irfft2(spectrum, s=mirrored.shape[-2:])[..., :height, :width]


def scramble_signs(image: Tensor) -> Tensor:
    """The image with random signs of its cosine coefficients: the same amplitudes exactly."""
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=image.shape)
    coefficients = scipy.fft.dctn(image.numpy(), axes=(2, 3), norm="ortho")
    return torch.from_numpy(scipy.fft.idctn(signs * coefficients, axes=(2, 3), norm="ortho"))


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
def test_hf_truth_of_the_truth_is_1_and_of_scrambled_phases_0(name: str, scale: int) -> None:
    hr = luma(whole_photo(name))
    assert hf_ratio(hr, hr, scale=scale).item() == pytest.approx(1)
    assert hf_truth(hr, hr, scale=scale).item() == pytest.approx(1)
    for scramble, tolerance in ((scramble_phases, 0.02), (scramble_signs, 1e-9)):
        sr = scramble(hr)
        assert hf_ratio(sr, hr, scale=scale).item() == pytest.approx(1, abs=tolerance)
        assert hf_truth(sr, hr, scale=scale).item() == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("size", [(12, 12), (12, 15), (15, 9)])
def test_hf_band_by_the_definition(size: tuple[int, int]) -> None:
    sr, hr = torch.rand(2, 2, 1, *size, dtype=torch.float64)
    above = np.add.outer(np.arange(size[0]) * 3 > size[0], np.arange(size[1]) * 3 > size[1])
    spectra = [
        scipy.fft.dctn(image.numpy(), axes=(2, 3), norm="ortho") * above for image in (sr, hr)
    ]
    band = high_band(sr, hr, scale=3)
    for ours, (first, second) in zip(
        (band.sr, band.hr, band.product), ((0, 0), (1, 1), (0, 1)), strict=True
    ):
        expected = (spectra[first] * spectra[second]).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-9)


def test_hf_laws() -> None:
    """Half the texture has a quarter of its energy, and all of it is true."""
    hr = luma(photo("coffee"))
    low = hr - (hr - F.avg_pool2d(hr, 9, 1, 4, count_include_pad=False))
    half = low + (hr - low) / 2
    band, low_band = high_band(half, hr, scale=2), high_band(low, hr, scale=2)
    assert low_band.ratio.item() < 0.05
    assert band.ratio.item() == pytest.approx(0.25, abs=0.1)
    assert band.truth.item() > 0.95


def test_hf_where_there_is_none() -> None:
    flat, textured = torch.full((1, 1, 32, 32), 0.3), luma(photo("coffee", 32))
    assert hf_ratio(textured, flat, scale=2).isnan().all()
    assert hf_truth(textured, flat, scale=2).isnan().all()
    assert hf_ratio(flat, textured, scale=2).item() == pytest.approx(0, abs=1e-9)
    assert hf_truth(flat, textured, scale=2).item() == pytest.approx(0, abs=1e-6)


# rtm, bias -------------------------------------------------------------------------------------


def test_rtm_of_a_mean_is_1_and_of_a_sample_0() -> None:
    """y = x + z: the posterior mean of y given x is x, and x + z' is a sample of it."""
    source = torch.Generator().manual_seed(0)
    x, z, other = torch.randn(3, 1, 3, 500, 500, generator=source, dtype=torch.float64)
    assert rtm(x, x + z).item() == pytest.approx(1, abs=0.02)
    assert rtm(x + other, x + z).item() == pytest.approx(0, abs=0.02)
    assert rtm(x / 2, x + z).item() > 1  # smoother than the mean
    assert rtm(x, x).isnan().all()


def test_rtm_of_a_set_is_made_from_sums() -> None:
    hr = torch.tensor([1.0, 0.5]).view(2, 1, 1, 1).expand(2, 3, 16, 16)
    sr = torch.tensor([0.6, 0.4]).view(2, 1, 1, 1).expand(2, 3, 16, 16)
    gap, squared_error = rtm_sums(sr, hr)
    # By hand, per value: 1 - .36 = .64 and .25 - .16 = .09; .16 and .01.
    torch.testing.assert_close(gap / 768, torch.tensor([0.64, 0.09], dtype=torch.float64))
    torch.testing.assert_close(squared_error / 768, torch.tensor([0.16, 0.01], dtype=torch.float64))


def test_bias() -> None:
    hr = photo("coffee", 16)
    torch.testing.assert_close(bias(hr - 0.01, hr), torch.tensor([-0.01], dtype=torch.float64))


# lr_psnr ---------------------------------------------------------------------------------------


def test_lr_psnr() -> None:
    downscale = Bicubic(scale=2)
    hr = photo("coffee")
    lr = downscale(hr)
    assert lr_psnr(hr, lr, downscale).isinf().all()
    assert 20 < lr_psnr(noisy(hr), lr, downscale).item() < 40
    shifted = lr_psnr(hr, (lr * 255 + 1).clamp(max=255) / 255, downscale)  # one level everywhere
    assert shifted.item() == pytest.approx(48.13, abs=0.05)  # 20 log10(255)
    with pytest.raises(ValueError, match=r"downscale led to .*; is `scale` right"):
        lr_psnr(hr, lr[..., :-1], downscale)


# the protocol ----------------------------------------------------------------------------------


def test_protocol_of_one_image_and_of_a_batch() -> None:
    hr = torch.cat([photo("astronaut"), photo("coffee")]).float()
    sr = noisy(hr)
    metrics = ImageMetrics(scale=4, downscale=Bicubic(scale=4))
    together = metrics(sr, hr, Bicubic(scale=4)(hr))
    for index in range(2):
        alone = metrics(*(image[[index]] for image in (sr, hr, Bicubic(scale=4)(hr))))
        for name, value in alone.items():
            torch.testing.assert_close(together[name][[index]], value, msg=name)
    inner = [round8(image)[..., 4:-4, 4:-4] for image in (sr, hr)]
    torch.testing.assert_close(together["psnr_rgb"], psnr(*inner))
    torch.testing.assert_close(together["ssim_y"], ssim(*map(luma, inner)))
    torch.testing.assert_close(together["bias"], bias(*inner))
    assert all(value.dtype == torch.float64 for value in together.values())


def test_what_cannot_be_measured_is_absent() -> None:
    metrics = ImageMetrics(scale=2)
    hr = photo("coffee", 32)
    assert metrics(noisy(hr), hr, hr[..., ::2, ::2]).keys() == {
        *("psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb", "rtm", "hf_ratio", "hf_truth", "bias"),
        *("energy_gap", "squared_error"),
    }
    assert str(metrics.protocol["lpips"]).startswith("absent")
    assert metrics.protocol["lr_psnr"] == "absent"
    assert json.loads(json.dumps(metrics.protocol)) == metrics.protocol


def test_consistency_with_blind_lr_has_another_name() -> None:
    hr, down = photo("coffee"), Bicubic(scale=2)
    usual = ImageMetrics(scale=2, downscale=down)
    blind = ImageMetrics(scale=2, downscale=down, blind=True)
    assert usual.consistency == "lr_psnr"
    assert blind.consistency == "lr_psnr_bicubic"
    for metrics, other in ((usual, blind), (blind, usual)):
        values = metrics(noisy(hr), hr, down(hr))
        assert metrics.consistency in values
        assert other.consistency not in {*values, *metrics.protocol}
        assert metrics.protocol[metrics.consistency] == "whole RGB image"


def test_gray_is_its_own_luma() -> None:
    hr = photo("coffee")[:, :1].expand(-1, 3, -1, -1)
    values = ImageMetrics(scale=2)(noisy(hr[:, :1]).expand_as(hr), hr)
    torch.testing.assert_close(values["psnr_y"], values["psnr_rgb"])
    torch.testing.assert_close(values["ssim_y"], values["ssim_rgb"])


def test_low_precision_and_autocast_change_nothing() -> None:
    hr = photo("coffee").float()
    sr = noisy(hr).bfloat16()
    expected = ImageMetrics(scale=2)(sr.float(), hr)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(ImageMetrics(scale=2)(sr, hr), expected)


def test_reduce_tells_what_it_leaves_out() -> None:
    hr = photo("coffee")
    metrics = ImageMetrics(scale=2)
    good, other, perfect = metrics(noisy(hr), hr), metrics(noisy(hr, 0.1), hr), metrics(hr, hr)
    table = metrics.reduce([good, other])
    assert table["psnr_y"] == pytest.approx((good["psnr_y"] + other["psnr_y"]).item() / 2)
    gap, error = (good[name] + other[name] for name in ("energy_gap", "squared_error"))
    assert table["rtm"] == pytest.approx((gap / error).item())
    assert not any(name.endswith("left_out") for name in table)

    with_perfect = metrics.reduce([good, other, perfect])
    assert with_perfect["psnr_y"] == table["psnr_y"]
    assert with_perfect["psnr_y_left_out"] == 1
    assert with_perfect["rtm"] == table["rtm"]
    assert with_perfect["ssim_y"] == pytest.approx((2 * table["ssim_y"] + 1) / 3)
    assert "ssim_y_left_out" not in with_perfect

    only_perfect = metrics.reduce([perfect])
    assert "psnr_y" not in only_perfect
    assert "rtm" not in only_perfect
    json.dumps(only_perfect, allow_nan=False)


def test_reduce_refuses_nothing_and_mixtures() -> None:
    metrics = ImageMetrics(scale=2)
    with pytest.raises(ValueError, match="at least one image"):
        metrics.reduce([])
    with pytest.raises(ValueError, match="same metrics"):
        metrics.reduce([{"psnr_y": torch.ones(1)}, {"psnr_rgb": torch.ones(1)}])


def test_sr_that_is_not_finite_is_an_error_and_no_value_left_out() -> None:
    hr = photo("coffee", 32)
    with pytest.raises(DivergedError, match="not finite"):
        ImageMetrics(scale=2)(hr * torch.nan, hr)


def test_bicubic_x4_of_set5(shared: Path) -> None:
    """From MATLAB's LR files; shared/data/README.md and the papers' tables say what comes out."""
    lpips = LPIPS(net="squeeze", features=shared / "weights" / "squeezenet1_1_features.safetensors")
    metrics = ImageMetrics(scale=4, lpips=lpips, downscale=Bicubic(scale=4)).to("cpu")
    images = []
    for file in sorted((shared / "data" / "Set5" / "HR").glob("*.png")):
        hr = crop_to(read(file), 4)
        lr = read(shared / "data" / "Set5" / "LR_bicubic" / "X4" / f"{file.stem}x4.png")
        assert torch.equal(bicubic_uint8((hr * 255).round().byte(), 4), (lr * 255).round().byte())
        images.append(metrics(upscale_rounded(lr, scale=4), hr, lr))
    table = metrics.reduce(images)
    assert table["psnr_y"] == pytest.approx(28.429, abs=1e-3)
    assert table["ssim_y"] == pytest.approx(0.8111, abs=1e-4)
    assert table["psnr_rgb"] == pytest.approx(26.69, abs=5e-3)
    assert table["ssim_rgb"] == pytest.approx(0.773, abs=1e-3)
    assert table["lpips_squeeze"] == pytest.approx(0.2859, abs=5e-4)
    assert table["hf_ratio"] < 0.1  # a plain Fourier transform claims .22 here
    assert table["rtm"] > 1  # smoother than the mean
    lpips_protocol = metrics.protocol["lpips"]
    assert isinstance(lpips_protocol, dict)
    assert lpips_protocol["features_sha256"] == lpips.features_sha256
