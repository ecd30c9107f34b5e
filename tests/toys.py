"""Toys of which every answer is known, and flows taught on them in seconds of one core."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from srtrain.rng import noise
from srtrain.training.examples import Example
from srtrain.training.flow import drawn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from srtrain.networks.flow import Flow

    Pairs = Callable[[int], tuple[Tensor, Tensor]]
    """How many -> hr, lr."""

SEED = 11
ROWS = 32


class Values(nn.Module):
    """Two hidden layers for each value by itself: a velocity called ``(x, t)``, or an answer."""

    def __init__(
        self, *, in_channels: int = 3, centre: float = 0.0, unit: float = 1.0, answer: bool = False
    ) -> None:
        super().__init__()
        self.unit, self.centre, self.around = unit, centre, centre if answer else 0.0
        seen = in_channels // 3 + (not answer)
        layers = [nn.Linear(seen, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        seen = (x.unflatten(1, (-1, 3)).movedim(1, -1) - self.centre) / self.unit
        if t is not None:
            moment = t.view(-1, 1, 1, 1, 1).expand(*seen.shape[:-1], 1)
            seen = torch.cat([seen, moment], dim=-1)
        made: Tensor = self.layers(seen)
        return self.around + self.unit * made.squeeze(-1)


@dataclass(frozen=True)
class Gaussian:
    """Values that know nothing of each other: x ~ N(0, 1), seen as y = x + N(0, 1).

    In units of ``unit`` around ``centre``. E[x | y] = y / 2, its squared error D* = 1/2.
    """

    centre: float = 0.0
    unit: float = 1.0

    def pairs(self, count: int, side: int = 4) -> tuple[Tensor, Tensor]:
        x = torch.randn(count, 3, side, side)
        y = x + torch.randn_like(x)
        return self.centre + self.unit * x, self.centre + self.unit * y

    def best(self, lr: Tensor) -> Tensor:
        return self.centre + (lr - self.centre) / 2

    def distance(self, one: Tensor, other: Tensor) -> float:
        return ((one - other) / self.unit).square().mean().item()

    @property
    def network(self) -> dict[str, Any]:
        return {"_target_": "tests.toys.Values", "centre": self.centre, "unit": self.unit}


def answering(network: nn.Module, pairs: Pairs, *, steps: int) -> nn.Module:
    """Taught by so many steps of MSE."""
    for hr, lr in _batches(network, pairs, steps=steps, rate=2e-2):
        nn.functional.mse_loss(network(lr), hr).div(hr.var()).backward()
    return network.eval()


def flowing(flow: Flow, pairs: Pairs, *, steps: int, rate: float = 2e-2) -> Flow:
    """Taught by so many steps as ``FlowSR`` takes them: its moments, its noise, squared error."""
    for step, (hr, lr) in enumerate(_batches(flow.velocity, pairs, steps=steps, rate=rate)):
        (t,), (own,) = drawn(SEED, step, [Example(hr, hr, lr)], rank=0, ranks=1)
        field = noise(hr.shape[1:], seed=SEED, samples=own, stage="flow", device=hr.device)
        output, target = flow.learn(hr, lr, t=t, noise=field)
        nn.functional.mse_loss(output, target).div(target.var()).backward()
    return flow.eval()


def _batches(
    network: nn.Module, pairs: Pairs, *, steps: int, rate: float
) -> Iterator[tuple[Tensor, Tensor]]:
    """So many; the gradients that each leaves behind make one step of Adam."""
    optimizer = torch.optim.Adam(network.parameters(), betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=0.1, cycle_momentum=False
    )
    for _ in range(steps):
        optimizer.zero_grad()
        yield pairs(ROWS)
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
