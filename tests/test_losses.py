"""Losses against hand-made values, their minimisers, and their gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from srtrain.losses.pixel import Charbonnier, Huber, LogCosh, Quantile, SmoothL1, linear_zone

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
    sr, hr = torch.rand(2, 1, 3, size, size, generator=source, dtype=torch.float64)
    return sr.requires_grad_(), hr


@pytest.mark.parametrize(
    "loss", [SmoothL1(), Huber(), Charbonnier(), LogCosh(), Quantile(tau=0.9)], ids=str
)
def test_gradient_and_shape_guard(loss: nn.Module) -> None:
    sr, hr = images()
    assert torch.autograd.gradcheck(loss, (sr, hr))
    with pytest.raises(ValueError, match="must have one shape"):
        loss(sr, hr[..., :1])


@pytest.mark.parametrize("loss", [SmoothL1(), Huber(), Charbonnier(), LogCosh()], ids=str)
def test_gradient_is_finite_where_the_error_is_zero(loss: nn.Module) -> None:
    hr = torch.rand(1, 3, 4, 4)
    sr = hr.clone().requires_grad_()
    loss(sr, hr).backward()
    torch.testing.assert_close(sr.grad, torch.zeros_like(hr))


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
