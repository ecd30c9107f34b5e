"""How losses answer to outliers: shares, gradients, lines, and a fixed rate near the optimum."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from srtrain.losses.pixel import Charbonnier, Huber, LogCosh, Quantile, SmoothL1
from tests.minimise import descend, fit_line, line_of_least_deviations


def test_mse_and_its_gradient_by_hand() -> None:
    """Errors -.5, -.5, 2: (.25 + .25 + 4) / 3, and 2 r / 3."""
    output = torch.tensor([2.5, 3, 4], dtype=torch.float64, requires_grad=True)
    loss = nn.MSELoss()(output, torch.tensor([3, 3.5, 2], dtype=torch.float64))
    loss.backward()
    assert loss.item() == pytest.approx(1.5, abs=1e-12)
    assert output.grad.tolist() == pytest.approx([-1 / 3, -1 / 3, 4 / 3], abs=1e-12)


@pytest.mark.parametrize(
    ("loss", "gradient"),
    [  # by hand, each ÷ 3
        (nn.L1Loss(), [-1, -1, 1]),
        (SmoothL1(beta=1.0), [-0.5, -0.5, 1]),
        (SmoothL1(beta=1 / 9), [-1, -1, 1]),
        (Huber(delta=0.1), [-0.1, -0.1, 0.1]),
        (LogCosh(scale=1.0), [-math.tanh(0.5), -math.tanh(0.5), math.tanh(2)]),
        (Charbonnier(eps=1.5), [-1 / math.sqrt(10), -1 / math.sqrt(10), 0.8]),
        (Quantile(tau=0.9), [-0.9, -0.9, 0.1]),
    ],
    ids=str,
)
def test_gradients_by_hand(loss: nn.Module, gradient: list[float]) -> None:
    output = torch.tensor([2.5, 3, 4], dtype=torch.float64, requires_grad=True)
    loss(output, torch.tensor([3, 3.5, 2], dtype=torch.float64)).backward()
    assert output.grad.tolist() == pytest.approx([value / 3 for value in gradient], abs=1e-12)


# Ten predictions whose truth is 1: nine say 2, one says 1000. Errors 1 (nine times) and 999.
@pytest.mark.parametrize(
    ("loss", "value", "gradient"),
    [  # by hand: the share of the one in the loss, and in Σ |gradient|
        (nn.MSELoss(), 998001 / 998010, 999 / 1008),
        (nn.L1Loss(), 999 / 1008, 0.1),
        (SmoothL1(beta=1 / 9), (999 - 1 / 18) / (1008 - 10 / 18), 0.1),
        (SmoothL1(beta=10.0), 994 / (994 + 9 / 20), 1 / (1 + 0.9)),
        (Huber(delta=0.1), (999 - 0.05) / (1008 - 0.5), 0.1),
        (
            LogCosh(scale=1.0),
            (999 - math.log(2)) / (999 - math.log(2) + 9 * math.log(math.cosh(1))),
            1 / (1 + 9 * math.tanh(1)),
        ),
        (Charbonnier(eps=1e-3), 999 / 1008, 0.1),
        (Quantile(tau=0.9), 999 / 1008, 0.1),
    ],
    ids=str,
)
def test_one_of_ten_says_1000(loss: nn.Module, value: float, gradient: float) -> None:
    """Its share of a robust loss is hardly smaller; its share of the *gradient* is one tenth."""
    output = torch.tensor([2.0] * 9 + [1000.0], dtype=torch.float64, requires_grad=True)
    truth = torch.ones_like(output)
    each = torch.stack([loss(*pair) for pair in zip(output, truth, strict=True)])
    assert (each[-1] / each.sum()).item() == pytest.approx(value, abs=1e-6)
    loss(output, truth).backward()
    pulls = output.grad.abs()
    assert (pulls[-1] / pulls.sum()).item() == pytest.approx(gradient, abs=1e-6)


# A line 2 x + 1 through thirty points with an error of ± .1, five of which are wrong by -20.
X = torch.linspace(0, 10, 30, dtype=torch.float64)
CLEAN = 2 * X + 1 + 0.1 * torch.tensor([1.0, -1.0, -1.0, 1.0, 1.0, -1.0] * 5, dtype=torch.float64)
SPOILED = CLEAN - 20 * (torch.arange(30) >= 25)


def fitted_by_numpy(y: Tensor, x: Tensor = X) -> tuple[float, float]:
    slope, intercept = np.polyfit(x.numpy(), y.numpy(), 1)
    return float(slope), float(intercept)


def fitted_by_linprog(y: Tensor) -> tuple[float, float]:
    """Least absolute deviations as a linear program: y = a x + b + up - down, min Σ (up + down)."""
    n = len(y)
    equations = np.hstack([X.numpy()[:, None], np.ones((n, 1)), np.eye(n), -np.eye(n)])
    found = linprog(
        [0, 0, *[1] * 2 * n],
        A_eq=equations,
        b_eq=y.numpy(),
        bounds=[(None, None)] * 2 + [(0, None)] * 2 * n,
    )
    return float(found.x[0]), float(found.x[1])


def fitted_by_reweighting(y: Tensor, beta: float) -> tuple[float, float]:
    """Smooth L1 by Huber's iteration: weighted least squares, weight 1 / max(|r|, β)."""
    slope, intercept = fitted_by_numpy(y)
    for _ in range(2000):
        error = (y - slope * X - intercept).abs().numpy()
        weight = np.sqrt(1 / np.maximum(error, beta))
        slope, intercept = np.polyfit(X.numpy(), y.numpy(), 1, w=weight)
    return float(slope), float(intercept)


def test_mse_bends_to_five_outliers() -> None:
    """By numpy's polyfit: from slope 2.00 to .39, and no line through the 25 good points."""
    slope, intercept = fit_line(nn.MSELoss(), X, SPOILED)
    assert (slope, intercept) == pytest.approx(fitted_by_numpy(SPOILED), abs=1e-6)
    assert slope < 0.5
    assert (slope * X + intercept - CLEAN)[:25].abs().max() > 3


def test_mae_and_smooth_l1_hold_against_five_outliers() -> None:
    """By scipy's linear program, and by iteratively reweighted least squares."""
    mae = line_of_least_deviations(nn.L1Loss(), X, SPOILED)
    smooth = fit_line(SmoothL1(beta=1 / 9), X, SPOILED)
    assert mae == pytest.approx(fitted_by_linprog(SPOILED), abs=1e-6)
    assert smooth == pytest.approx(fitted_by_reweighting(SPOILED, 1 / 9), abs=1e-5)
    for line in (mae, smooth):
        assert line == pytest.approx((2, 1), abs=0.11)


def test_robust_is_what_lies_in_the_linear_zone() -> None:
    """A beta beyond every error is an MSE over 2 β, whatever its name."""
    error = (SPOILED - CLEAN).abs().max().item()
    wide = fit_line(SmoothL1(beta=2 * error), X, SPOILED)
    assert wide == pytest.approx(fitted_by_numpy(SPOILED), abs=1e-6)


def blob_and_two(shift: float) -> tuple[Tensor, Tensor]:
    """Four points close to the origin, one at (1, 1), one at (1 + shift, -1)."""
    x = torch.tensor([-0.1, -0.1, 0.1, 0.1, 1.0, 1.0 + shift], dtype=torch.float64)
    return x, torch.tensor([-0.1, 0.1, -0.1, 0.1, 1.0, -1.0], dtype=torch.float64)


@pytest.mark.parametrize("shift", [0.02, 0.01, 0.001])
def test_least_absolute_deviations_jump(shift: float) -> None:
    """By hand: of the two far points, the farther one is met exactly, however little farther."""
    before = line_of_least_deviations(nn.L1Loss(), *blob_and_two(-shift))
    after = line_of_least_deviations(nn.L1Loss(), *blob_and_two(shift))
    assert before == pytest.approx((1, 0), abs=1e-9)
    # Through (1 + shift, -1) and (-.1, .1).
    assert after[0] == pytest.approx(-1.1 / (1.1 + shift), abs=1e-9)


@pytest.mark.parametrize("shift", [0.02, 0.01, 0.001])
def test_mse_and_smooth_l1_move_continuously(shift: float) -> None:
    """MSE by numpy. Smooth L1 by hand: the far ones pull by ∓shift, the blob by Σ x² / β = .36."""
    points = {sign: blob_and_two(sign * shift) for sign in (-1, 1)}
    mse = {sign: fit_line(nn.MSELoss(), x, y)[0] for sign, (x, y) in points.items()}
    smooth = {sign: fit_line(SmoothL1(beta=1 / 9), x, y)[0] for sign, (x, y) in points.items()}
    for sign, (x, y) in points.items():
        assert mse[sign] == pytest.approx(fitted_by_numpy(y, x)[0], abs=1e-7)
        assert smooth[sign] == pytest.approx(-sign * shift / 0.36, abs=1e-6)
    assert 0 < mse[-1] - mse[1] < 2 * shift
    assert 0 < smooth[-1] - smooth[1] < 6 * shift


# One value, plain gradient descent at the fixed rate .1 from an error of 1.03.


def test_mse_settles_at_a_fixed_rate() -> None:
    """By hand: each step leaves 1 - 2 lr of the error."""
    path = descend(nn.MSELoss(), start=1.03, lr=0.1, steps=60)
    assert path == pytest.approx([1.03 * 0.8**step for step in range(61)], abs=1e-12)
    assert abs(path[-1]) < 2e-6


@pytest.mark.parametrize("loss", [nn.L1Loss(), Charbonnier(eps=1e-6)], ids=str)
def test_mae_oscillates_at_a_fixed_rate(loss: nn.Module) -> None:
    """By hand: every step is .1 long. It passes .03 and goes between there and -.07 forever."""
    path = descend(loss, start=1.03, lr=0.1, steps=60)
    steps = [abs(b - a) for a, b in itertools.pairwise(path)]
    assert steps == pytest.approx([0.1] * 60, abs=1e-6)
    assert path[-4:] == pytest.approx([-0.07, 0.03, -0.07, 0.03], abs=1e-6)


@pytest.mark.parametrize("beta", [1 / 9, 0.06])
def test_smooth_l1_settles_at_a_fixed_rate(beta: float) -> None:
    """By hand: inside β each step leaves 1 - lr / β of the error, here .1 or -2 / 3."""
    path = descend(SmoothL1(beta=beta), start=1.03, lr=0.1, steps=60)
    assert path[10] == pytest.approx(0.03, abs=1e-9)
    assert path[11:] == pytest.approx(
        [0.03 * (1 - 0.1 / beta) ** step for step in range(1, 51)], abs=1e-9
    )
    assert abs(path[-1]) < 1e-9


def test_smooth_l1_settles_only_below_two_beta() -> None:
    """By hand: at lr > 2 β the core itself throws the error out, as MAE does everywhere."""
    path = descend(SmoothL1(beta=0.04), start=1.03, lr=0.1, steps=200)
    assert min(abs(error) for error in path[-20:]) > 0.02


# The scale trap: on images in [0, 1], errors are some hundredths.


@pytest.mark.parametrize(
    ("loss", "factor"),
    [(SmoothL1(beta=1.0), 0.5), (Huber(delta=1.0), 0.5), (LogCosh(scale=1.0), 0.5)],
    ids=str,
)
def test_stock_constants_make_half_an_mse_of_a_robust_loss(loss: nn.Module, factor: float) -> None:
    """r² / 2 exactly, log-cosh within r² / 6 of it; one gray level is another loss altogether."""
    source = torch.Generator().manual_seed(0)
    hr = torch.rand(1, 3, 32, 32, generator=source, dtype=torch.float64)
    sr = hr + 0.05 * torch.randn(hr.shape, generator=source, dtype=torch.float64)
    gradients = {}
    for name, term in {"stock": loss, "level": type(loss)(), "mse": nn.MSELoss()}.items():
        output = sr.clone().requires_grad_()
        term(output, hr).backward()
        gradients[name] = output.grad.flatten()
    assert loss(sr, hr).item() == pytest.approx(factor * nn.MSELoss()(sr, hr).item(), rel=0.01)
    cosine = nn.functional.cosine_similarity
    assert cosine(gradients["stock"], gradients["mse"], dim=0) > 0.9999
    assert cosine(gradients["level"], gradients["mse"], dim=0) < 0.9  # E|r| / √E r² = .798 for MAE
    assert loss.linear_share(sr, hr) == 0
    assert type(loss)().linear_share(sr, hr) > 0.9
