"""Which checkpoints are the best so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from srtrain.networks.storage import checkpoint_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Ranked = dict[str, Any]  # metric, step, value, file


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The ``keep`` best by the mean of ``monitor``.

    A checkpoint is a candidate if no other mean lies below its ``floor``: the least LPIPS among
    those that reach 28 dB. What is no number never is one.
    """

    monitor: str
    mode: Literal["max", "min"]
    keep: int = 1
    floor: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mode not in {"min", "max"}:
            raise ValueError(f"mode = {self.mode!r} must be 'min' or 'max'")

    @property
    def metrics(self) -> list[str]:
        """All that must be measured."""
        return [self.monitor, *self.floor]

    def with_candidate(
        self, best: Sequence[Ranked], step: int, means: Mapping[str, float]
    ) -> list[Ranked]:
        """The best of ``best`` and of ``step``, the best first; of equals the earlier."""
        others = [kept for kept in best if kept["step"] != step]
        value = means[self.monitor]
        reached = all(means[name] >= least for name, least in self.floor.items())
        if reached and value == value:
            file = checkpoint_name(step)
            others.append({"metric": self.monitor, "step": step, "value": value, "file": file})
        return sorted(others, key=self._place)[: self.keep]

    def _place(self, kept: Ranked) -> tuple[float, int]:
        return (-kept["value"] if self.mode == "max" else kept["value"]), kept["step"]
