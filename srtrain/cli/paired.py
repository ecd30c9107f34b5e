"""Costs measured side by side: the arms take turns, so that what disturbs one disturbs all."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Costs = dict[str, list[float]]


class Spread(NamedTuple):
    """Of one figure over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Clock:
    """CPU-seconds of the whole process on a CPU; seconds until a GPU has finished, on a GPU."""

    device: torch.device

    @property
    def unit(self) -> str:
        """What ``cost`` counts."""
        return "s" if self.device.type == "cuda" else "CPU-s"

    def cost(self, work: Callable[[], None]) -> float:
        """What ``work()`` takes."""
        start = self._now()
        work()
        return self._now() - start

    def _now(self) -> float:
        if self.device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()


def take_turns(arms: Mapping[str, Callable[[], None]], *, rounds: int, clock: Clock) -> Costs:
    """Each arm once in each round, forwards and backwards in turn, after one round unmeasured."""
    costs: Costs = {name: [] for name in arms}
    for work in arms.values():
        work()
    for number in range(rounds):
        for name in list(arms)[:: 1 if number % 2 == 0 else -1]:
            costs[name].append(clock.cost(arms[name]))
    return costs


def over(costs: Costs, base: str) -> dict[str, Spread]:
    """Each arm's cost beyond ``base``'s, as a share of it, round by round."""
    return {
        name: Spread.of([own / other - 1 for own, other in zip(values, costs[base], strict=True)])
        for name, values in costs.items()
        if name != base
    }
