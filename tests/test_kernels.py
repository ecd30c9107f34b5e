"""Blur kernels, and what a pass of a blind degradation draws."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from kornia.filters import get_gaussian_kernel2d

from srtrain import rng
from srtrain.degradation import kernels
from srtrain.degradation.parameters import (
    NUM_UNIFORMS,
    Drawn,
    Pass,
    between,
    pick,
    whole_between,
)
from srtrain.degradation.resample import MODES

RADIUS = 40


def moments(kernel: torch.Tensor) -> torch.Tensor:
    """Covariance of (x, y) under a kernel that sums to 1."""
    axis = torch.arange(kernel.shape[-1], dtype=torch.float64) - kernel.shape[-1] // 2
    xx = (kernel.sum(0) * axis**2).sum()
    yy = (kernel.sum(1) * axis**2).sum()
    xy = (kernel * axis[:, None] * axis[None, :]).sum()
    return torch.stack([torch.stack([xx, xy]), torch.stack([xy, yy])])


def bell(sigma: tuple[float, float], angle: float, *, beta: float = 1.0) -> torch.Tensor:
    form = kernels.quadratic_form(
        RADIUS,
        sigma=torch.tensor([sigma], dtype=torch.float64),
        angle=torch.tensor([angle], dtype=torch.float64),
    )
    made = kernels.generalised_gaussian(form, torch.tensor([beta], dtype=torch.float64))
    return kernels.trimmed(made, torch.tensor([RADIUS]))[0]


@pytest.mark.parametrize("sigma", [(1.0, 1.0), (3.0, 1.2), (0.9, 4.0)])
@pytest.mark.parametrize("degrees", [0, 30, 90, -120])
def test_gaussian_has_its_covariance(sigma: tuple[float, float], degrees: float) -> None:
    """``R diag(σ²) Rᵀ``; sampling at whole pixels changes it by less than 1e-6 from σ 0.9 on."""
    angle = math.radians(degrees)
    turn = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]],
        dtype=torch.float64,
    )
    expected = turn @ torch.diag(torch.tensor(sigma, dtype=torch.float64) ** 2) @ turn.T
    torch.testing.assert_close(moments(bell(sigma, angle)), expected, atol=1e-4, rtol=0)


def test_gaussian_is_kornias_where_kornia_has_it() -> None:
    sigma = torch.tensor([[1.2, 3.0]], dtype=torch.float64)  # kornia's order: y, x
    expected = get_gaussian_kernel2d(2 * RADIUS + 1, sigma)[0]
    torch.testing.assert_close(bell((3.0, 1.2), 0.0), expected)


def test_beta_shapes_the_bell() -> None:
    """By hand, at one σ from the centre (form 1) and at two (form 4)."""
    form, beta = torch.tensor([[[1.0, 4.0]]]), torch.tensor([2.0])
    flat = kernels.plateau(form, beta)
    peaked = kernels.generalised_gaussian(form, beta)
    torch.testing.assert_close(flat, torch.tensor([[[1 / 2, 1 / 17]]]))
    torch.testing.assert_close(peaked, torch.tensor([[[math.exp(-0.5), math.exp(-8.0)]]]))


@pytest.mark.parametrize("cutoff", [math.pi / 5, math.pi / 3, math.pi / 2])
def test_sinc_passes_up_to_its_cutoff(cutoff: float) -> None:
    kernel = kernels.trimmed(
        kernels.sinc(RADIUS, torch.tensor([cutoff], dtype=torch.float64)), torch.tensor([RADIUS])
    )[0]
    spectrum = torch.fft.fft2(torch.fft.ifftshift(kernel), s=kernel.shape).real
    omega = 2 * math.pi * torch.fft.fftfreq(len(kernel), dtype=torch.float64)
    radius = torch.hypot(omega[:, None], omega[None, :])
    assert (spectrum[radius < 0.8 * cutoff] - 1).abs().max() < 0.15  # Gibbs ripples of the cut
    assert spectrum[radius > 1.2 * cutoff].abs().max() < 0.15
    edge = spectrum[(radius - cutoff).abs() < 0.05]
    assert 0.35 < edge.mean() < 0.65


def test_identity_and_trimming() -> None:
    assert kernels.identity(2).sum() == 1
    assert kernels.identity(2)[2, 2] == 1
    cut = kernels.trimmed(torch.ones(2, 7, 7), torch.tensor([1, 3]))
    assert cut[0].count_nonzero() == 9
    torch.testing.assert_close(cut.sum(dim=(1, 2)), torch.ones(2))


def draw(count: int, **changes: Any) -> Drawn:  # noqa: ANN401
    uniforms = rng.generator(7, 0, "test").random((count, NUM_UNIFORMS))
    return Pass(**changes).draw(torch.from_numpy(uniforms))


@pytest.fixture(scope="module")
def many() -> Drawn:
    return draw(4000)


def test_drawn_kernels_keep_brightness_and_place(many: Drawn) -> None:
    made = many.kernels
    torch.testing.assert_close(made.sum(dim=(1, 2)), torch.ones(4000, dtype=torch.float64))
    torch.testing.assert_close(made, made.flip(1, 2))  # no shift


def test_all_sizes_are_drawn() -> None:
    wide = draw(400, sigma=(3.0, 3.0), kernel_weights={"iso": 1.0}, sinc_probability=0.0).kernels
    sizes = (wide.amax(1) > 0).sum(1)
    assert set(sizes.tolist()) == set(range(7, 22, 2))


def binomial(count: int, p: float) -> float:
    """Five standard deviations of a share: one failure in two million draws."""
    return 5 * math.sqrt(p * (1 - p) / count)


def test_drawn_shares_are_the_papers(many: Drawn) -> None:
    count = len(many.noises)
    shares = {
        0.2: (many.zoom > 1).double().mean(),
        0.7: (many.zoom < 1).double().mean(),
        0.1: (many.kernels.amin(dim=(1, 2)) < 0).double().mean(),  # only a sinc is negative
        0.5: torch.tensor([noise.gaussian for noise in many.noises]).double().mean(),
        0.4: torch.tensor([noise.gray for noise in many.noises]).double().mean(),
        1 / 3: (many.modes == MODES.index("area")).double().mean(),
    }
    for expected, share in shares.items():
        assert abs(float(share) - expected) < binomial(count, expected)


def test_drawn_shapes_are_as_turned_as_the_papers(many: Drawn) -> None:
    """aniso .25 + generalised .03 + plateau .03, of the nine tenths that are no sinc."""
    turned = (many.kernels - many.kernels.mT).abs().amax(dim=(1, 2)) > 1e-9
    assert abs(float(turned.double().mean()) - 0.9 * 0.31) < binomial(4000, 0.279)


@pytest.mark.parametrize(
    ("shape", "low", "high"), [("generalised_iso", 0.5, 4.0), ("plateau_iso", 1.0, 2.0)]
)
def test_drawn_beta_is_below_and_above_1_equally_often(shape: str, low: float, high: float) -> None:
    """Read off beside the centre, where the form is 1 / σ² = 1 / 4; uniform in either half."""
    bells = draw(4000, kernel_weights={shape: 1.0}, sigma=(2.0, 2.0), sinc_probability=0.0).kernels
    beside = bells[:, 10, 11] / bells[:, 10, 10]
    power = -2 * beside.log() if shape == "generalised_iso" else 1 / beside - 1
    beta = power.log() / math.log(1 / 4)
    above = beta > 1 + 1e-6
    assert abs(float(above.double().mean()) - 0.5) < binomial(4000, 0.5)
    for half, (start, end) in ((beta[~above], (low, 1.0)), (beta[above], (1.0, high))):
        assert start - 1e-6 <= half.min() <= half.max() <= end + 1e-6
        spread = (end - start) / math.sqrt(12 * len(half))
        assert abs(float(half.mean()) - (start + end) / 2) <= 5 * spread + 1e-6


def test_drawn_sigma_is_uniform() -> None:
    """By the second moment, of Gaussians that the largest kernel holds: σ = 1 … 2 of 10 pixels."""
    only = {"kernel_size": (21, 21), "kernel_weights": {"iso": 1.0}, "sinc_probability": 0.0}
    sigma = torch.stack(
        [moments(k)[0, 0].sqrt() for k in draw(1000, sigma=(1.0, 2.0), **only).kernels]
    )
    assert 0.999 < sigma.min() < 1.02
    assert 1.98 < sigma.max() < 2.001
    assert abs(float(sigma.mean()) - 1.5) < 5 / math.sqrt(12 * 1000)


def test_drawn_values_fill_their_ranges(many: Drawn) -> None:
    gaussian = [noise.strength for noise in many.noises if noise.gaussian]
    poisson = [noise.strength for noise in many.noises if not noise.gaussian]
    ranges: list[tuple[Any, float, float]] = [
        (gaussian, 1, 30),
        (poisson, 0.05, 3),
        (many.quality, 30, 95),
        (many.zoom, 0.15, 1.5),
    ]
    for values, low, high in ranges:
        found = torch.as_tensor(values, dtype=torch.float64)
        assert low <= found.min() < low + 0.02 * (high - low)
        assert high >= found.max() > high - 0.02 * (high - low)
    assert torch.equal(many.quality, many.quality.round())


def test_isotropic_kernels_have_one_sigma() -> None:
    weights = {"iso": 1.0}
    for kernel in draw(50, kernel_weights=weights, sinc_probability=0.0).kernels:
        torch.testing.assert_close(kernel, kernel.T)
    turned = draw(50, kernel_weights={"aniso": 1.0}, sinc_probability=0.0).kernels
    assert not torch.allclose(turned, turned.mT)


def test_probability_zero_is_never() -> None:
    still = draw(
        50, blur_probability=0.0, resize_weights={"keep": 1.0}, resize_modes={"bilinear": 2.0}
    )
    assert torch.equal(still.kernels, kernels.identity(10).expand(50, -1, -1))
    assert torch.equal(still.zoom, torch.ones(50, dtype=torch.float64))
    assert set(still.modes.tolist()) == {MODES.index("bilinear")}


def test_picking() -> None:
    u = torch.tensor([0.0, 0.24, 0.26, 0.99], dtype=torch.float64)
    assert pick(u, {"b": 1.0, "a": 3.0}, ("b", "a", "c")).tolist() == [0, 0, 1, 1]
    assert between(u, (1.0, 3.0)).tolist() == pytest.approx([1.0, 1.48, 1.52, 2.98])
    assert whole_between(u, (7, 21)).tolist() == [3, 4, 5, 10]  # 8 radii, by hand


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"sigma": (3.0, 0.2)}, r"sigma must be \[low, high\]"),
        ({"jpeg_quality": (30,)}, "jpeg_quality"),
        ({"jpeg_quality": (0, 95)}, r"in 1 … 100, got \[0, 95\]"),
        ({"sigma": (0.0, 3.0)}, "sigma must be"),
        ({"sinc_cutoff": (0.3, 1.2)}, "sinc_cutoff must be"),
        ({"gaussian_sigma": (-1.0, 3.0)}, "from 0 on"),
        ({"blur_probability": 1.2}, r"blur_probability = 1.2 must lie in 0 … 1"),
        # One half is drawn below 1 and the other above: [2, 4] would give values in 1 … 2 as well.
        ({"beta_generalised": (2.0, 4.0)}, "beta_generalised must hold 1"),
        ({"resize_range": (1.2, 1.5)}, "resize_range must hold 1"),
        ({"kernel_weights": {"isotropic": 1.0}}, "kernel_weights must weigh iso, aniso"),
        ({"resize_weights": {"up": 0.0}}, "not all 0"),
        ({"resize_modes": {"area": -1.0, "bilinear": 2.0}}, "resize_modes"),
    ],
)
def test_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Pass(**wrong)
