"""Losses against hand-made values, their minimisers, and their gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor, nn
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from srtrain.losses.frequency import FFTL1
from srtrain.losses.gradient import GradientL1
from srtrain.losses.pixel import Charbonnier, Huber, LogCosh, Quantile, SmoothL1, linear_zone
from srtrain.losses.structure import MSSSIMLoss, SSIMLoss, num_scales

# 20 pixels that could all be right: {.2: .60, .5: .25, .9: .10, 8: .05}.
POPULATION = torch.tensor([0.2] * 12 + [0.5] * 5 + [0.9] * 2 + [8.0], dtype=torch.float64)


def minimiser(loss: nn.Module) -> float:
    """The constant image that a convex loss tends to, by ternary search."""
    low, high = 0.0, 10.0
    for _ in range(80):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        at_left, at_right = (
            loss(torch.full_like(POPULATION, value), POPULATION) for value in (left, right)
        )
        low, high = (low, right) if at_left <= at_right else (left, high)
    return (low + high) / 2


@pytest.mark.parametrize(
    ("loss", "expected"),
    [  # computed with scipy.optimize for ../shared/science.md §1
        (nn.MSELoss(), 0.735),
        (nn.L1Loss(), 0.2),
        (SmoothL1(beta=1 / 9), 0.274),
        (SmoothL1(beta=1.0), 0.405),
        (Huber(delta=0.1), 0.267),
        (LogCosh(scale=1.0), 0.403),
        (Charbonnier(eps=1e-3), 0.201),
        (Quantile(tau=0.9), 0.9),
        (Quantile(tau=0.97), 8.0),
    ],
    ids=str,
)
def test_minimiser(loss: nn.Module, expected: float) -> None:
    assert minimiser(loss) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("loss", "error", "expected"),
    [  # by hand
        (Charbonnier(eps=1e-3), 0.0, 1e-3),
        (Charbonnier(eps=1e-3), 1e-3, math.sqrt(2) * 1e-3),
        (Charbonnier(eps=1e-3), 0.5, math.sqrt(0.25 + 1e-6)),
        (SmoothL1(beta=0.1), 0.05, 0.05**2 / 0.2),
        (SmoothL1(beta=0.1), -0.4, 0.35),
        (Huber(delta=0.1), 0.05, 0.05**2 / 2),
        (Huber(delta=0.1), -0.4, 0.1 * 0.35),
        (LogCosh(scale=0.1), 0.0, 0.0),
        (LogCosh(scale=0.1), 0.1, 0.1 * math.log(math.cosh(1))),
        (LogCosh(scale=0.1), -0.9, 0.1 * math.log(math.cosh(9))),
        (LogCosh(scale=1e-4), 1.0, 1 - 1e-4 * math.log(2)),  # cosh(1e4) itself overflows
        (Quantile(tau=0.9), 0.2, 0.02),
        (Quantile(tau=0.9), -0.2, 0.18),
    ],
)
def test_value(loss: nn.Module, error: float, expected: float) -> None:
    hr = torch.full((2, 3, 4, 4), 0.5, dtype=torch.float64)
    assert loss(hr + error, hr).item() == pytest.approx(expected, rel=1e-9, abs=1e-15)


def images(size: int = 6) -> tuple[Tensor, Tensor]:
    """Two random images, float64, the first requiring a gradient."""
    source = torch.Generator().manual_seed(0)
    sr, hr = torch.rand(2, 1, 2, size, size, generator=source, dtype=torch.float64)
    return sr.requires_grad_(), hr


ROBUST = [SmoothL1(), Huber(), Charbonnier(), LogCosh(), Quantile(tau=0.9)]
WINDOWED = [SSIMLoss(), MSSSIMLoss(), FFTL1(), GradientL1()]


@pytest.mark.parametrize("loss", [*ROBUST, *WINDOWED], ids=str)
def test_gradient_and_shape_guard(loss: nn.Module) -> None:
    sr, hr = images(11)
    assert torch.autograd.gradcheck(loss, (sr, hr))
    with pytest.raises(ValueError, match="must have one shape"):
        loss(sr, hr[..., :1])


@pytest.mark.parametrize("loss", [*ROBUST[:-1], *WINDOWED], ids=str)
def test_gradient_is_zero_where_the_error_is(loss: nn.Module) -> None:
    hr = torch.rand(1, 3, 24, 24)
    sr = hr.clone().requires_grad_()
    loss(sr, hr).backward()
    torch.testing.assert_close(sr.grad, torch.zeros_like(hr), atol=1e-6, rtol=0)


def test_smooth_l1_is_huber_over_its_delta() -> None:
    sr, hr = images()
    torch.testing.assert_close(SmoothL1(beta=0.07)(sr, hr), Huber(delta=0.07)(sr, hr) / 0.07)


@pytest.mark.parametrize(
    ("loss", "share"),
    [
        (SmoothL1(beta=3 / 255), 0.5),
        (Huber(delta=3 / 255), 0.5),
        (LogCosh(scale=3 / 255), 0.5),
        (Charbonnier(eps=0.5 / 255), 0.75),
        (Charbonnier(eps=3 / 255), 0.5),
        (Quantile(), 0.75),
        (SmoothL1(beta=1.0), 0.0),  # the stock constant: half an MSE
    ],
    ids=str,
)
def test_linear_share(loss: nn.Module, share: float) -> None:
    error = torch.tensor([0.0, 2.0, -4.0, 30.0]).view(1, 1, 2, 2) / 255
    assert loss.linear_share(error, torch.zeros(1, 1, 2, 2)).item() == share


def test_linear_zone_is_detached() -> None:
    assert not linear_zone(torch.rand(4, requires_grad=True), 0.5).requires_grad


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_constants_must_be_positive(value: float) -> None:
    for build in (
        lambda: SmoothL1(beta=value),
        lambda: Huber(delta=value),
        lambda: Charbonnier(eps=value),
        lambda: LogCosh(scale=value),
    ):
        with pytest.raises(ValueError, match="must be positive"):
            build()
    with pytest.raises(ValueError, match=r"inside \(0, 1\)"):
        Quantile(tau=value)


# windows, spectra, edges -----------------------------------------------------------------------


def structured_pair(size: int) -> tuple[Tensor, Tensor]:
    """A smooth image and a noisier one."""
    source = torch.Generator().manual_seed(0)
    noise, hr = torch.rand(2, 1, 1, size, size, generator=source, dtype=torch.float64)
    hr = nn.functional.avg_pool2d(hr, 5, 1, 2, count_include_pad=False)
    return hr + 0.1 * noise, hr


def test_ssim_loss_is_1_minus_skimage_inside() -> None:
    """A border of repeated values leaves torchmetrics nothing to reflect but them."""
    sr, hr = (nn.functional.pad(image, [12] * 4, value=0.5) for image in structured_pair(48))
    reference = structural_similarity(
        sr[0, 0].numpy(),
        hr[0, 0].numpy(),
        data_range=1.0,
        gaussian_weights=True,
        use_sample_covariance=False,
        full=True,
    )[1]
    assert SSIMLoss()(sr, hr).item() == pytest.approx(1 - reference.mean(), abs=1e-9)


def test_ms_ssim_loss() -> None:
    sr, hr = structured_pair(176)
    five = multiscale_structural_similarity_index_measure(sr, hr, data_range=1.0)  # Wang's own
    assert MSSSIMLoss()(sr, hr).item() == pytest.approx(1 - five.item(), abs=1e-12)
    one = structured_pair(20)
    assert MSSSIMLoss()(*one).item() == pytest.approx(SSIMLoss()(*one).item(), abs=1e-3)
    noise, clean = structured_pair(64)
    assert MSSSIMLoss()(noise, clean) < MSSSIMLoss()(2 * noise - clean, clean)


def test_ms_ssim_takes_as_many_scales_as_fit() -> None:
    fitting = {11: 1, 21: 1, 22: 2, 43: 2, 44: 3, 98: 3, 99: 4, 175: 4, 176: 5, 999: 5}
    assert {side: num_scales(side) for side in fitting} == fitting
    for side in list(fitting)[:-1]:
        assert MSSSIMLoss()(*structured_pair(side)).isfinite()
    with pytest.raises(ValueError, match="at least 11 pixels"):
        num_scales(10)


def test_ms_ssim_of_an_anticorrelated_image_has_a_finite_gradient() -> None:
    hr = torch.rand(1, 1, 96, 96)
    sr = (1 - hr).requires_grad_()
    loss = MSSSIMLoss()(sr, hr)
    loss.backward()
    assert loss.item() == 1
    assert sr.grad.isfinite().all()


def test_fft_l1_by_numpy_and_its_units() -> None:
    sr, hr = images(8)
    spectrum = np.abs(np.fft.rfft2((sr - hr).detach().numpy(), norm="ortho"))
    assert FFTL1()(sr, hr).item() == pytest.approx(spectrum.mean(), rel=1e-9)
    error = 0.1 * torch.randn(1, 1, 256, 256, generator=torch.Generator().manual_seed(0))
    assert FFTL1()(error, torch.zeros_like(error)).item() == pytest.approx(
        math.sqrt(math.pi) / 2 * 0.1, rel=0.01
    )


def test_gradient_l1_of_a_ramp_and_of_a_constant() -> None:
    hr = torch.rand(1, 3, 6, 10, dtype=torch.float64)
    # By hand: slope .02 along x, halved by the repeated border in 2 of 10 columns, 0 along y.
    ramp = hr + 0.02 * torch.arange(10)
    assert GradientL1()(ramp, hr).item() == pytest.approx(0.02 * 0.9 / 2)
    assert GradientL1()(hr + 0.3, hr).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("loss", WINDOWED, ids=str)
def test_autocast_changes_nothing(loss: nn.Module) -> None:
    sr, hr = (image.float() for image in structured_pair(32))
    expected = loss(sr, hr)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(sr, hr), expected)
    assert loss(sr.bfloat16(), hr).dtype == torch.float32
