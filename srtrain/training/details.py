"""What the terms of the loss do to the images of one step."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from srtrain.losses.weighted_sum import WeightedSum


class Last(NamedTuple):
    """What the loss was given in the last micro-batch of a step."""

    output: Tensor
    target: Tensor
    average: Tensor | None
    step: int

    def details(self, loss: WeightedSum) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Each weighted term's gradient norm at the output, and the robust terms' linear zones."""
        output, target, average, step = self
        norms = loss.gradient_shares(output, target, step=step, average=average)
        return norms, loss.linear_shares(output, target, step=step)
