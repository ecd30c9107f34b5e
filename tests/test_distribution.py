"""Losses of several maps: their values, their minimisers, what they refuse."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from srtrain.losses.distribution import GaussianNLL, LaplaceNLL, Pinball
from tests.test_losses import POPULATION

HR = POPULATION.view(-1, 1, 1, 1).expand(-1, 3, 1, 1)


def settled(loss: nn.Module, start: list[float], *, positive_from: int) -> list[float]:
    """Where gradient descent on constant maps ends; maps from ``positive_from`` on by their log."""
    maps = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([maps], lr=0.2)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.985)
    for _ in range(700):
        values = torch.cat([maps[:positive_from], maps[positive_from:].exp()])
        output = values.repeat_interleave(3).view(1, -1, 1, 1).expand(len(HR), -1, -1, -1)
        optimizer.zero_grad()
        loss(output, HR).backward()
        optimizer.step()
        scheduler.step()
    return [*maps[:positive_from].tolist(), *maps[positive_from:].exp().tolist()]


@pytest.mark.parametrize(
    ("loss", "expected"),
    [  # of the law {.2: .60, .5: .25, .9: .10, 8: .05}, by hand
        (GaussianNLL(beta=0.0), [0.735, math.sqrt(3.3675 - 0.735**2)]),
        (GaussianNLL(beta=0.5), [0.735, math.sqrt(3.3675 - 0.735**2)]),
        (GaussianNLL(beta=1.0), [0.735, math.sqrt(3.3675 - 0.735**2)]),
        (LaplaceNLL(), [0.2, 0.535]),
    ],
    ids=["gaussian", "half beta", "beta one", "laplace"],
)
def test_likelihoods_find_the_law(loss: nn.Module, expected: list[float]) -> None:
    assert settled(loss, [1.0, 0.0], positive_from=1) == pytest.approx(expected, abs=1e-3)


def test_pinball_finds_the_quantiles() -> None:
    taus = (0.3, 0.5, 0.7, 0.9, 0.97)
    found = settled(Pinball(taus=taus), [1.0] * 5, positive_from=5)
    assert found == pytest.approx([0.2, 0.2, 0.5, 0.9, 8.0], abs=1e-3)


@pytest.mark.parametrize(
    ("loss", "law"),
    [(GaussianNLL(beta=0.0), stats.norm), (LaplaceNLL(), stats.laplace)],
    ids=["gaussian", "laplace"],
)
def test_values_are_nats_per_gray_level(
    loss: nn.Module,
    law: stats.rv_continuous,  # type: ignore[name-defined]
) -> None:
    draw = torch.Generator().manual_seed(3)
    image, hr = torch.rand((2, 2, 3, 5, 7), generator=draw, dtype=torch.float64)
    scale = 0.01 + 0.1 * torch.rand((2, 3, 5, 7), generator=draw, dtype=torch.float64)
    density = law.logpdf(hr.numpy(), loc=image.numpy(), scale=scale.numpy())  # SciPy's
    expected = float(-(density - math.log(255)).mean())
    assert float(loss(torch.cat([image, scale], 1), hr)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("missing", "expected"),
    [(0.2, (0.01 + 0.1 + 0.19) / 3), (-0.2, (0.19 + 0.1 + 0.01) / 3), (0.0, 0.0)],  # by hand
)
def test_pinball_values(missing: float, expected: float) -> None:
    hr = torch.full((2, 3, 4, 4), 0.5, dtype=torch.float64)
    output = (hr - missing).repeat(1, 3, 1, 1)
    assert float(Pinball()(output, hr)) == pytest.approx(expected, abs=1e-12)


def test_pinball_of_one_map_is_the_quantile_loss() -> None:
    from srtrain.losses.pixel import Quantile

    sr, hr = torch.rand(2, 2, 3, 6, 6)
    assert torch.allclose(Pinball(taus=[0.9])(sr, hr), Quantile(tau=0.9)(sr, hr))


@pytest.mark.parametrize(
    ("beta", "power"), [(0.0, 2.0), (0.5, 1.0), (1.0, 0.0)], ids=["plain", "half", "as MSE"]
)
def test_beta_sets_how_much_hard_pixels_count(beta: float, power: float) -> None:
    """The gradient of the mean is that of MSE ÷ σ^power."""
    hr = torch.zeros(1, 3, 1, 2, dtype=torch.float64)
    mean = torch.full_like(hr, 0.1, requires_grad=True)
    sigma = torch.tensor([0.01, 0.2], dtype=torch.float64).expand(1, 3, 1, 2)
    loss = GaussianNLL(beta=beta)(torch.cat([mean, sigma], 1), hr)
    (gradient,) = torch.autograd.grad(loss, mean)
    assert torch.allclose(gradient, 0.1 / sigma**power / hr.numel())


@pytest.mark.parametrize("loss", [Pinball(), GaussianNLL(), LaplaceNLL()], ids=str)
def test_maps_of_another_head_are_refused(loss: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"loss\.head"):
        loss(torch.rand(1, 12, 4, 4), torch.rand(1, 3, 4, 4))


@pytest.mark.parametrize("taus", [[], [0.0, 0.5], [0.5, 1.0]])
def test_impossible_quantiles(taus: list[float]) -> None:
    with pytest.raises(ValueError, match="taus"):
        Pinball(taus=taus)


def test_beta_outside() -> None:
    with pytest.raises(ValueError, match="beta"):
        GaussianNLL(beta=1.5)


@pytest.mark.parametrize("loss", [Pinball(), GaussianNLL(), LaplaceNLL()], ids=str)
def test_finite_at_extremes(loss: nn.Module) -> None:
    """Exact, saturated, and far off: as a head gives them, with the rounding's floor."""
    from srtrain.networks.heads import positive

    hr = torch.tensor([0.0, 1.0, 1.0]).view(1, 3, 1, 1)
    image = torch.tensor([0.0, 1.0, -300.0]).view(1, 3, 1, 1).requires_grad_()
    width = positive(torch.tensor([-50.0, -1e4, -1e4]).view(1, 3, 1, 1))
    parts: list[Tensor] = [image, width] if not isinstance(loss, Pinball) else [image] * 3
    value = loss(torch.cat(parts, 1), hr)
    (gradient,) = torch.autograd.grad(value, image)
    assert value.isfinite()
    assert gradient.isfinite().all()
