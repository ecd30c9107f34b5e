"""An image, turned and mirrored in all ways."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def over_flips_and_turns(lr: Tensor, upscale: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean of what ``upscale`` makes of ``lr`` in its eight positions, turned back."""
    total = lr.new_zeros(())
    for turns, mirrored in itertools.product(range(4), (False, True)):
        view = torch.rot90(lr.flip(-1) if mirrored else lr, turns, dims=(-2, -1))
        sr = torch.rot90(upscale(view), -turns, dims=(-2, -1))
        total = total + (sr.flip(-1) if mirrored else sr)
    return total / 8
