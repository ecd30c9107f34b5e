"""Minimisers of losses, found numerically in float64, each by a method that suits its kink.

- `minimisers`: one number for many targets. The derivative of a convex loss never falls, so
  bisection finds both ends of the set where it is zero, kinks and flat stretches included.
- `smooth_minimum`: any parameters, smooth loss: L-BFGS with a line search, then Newton steps.
- `line_of_least_deviations`: a polyhedral loss is least at a vertex, and every vertex of a line
  fit is a line through two of the points: all pairs are tried.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# 20 pixels that could all be right: {.2: .60, .5: .25, .9: .10, 8: .05} of science.md §1.
LAW = torch.tensor([0.2] * 12 + [0.5] * 5 + [0.9] * 2 + [8.0], dtype=torch.float64)


def slope_at(loss: nn.Module, value: float, targets: Tensor) -> float:
    """The derivative of ``loss(value everywhere, targets)`` by ``value``, from autograd."""
    constant = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    loss(constant.expand_as(targets), targets).backward()
    assert constant.grad is not None
    return constant.grad.item()


def minimisers(loss: nn.Module, targets: Tensor) -> tuple[float, float]:
    """The interval of all constants that are equally good; its ends agree if there is only one."""

    def crossing(is_left: Callable[[float], bool]) -> float:
        low, high = targets.min().item() - 1.0, targets.max().item() + 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (
                (middle, high) if is_left(slope_at(loss, middle, targets)) else (low, middle)
            )
        return (low + high) / 2

    rounding = 1e-9
    return crossing(lambda slope: slope < -rounding), crossing(lambda slope: slope <= rounding)


def minimiser(loss: nn.Module, targets: Tensor) -> float:
    """The only best constant. Asserts that there is no other."""
    low, high = minimisers(loss, targets)
    assert high - low < 1e-6, (low, high)
    return (low + high) / 2


def smooth_minimum(objective: Callable[[Tensor], Tensor], start: Sequence[float]) -> list[float]:
    """Where ``objective(parameters)`` is least; its gradient there is below 1e-9."""
    parameters = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = objective(parameters)
        value.backward()
        return value

    optimizer.step(closure)
    for _ in range(3):  # values of the objective do not tell the last digits, gradients do
        optimizer.zero_grad()
        objective(parameters).backward()
        hessian = torch.autograd.functional.hessian(objective, parameters.detach())
        with torch.no_grad():
            parameters -= torch.linalg.solve(hessian, parameters.grad)
    closure()
    assert parameters.grad is not None
    assert parameters.grad.abs().max() < 1e-9, parameters.grad
    return parameters.tolist()


def fit_line(loss: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """(slope, intercept) of least loss, for a differentiable one."""
    slope, intercept = smooth_minimum(lambda line: loss(line[0] * x + line[1], y), (0.0, 0.0))
    return slope, intercept


def line_of_least_deviations(loss: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """(slope, intercept) of least loss among all lines through two points.

    Asserts that the next best line through two points is worse: the minimum is unique.
    """
    lines = []
    for i, j in itertools.combinations(range(len(x)), 2):
        if x[i] != x[j]:
            slope = (y[j] - y[i]) / (x[j] - x[i])
            lines.append((slope.item(), (y[i] - slope * x[i]).item()))
    values = [loss(slope * x + intercept, y).item() for slope, intercept in lines]
    best = min(range(len(lines)), key=values.__getitem__)
    rivals = [
        value
        for value, line in zip(values, lines, strict=True)
        if max(abs(a - b) for a, b in zip(line, lines[best], strict=True)) > 1e-9
    ]
    assert min(rivals) > values[best] + 1e-9, "two lines are equally good"
    return lines[best]


def descend(loss: nn.Module, *, start: float, lr: float, steps: int) -> list[float]:
    """The errors that plain gradient descent at a fixed rate passes through, towards 0."""
    error = torch.tensor([start], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([error], lr=lr)
    path = [start]
    for _ in range(steps):
        optimizer.zero_grad()
        loss(error, torch.zeros_like(error)).backward()
        optimizer.step()
        path.append(error.item())
    return path
