"""When a term of the loss begins to count, in generator steps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ramp:
    """``factor(step) = clip((step - start) / ramp, 0, 1)``; a ramp of 0 switches on at ``start``.

    Steps are counted from 0, as generator steps done before this one.

    Raises: ValueError for a negative ``start`` or ``ramp``.
    """

    start: int = 0
    ramp: int = 0

    def __post_init__(self) -> None:
        for name, steps in (("start", self.start), ("ramp", self.ramp)):
            if steps < 0:
                raise ValueError(f"{name} = {steps} must be a number of generator steps, 0 or more")

    def factor(self, step: int) -> float:
        """By how much the weight is multiplied at ``step``, in [0, 1]."""
        if not self.ramp:
            return float(step >= self.start)
        return min(1.0, max(0.0, (step - self.start) / self.ramp))

    def not_before(self, step: int) -> Ramp:
        """The same ramp, begun at ``step`` at the earliest."""
        return Ramp(start=max(self.start, step), ramp=self.ramp)
