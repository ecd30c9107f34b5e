"""The image that the averaged weights make, for losses that compare with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.func import functional_call

from srtrain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from srtrain.networks.generator import Generator


def averaged_image(generator: Generator, average: Mapping[str, Tensor], lr: Tensor) -> Tensor:
    """``sr`` by the averaged weights, in evaluation mode, without gradients; float32.

    Computed in the precision of training, so that both images err alike.

    Raises: ConfigError where there is no average.
    """
    if not average:
        what = "a loss term compares with the averaged weights, and there is no average"
        raise ConfigError(what, where="callbacks.ema", fix="leave callbacks.ema switched on")
    named = {f"net.{name}": value for name, value in average.items()}
    generator.eval()  # in training mode, batch norm would move the average's statistics
    with torch.no_grad():
        sr: Tensor = functional_call(generator, named, (lr,))
    generator.train()
    return sr.float()
