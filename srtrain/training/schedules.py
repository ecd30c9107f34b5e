"""Learning-rate schedules in shares of ``max_steps``: another budget rescales them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch.optim.lr_scheduler import LambdaLR

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch.optim import Optimizer


def cosine(
    optimizer: Optimizer, *, max_steps: int, warmup_share: float, final_share: float
) -> LambdaLR:
    """``final + (1 - final) (1 + cos(pi t)) / 2`` after a linear warm-up, t in [0, 1].

    Source: Loshchilov & Hutter 2017, SGDR, equation 5 (one period).
    """

    def curve(progress: float) -> float:
        return final_share + (1.0 - final_share) * 0.5 * (1.0 + math.cos(math.pi * progress))

    return _scheduled(optimizer, max_steps, warmup_share, curve)


def multistep(
    optimizer: Optimizer,
    *,
    max_steps: int,
    warmup_share: float,
    milestones: Sequence[float],
    gamma: float,
) -> LambdaLR:
    """``gamma ** (number of milestones passed)``; milestones are shares of the run in (0, 1)."""
    if any(not 0.0 < share < 1.0 for share in milestones):
        raise ValueError(f"milestones are shares of max_steps in (0, 1), got {list(milestones)}")

    def curve(progress: float) -> float:
        return float(gamma ** sum(progress >= share for share in milestones))

    return _scheduled(optimizer, max_steps, warmup_share, curve)


def constant(optimizer: Optimizer, *, max_steps: int, warmup_share: float) -> LambdaLR:
    """One learning rate after the warm-up."""
    return _scheduled(optimizer, max_steps, warmup_share, lambda _progress: 1.0)


def _scheduled(
    optimizer: Optimizer, max_steps: int, warmup_share: float, curve: Callable[[float], float]
) -> LambdaLR:
    if not 0.0 <= warmup_share < 1.0:
        raise ValueError(f"warmup_share = {warmup_share} must lie in [0, 1)")
    warmup = round(warmup_share * max_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return curve((step - warmup) / max(1, max_steps - warmup))

    return LambdaLR(optimizer, factor)
