"""What each loss predicts where several answers are right: numerical minimisers, closed forms.

Every closed form is derived beside its number and shares nothing with `tests.minimise`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from srtrain.losses.distribution import GaussianNLL, LaplaceNLL, Pinball
from srtrain.losses.pixel import Charbonnier, Huber, LogCosh, Quantile, SmoothL1
from tests.conftest import ROOT
from tests.minimise import LAW, minimiser, minimisers, slope_at, smooth_minimum

if TYPE_CHECKING:
    from collections.abc import Sequence

LEVEL = 1 / 255


def log_cosh_root(scale: float) -> float:
    """``Σ p tanh((c - y) / s) = 0`` as a polynomial: tanh = (z - a) / (z + a), z = e^{2c/s}.

    Solved by numpy's companion matrix; z has exactly one root between the smallest and largest a.
    """
    masses, values = (0.6, 0.25, 0.1, 0.05), np.exp(2 * np.array([0.2, 0.5, 0.9, 8.0]) / scale)
    total = np.poly1d([0.0])
    for i, mass in enumerate(masses):
        term = np.poly1d([mass, -mass * values[i]])
        for j in set(range(4)) - {i}:
            term *= np.poly1d([1.0, values[j]])
        total += term
    inside = [z.real for z in total.roots if abs(z.imag) < 1e-6 and 0 < z.real < values[3]]
    (root,) = [z for z in inside if z > values[0]]
    return scale / 2 * math.log(root)


@dataclass(frozen=True)
class Case:
    loss: nn.Module
    closed_form: float
    published: float  # three digits, computed with scipy.optimize for science.md §1


# The law {.2: .60, .5: .25, .9: .10, 8: .05}. A "core" holds the targets within β of c.
DISCRETE = [
    # Σ p y = .12 + .125 + .09 + .4
    Case(nn.MSELoss(), 0.735, 0.735),
    # the first value with P(y ≤ value) ≥ 1/2
    Case(nn.L1Loss(), 0.2, 0.200),
    # core {.2}: .60 (c - .2) / β = .40
    Case(SmoothL1(beta=1 / 9), 0.2 + 0.4 / 0.6 / 9, 0.274),
    Case(Huber(delta=0.1), 0.2 + 0.4 / 0.6 * 0.1, 0.267),
    # core {.2, .5, .9}: .95 c - (.12 + .125 + .09) = .05
    Case(SmoothL1(beta=1.0), (0.12 + 0.125 + 0.09 + 0.05) / 0.95, 0.405),
    Case(LogCosh(scale=1.0), log_cosh_root(1.0), 0.403),
    # .60 t / √(t² + ε²) = .40, up to ε²: t = 2ε / √5
    Case(Charbonnier(eps=1e-3), 0.2 + 2e-3 / math.sqrt(5), 0.201),
    # the first value with P(y ≤ value) ≥ τ: P is .60, .85, .95, 1
    Case(Quantile(tau=0.9), 0.9, 0.900),
    Case(Quantile(tau=0.97), 8.0, 8.000),
    Case(Quantile(tau=0.5), 0.2, 0.200),
    # as configured, at one gray level: all but the median
    Case(SmoothL1(), 0.2 + 0.4 / 0.6 * LEVEL, 0.203),
    Case(Huber(), 0.2 + 0.4 / 0.6 * LEVEL, 0.203),
    Case(Charbonnier(), 0.2 + 2e-3 / math.sqrt(5), 0.201),
    # .60 tanh(t) = .40
    Case(LogCosh(), 0.2 + math.atanh(0.4 / 0.6) * LEVEL, 0.203),
]


@pytest.mark.parametrize("case", DISCRETE, ids=lambda case: str(case.loss))
def test_discrete_law(case: Case) -> None:
    found = minimiser(case.loss, LAW)
    assert found == pytest.approx(case.closed_form, abs=1e-5)
    assert found == pytest.approx(case.published, abs=6e-4)
    # Nothing between was missed: the derivative has the sign of the way back on both sides.
    assert slope_at(case.loss, found - 1e-3, LAW) < 0 < slope_at(case.loss, found + 1e-3, LAW)


def test_every_configured_pixel_loss_is_here() -> None:
    terms = OmegaConf.load(ROOT / "conf/loss/terms.yaml").terms
    configured = {
        term._target_.rpartition(".")[2] for name, term in terms.items() if "pixel" in name
    }
    assert configured
    assert configured <= {type(case.loss).__name__ for case in DISCRETE}


# Two modes, as an edge that may lie on either side of a pixel.
BIMODAL = torch.tensor([-1.0] * 4 + [1.0] * 4, dtype=torch.float64)


@pytest.mark.parametrize(
    ("loss", "low", "high"),
    [
        (nn.MSELoss(), 0.0, 0.0),
        (nn.L1Loss(), -1.0, 1.0),  # one pull up, one down: any point between
        (Quantile(tau=0.5), -1.0, 1.0),
        (Quantile(tau=0.05), -1.0, -1.0),
        (Quantile(tau=0.95), 1.0, 1.0),
        # Rounded kinks join the two pulls: flat wherever both targets are in the linear zone.
        (SmoothL1(beta=1 / 9), -1 + 1 / 9, 1 - 1 / 9),
        (Huber(delta=0.5), -0.5, 0.5),
        (SmoothL1(beta=1.5), 0.0, 0.0),  # both in the core everywhere between: the mean
        (Charbonnier(eps=0.1), 0.0, 0.0),  # strictly convex and symmetric
        (LogCosh(scale=1.0), 0.0, 0.0),
    ],
    ids=str,
)
def test_bimodal(loss: nn.Module, low: float, high: float) -> None:
    """By hand. No loss of a single pixel prefers -1 *or* 1, the two answers that exist."""
    assert minimisers(loss, BIMODAL) == pytest.approx((low, high), abs=1e-6)


# 90 % of the targets at 150, 10 % at 0, 1, … 30, in gray levels.
SKEWED = torch.tensor([*range(31), *[150] * 279], dtype=torch.float64) / 255


@pytest.mark.parametrize(
    ("loss", "level"),
    [  # by hand; 15 is the mean of 0 … 30. The ratio of the pulls is .1 / .9 = 1 / 9.
        (nn.L1Loss(), 150.0),
        (nn.MSELoss(), 0.9 * 150 + 0.1 * 15),  # 136.5: where no target is
        (SmoothL1(), 150 - 1 / 9),  # β = 1 level
        (SmoothL1(beta=1.0), 136.5),  # the scale trap: at β = 255 levels it is half an MSE
        (Huber(delta=9 * LEVEL), 150 - 9 / 9),
        (LogCosh(), 150 - math.atanh(1 / 9)),
        (Charbonnier(eps=LEVEL), 150 - 1 / math.sqrt(80)),  # t / √(t² + 1) = 1 / 9
        (Quantile(tau=0.5), 150.0),
        (Quantile(tau=0.05), 15.0),  # P(y ≤ 15) = 16 / 310 = .0516, P(y ≤ 14) = .0484
        (Quantile(tau=0.95), 150.0),
    ],
    ids=str,
)
def test_nine_tenths_at_150(loss: nn.Module, level: float) -> None:
    assert minimiser(loss, SKEWED) * 255 == pytest.approx(level, abs=1e-3)


# Several maps: bands and likelihoods. One number per map, everywhere; targets as an RGB row.


def of_maps(loss: nn.Module, maps: Sequence[Tensor], targets: Tensor) -> Tensor:
    output = torch.cat([value.expand(1, 3, 1, len(targets)) for value in maps], dim=1)
    value: Tensor = loss(output, targets.expand(1, 3, 1, -1))
    return value


@pytest.mark.parametrize(
    ("targets", "quantiles"),
    [  # by hand: P is .60, .85, .95, 1; and half of -1, half of 1
        (LAW, {0.05: 0.2, 0.5: 0.2, 0.9: 0.9, 0.97: 8.0}),
        (BIMODAL, {0.05: -1.0, 0.45: -1.0, 0.95: 1.0}),
    ],
    ids=["law", "bimodal"],
)
def test_pinball_maps_are_quantiles(targets: Tensor, quantiles: dict[float, float]) -> None:
    """Each map is moved alone; the others lie at their own answers."""
    loss = Pinball(taus=list(quantiles))
    answers = [torch.tensor(value).double() for value in quantiles.values()]
    for index, answer in enumerate(answers):
        for side in (-1e-3, 1e-3):
            maps = [*answers[:index], answer + side, *answers[index + 1 :]]
            assert of_maps(loss, maps, targets) > of_maps(loss, answers, targets) + 1e-6


@pytest.mark.parametrize(
    ("targets", "mean", "variance"),
    [  # by hand; the law's: Σ p y² - .735² = .024 + .0625 + .081 + 3.2 - .540225
        (BIMODAL, 0.0, 1.0),  # still no plausible pixel, but it says so
        (LAW, 0.735, 2.827275),
    ],
    ids=["bimodal", "law"],
)
def test_gaussian_likelihood_is_mean_and_variance(
    targets: Tensor, mean: float, variance: float
) -> None:
    def nll(maps: Tensor) -> Tensor:
        return of_maps(GaussianNLL(beta=0.0), [maps[0], maps[1].exp()], targets)

    found = smooth_minimum(nll, (0.3, 0.1))
    assert (found[0], math.exp(2 * found[1])) == pytest.approx((mean, variance), abs=1e-5)
    # Weights that are held fixed do not move the point where the gradient is zero.
    maps = torch.tensor([mean, math.sqrt(variance)], dtype=torch.float64, requires_grad=True)
    of_maps(GaussianNLL(beta=0.5), list(maps), targets).backward()
    assert maps.grad.abs().max() < 1e-9


@pytest.mark.parametrize("centre", [-1.0, -0.4, 0.0, 1.0])
def test_laplace_likelihood_of_two_modes_has_scale_1_wherever_between(centre: float) -> None:
    """b = E|y - m| = ((1 + m) + (1 - m)) / 2 = 1 for every m between, by hand."""
    median = torch.tensor(centre, dtype=torch.float64)
    (log_scale,) = smooth_minimum(
        lambda maps: of_maps(LaplaceNLL(), [median, maps[0].exp()], BIMODAL), (0.7,)
    )
    assert math.exp(log_scale) == pytest.approx(1, abs=1e-6)


def test_laplace_likelihood_of_the_law_is_median_and_deviation() -> None:
    """Median .2; E|y - .2| = .25 · .3 + .10 · .7 + .05 · 7.8 = .535, by hand."""
    answer = torch.tensor([0.2, 0.535], dtype=torch.float64)
    best = of_maps(LaplaceNLL(), list(answer), LAW)
    for shift in torch.tensor([[-1e-3, 0], [1e-3, 0], [0, -1e-3], [0, 1e-3]]).double():
        assert of_maps(LaplaceNLL(), list(answer + shift), LAW) > best + 1e-7


# Whole images: three equally likely ones, of which each shows one bright pixel elsewhere.
IMAGES = torch.eye(3, dtype=torch.float64).view(3, 1, 1, 3)


@pytest.mark.parametrize(
    ("loss", "image"),
    [  # by hand, pixel by pixel: a third of the images are bright there
        (nn.MSELoss(), [1 / 3] * 3),  # gray
        (nn.L1Loss(), [0.0] * 3),  # black: the *marginal* median, one that never occurs
        (Quantile(tau=0.9), [1.0] * 3),  # all bright
        (SmoothL1(beta=1 / 9), [0.5 / 9] * 3),  # 2 c / β = 1
    ],
    ids=str,
)
def test_a_pixel_loss_predicts_pixels_and_no_image(loss: nn.Module, image: list[float]) -> None:
    found = [minimiser(loss, IMAGES[..., pixel]) for pixel in range(3)]
    assert found == pytest.approx(image, abs=1e-6)
    nearest = (IMAGES.flatten(1) - torch.tensor(found).double()).abs().amax(dim=1).min()
    assert nearest > 0.5, "it is one of the images"
