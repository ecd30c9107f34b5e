"""Schedules: golden values by hand from the formulas; another budget rescales them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch

from srtrain.training.schedules import constant, cosine, multistep

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.optim.lr_scheduler import LambdaLR


def _rates(schedule: Callable[..., LambdaLR], *, max_steps: int, **options: object) -> list[float]:
    """The rate used at each step, for a base rate of 1; one more is what Lightning leaves."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = schedule(optimizer, max_steps=max_steps, **options)
    rates = []
    for _ in range(max_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return [*rates, optimizer.param_groups[0]["lr"]]


@pytest.mark.parametrize(
    ("schedule", "options", "expected"),
    [  # by hand, 8 steps and what comes after them
        (constant, {"warmup_share": 0.0}, [1.0] * 9),
        (constant, {"warmup_share": 0.25}, [1 / 3, 2 / 3, *[1.0] * 7]),
        (
            cosine,
            {"warmup_share": 0.0, "final_share": 0.0},
            [0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(9)],
        ),
        (
            cosine,
            {"warmup_share": 0.5, "final_share": 0.2},
            # a quarter of a half turn apart: (1 + 1/√2) / 2 = .853553
            [0.2, 0.4, 0.6, 0.8, 1.0, 0.2 + 0.8 * 0.853553, 0.6, 0.2 + 0.8 * 0.146447, 0.2],
        ),
        (
            multistep,
            {"warmup_share": 0.0, "milestones": [0.5, 0.75], "gamma": 0.5},
            [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.25],
        ),
        (
            multistep,
            {"warmup_share": 0.0, "milestones": [], "gamma": 0.5},
            [1.0] * 9,
        ),
    ],
)
def test_golden(
    schedule: Callable[..., LambdaLR], options: dict[str, Any], expected: list[float]
) -> None:
    assert _rates(schedule, max_steps=8, **options) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("schedule", "options"),
    [
        (cosine, {"warmup_share": 0.0, "final_share": 0.01}),
        (multistep, {"warmup_share": 0.0, "milestones": [0.5, 0.8], "gamma": 0.5}),
    ],
)
def test_another_budget_rescales(
    schedule: Callable[..., LambdaLR], options: dict[str, Any]
) -> None:
    short, long = (_rates(schedule, max_steps=steps, **options) for steps in (20, 100))
    assert long[::5] == pytest.approx(short)


def test_edsr_halves_at_200_of_300() -> None:
    """Lim et al. 2017 as the experiment sets it: x0.5 once, two thirds through (30 steps here)."""
    rates = _rates(multistep, max_steps=30, warmup_share=0.0, milestones=[2 / 3], gamma=0.5)
    assert rates[19] == 1.0
    assert rates[20] == 0.5


@pytest.mark.parametrize("max_steps", [1, 2, 3])
def test_tiny_budgets_have_finite_rates(max_steps: int) -> None:
    rates = _rates(cosine, max_steps=max_steps, warmup_share=0.5, final_share=0.01)
    assert all(0 < rate <= 1 for rate in rates)


@pytest.mark.parametrize(
    ("schedule", "options", "said"),
    [
        (constant, {"warmup_share": 1.0}, "warmup_share = 1.0"),
        (constant, {"warmup_share": -0.1}, "warmup_share = -0.1"),
        (
            multistep,
            {"warmup_share": 0.0, "milestones": [200_000], "gamma": 0.5},
            r"shares of max_steps in \(0, 1\), got \[200000\]",
        ),
    ],
)
def test_refusals(schedule: Callable[..., LambdaLR], options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        _rates(schedule, max_steps=10, **options)
