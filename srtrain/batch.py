"""What travels through the house: ``{hr, lr?, name, sample}``, RGB, NCHW."""

from __future__ import annotations

from typing import NotRequired, TypedDict

import torch
from torch import Tensor


class Batch(TypedDict):
    """One loader batch = one generator step.

    ``hr`` (B, 3, H, W) and, for paired data, ``lr`` (B, 3, H / scale, W / scale): uint8 from the
    loader, float in [0, 1] on the device. ``sample`` int64 (B,): the number of each sample in the
    run, from which every random choice about it is drawn; it stays on the CPU. ``name``: where it
    came from.
    """

    hr: Tensor
    lr: NotRequired[Tensor]
    name: list[str]
    sample: Tensor


def to_float(image: Tensor) -> Tensor:
    """``image / 255`` as float32 for uint8 images; float images pass unchanged."""
    if image.dtype == torch.uint8:
        return image.float().div_(255.0)
    return image
