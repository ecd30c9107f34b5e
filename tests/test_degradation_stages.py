"""Each stage alone: blur, resize, noise, JPEG, sharpening, against other people's."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kornia.filters import filter2d, gaussian_blur2d
from PIL import Image
from skimage import data as photos

from srtrain.degradation import kernels
from srtrain.degradation.blur import blur
from srtrain.degradation.jpeg import jpeg
from srtrain.degradation.levels import GRID, clamped, mirrored, settle_, take, whole
from srtrain.degradation.noise import Noise, add_noise_
from srtrain.degradation.resample import MODES, resample
from srtrain.degradation.sharpen import USM

STEP = 1 / GRID  # of a level: what rounding to the grid may change, and a tie may double


def photo(height: int, width: int) -> torch.Tensor:
    """A detailed part of a photo, in levels (3, height, width)."""
    part = photos.astronaut()[:height, 150 : 150 + width]
    return torch.from_numpy(part.copy()).permute(2, 0, 1).double()


def canvas(sizes: torch.Tensor) -> torch.Tensor:
    """A photo of each size on a common canvas; rubbish beyond."""
    height, width = (int(side) for side in sizes.amax(0))
    levels = torch.full((len(sizes), 3, height, width), 1e6, dtype=torch.float64)
    for b, (h, w) in enumerate(sizes.tolist()):
        levels[b, :, :h, :w] = photo(h, w)
    return levels


SIZES = torch.tensor([[40, 57], [23, 30], [64, 48], [11, 64]])


def test_levels() -> None:
    values = torch.tensor([-3.0, 0.5, 1.4999999999, 254.5, 300.0], dtype=torch.float64)
    assert whole(values).tolist() == [0, 1, 2, 255, 255]  # a hair below a tie is a tie
    assert settle_(torch.tensor([0.3, -0.3], dtype=torch.float64)).tolist() == [77 / 256, -77 / 256]


@pytest.mark.parametrize("length", [1, 2, 5, 9])
def test_index_maps(length: int) -> None:
    image = torch.arange(length, dtype=torch.float64).view(1, 1, 1, -1)
    lengths = torch.tensor([length])
    columns = mirrored(lengths, before=3, count=length + 6)
    mirror = [
        abs((i + length - 1) % max(1, 2 * (length - 1)) - (length - 1))
        for i in range(-3, length + 3)
    ]
    assert columns.tolist() == [mirror]
    if length > 3:
        padded = F.pad(image, (3, 3, 0, 0), mode="reflect")
        assert torch.equal(take(image, torch.zeros(1, 1, dtype=torch.int64), columns), padded)
    assert clamped(lengths, count=length + 2).tolist() == [[*range(length), length - 1, length - 1]]


def test_blur_is_a_convolution_of_each_sample() -> None:
    size = torch.tensor([3, 10, 7, 5])
    form = kernels.quadratic_form(
        10, sigma=torch.tensor([[1.0, 3], [2, 2], [0.5, 1], [3, 0.4]]), angle=torch.arange(4.0)
    )
    own = kernels.trimmed(torch.exp(-form.double() / 2), size)
    blurred = blur(canvas(SIZES), own, sizes=SIZES)
    for b, (h, w) in enumerate(SIZES.tolist()):
        expected = filter2d(photo(h, w)[None], own[b : b + 1], border_type="reflect")[0]
        assert (blurred[b, :, :h, :w] - expected).abs().max() <= STEP
    assert blurred.isfinite().all()


@pytest.mark.parametrize("mode", MODES)
def test_resample_is_interpolate_of_each_sample(mode: str) -> None:
    new = torch.tensor([[10, 17], [40, 45], [64, 20], [9, 70]])
    modes = torch.full((4,), MODES.index(mode))
    resized = resample(canvas(SIZES), sizes=SIZES, new_sizes=new, modes=modes)
    for b, size in enumerate(new.tolist()):
        expected = F.interpolate(photo(*SIZES[b].tolist())[None], size=size, mode=mode)[0]
        assert (resized[b, :, : size[0], : size[1]] - expected).abs().max() <= STEP
    assert resized.isfinite().all()


def test_resample_to_the_same_size_changes_nothing() -> None:
    levels = canvas(SIZES[:3])
    same = resample(levels, sizes=SIZES[:3], new_sizes=SIZES[:3], modes=torch.arange(3))
    for b, (h, w) in enumerate(SIZES[:3].tolist()):
        assert torch.equal(same[b, :, :h, :w], levels[b, :, :h, :w])


def noisy(levels: torch.Tensor, noise: Noise, seed: int = 5) -> torch.Tensor:
    stream = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([levels.shape[-2:]])
    return add_noise_(levels[None].clone(), [noise], sizes=sizes, streams=[stream])[0]


@pytest.mark.parametrize("sigma", [1.0, 12.5])
@pytest.mark.parametrize("gray", [False, True])
def test_gaussian_noise_has_its_sigma(sigma: float, gray: bool) -> None:
    flat = torch.full((3, 200, 200), 128.0, dtype=torch.float64)
    field = noisy(flat, Noise(gaussian=True, strength=sigma, gray=gray)) - 128
    count = 200 * 200 * (1 if gray else 3)
    assert abs(float(field.mean())) < 5 * sigma / count**0.5
    assert abs(float(field.std()) / sigma - 1) < 5 / (2 * count) ** 0.5
    correlation = torch.corrcoef(field.flatten(1))[0, 1]
    if gray:
        assert torch.equal(field[0], field[1])
        assert torch.equal(field[0], field[2])
    else:
        assert abs(float(correlation)) < 5 / 200


@pytest.mark.parametrize(("gray", "strength"), [(False, 1.0), (True, 0.5)])
def test_poisson_variance_is_proportional_to_the_signal(gray: bool, strength: float) -> None:
    """256 levels -> 256 photons at white: variance = level · 255/256 · strength²."""
    rows = 3000
    ramp = torch.arange(256, dtype=torch.float64).expand(3, rows, 256)
    field = noisy(ramp, Noise(gaussian=False, strength=strength, gray=gray)) - ramp
    for level in (30, 60, 120, 180):  # none of them near a clamp
        column = field[0, :, level]
        expected = level * 255 / 256 * strength**2
        assert abs(float(column.mean())) < 5 * (expected / rows) ** 0.5
        assert abs(float(column.var()) / expected - 1) < 5 * (2.2 / rows) ** 0.5
    assert field[:, :, 0].count_nonzero() == 0
    assert torch.equal(field[0], field[1]) is gray


def test_few_levels_are_few_photons() -> None:
    """Two levels -> 2 photons: black, a level and its multiples only."""
    levels = torch.zeros(3, 60, 60, dtype=torch.float64)
    levels[:, :, 30:] = 127.5 - 0.5
    seen = noisy(levels, Noise(gaussian=False, strength=1.0, gray=False)).unique()
    assert seen.tolist() == [0, 127.5, 255]


def test_noise_stays_within_an_image() -> None:
    wild = noisy(photo(32, 32), Noise(gaussian=True, strength=200.0, gray=False))
    assert wild.min() == 0
    assert wild.max() == 255


def pillow(levels: torch.Tensor, quality: int) -> torch.Tensor:
    stream = io.BytesIO()
    pixels = levels.permute(1, 2, 0).numpy().astype(np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality, subsampling="4:2:0")
    return torch.from_numpy(np.array(Image.open(stream))).permute(2, 0, 1).double()


def psnr(left: torch.Tensor, right: torch.Tensor) -> float:
    return float(10 * torch.log10(255**2 / (left - right).square().mean()))


QUALITIES = (10, 30, 50, 75, 95)


@pytest.fixture(scope="module")
def coded() -> torch.Tensor:
    """One photo, one quality a sample."""
    levels = photo(200, 211)[None].expand(len(QUALITIES), -1, -1, -1)
    sizes = torch.tensor([[200, 211]]).expand(len(QUALITIES), -1)
    return jpeg(levels, quality=torch.tensor(QUALITIES).double(), sizes=sizes)


@pytest.mark.parametrize(("row", "quality"), list(enumerate(QUALITIES)))
def test_jpeg_is_pillows(coded: torch.Tensor, row: int, quality: int) -> None:
    hr = photo(200, 211)
    file = pillow(hr, quality)
    assert abs(psnr(coded[row], hr) - psnr(file, hr)) < 0.08
    assert psnr(coded[row], file) > psnr(file, hr) + 8  # the same artefacts, pixel by pixel


def test_jpeg_gets_better_with_quality(coded: torch.Tensor) -> None:
    values = [psnr(image, photo(200, 211)) for image in coded]
    assert values == sorted(values)
    assert values[-1] - values[0] > 8
    assert torch.equal(coded, coded.round().clamp(0, 255))


def test_jpeg_of_a_size_ends_where_the_image_does() -> None:
    sizes = torch.tensor([[48, 40], [17, 64], [33, 31]])
    quality = torch.tensor([40.0, 60, 80])
    together = jpeg(canvas(sizes), quality=quality, sizes=sizes)
    for b, (h, w) in enumerate(sizes.tolist()):
        alone = jpeg(photo(h, w)[None], quality=quality[b : b + 1], sizes=sizes[b : b + 1])[0]
        assert torch.equal(together[b, :, :h, :w], alone)


def test_jpeg_of_flat_gray_is_itself() -> None:
    flat = torch.full((1, 3, 20, 20), 77.0, dtype=torch.float64)
    same = jpeg(flat, quality=torch.tensor([95.0]), sizes=torch.tensor([[20, 20]]))
    assert (same - flat).abs().max() <= 1


def test_usm_is_real_esrgans() -> None:
    """Written down once more with kornia's blur: 51 pixels, σ 8 (OpenCV's for a radius of 50)."""
    hr = photo(90, 120)[None] / 255

    def soft(image: torch.Tensor) -> torch.Tensor:
        blurred: torch.Tensor = gaussian_blur2d(image, (51, 51), (8.0, 8.0))
        return blurred

    detail = hr - soft(hr)
    mask = soft((detail.abs() * 255 > 10).double())
    expected = mask * (hr + 0.5 * detail).clamp(0, 1) + (1 - mask) * hr
    sharp = USM()(hr.float())
    assert (sharp - expected).abs().max() * 255 < 0.1
    assert psnr(sharp * 255, hr * 255) < 35  # it does something


@pytest.mark.parametrize("size", [1, 7, 30])
def test_usm_of_small_or_flat_images(size: int) -> None:
    flat = torch.full((2, 3, size, size + 2), 0.25)
    torch.testing.assert_close(USM()(flat), flat, atol=2e-5, rtol=0)
    faint = flat + 8 / 255 * (torch.arange(size + 2) % 2)  # ±4 levels: below the threshold
    torch.testing.assert_close(USM()(faint), faint, atol=2e-5, rtol=0)
