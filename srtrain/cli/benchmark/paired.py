"""Costs measured side by side: the arms take turns, so that what disturbs one disturbs all."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch

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

    def text(self, form: str = "{:.3f}") -> str:
        """``median [low, high]``; the median alone where there was one round."""
        median, *ends = map(form.format, self)
        return median if self.low == self.high else f"{median} [{', '.join(ends)}]"


@dataclass(frozen=True)
class Clock:
    """CPU-seconds of the whole process on a CPU; seconds until a GPU has finished, on a GPU."""

    device: torch.device

    @property
    def unit(self) -> str:
        """What ``cost`` counts."""
        return "s" if self.device.type == "cuda" else "CPU-s"

    def cost(self, work: Callable[[], object]) -> float:
        """What ``work()`` takes."""
        start = self._now()
        work()
        return self._now() - start

    def _now(self) -> float:
        if self.device.type != "cuda":
            return time.process_time()
        import torch

        torch.cuda.synchronize(self.device)
        return time.perf_counter()


def take_turns(arms: Mapping[str, Callable[[], object]], *, rounds: int, clock: Clock) -> Costs:
    """Each arm once in each round, forwards and backwards in turn, after one round unmeasured."""
    return in_turn({name: lambda w=work: clock.cost(w) for name, work in arms.items()}, rounds)  # type: ignore[misc]


def in_turn(arms: Mapping[str, Callable[[], float]], rounds: int) -> Costs:
    """The same of arms that measure themselves: each returns what its turn cost."""
    costs: Costs = {name: [] for name in arms}
    for work in arms.values():
        work()
    for number in range(rounds):
        for name in list(arms)[:: 1 if number % 2 == 0 else -1]:
            costs[name].append(arms[name]())
    return costs


def ratio(values: Sequence[float], base: Sequence[float]) -> Spread:
    """``values`` over ``base``, round by round: what slows a whole round moves it little."""
    return Spread.of([own / other for own, other in zip(values, base, strict=True)])
