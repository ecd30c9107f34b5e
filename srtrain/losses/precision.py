"""Losses are computed in float32 at least, whatever precision the network runs in."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


def at_least_float32(image: Tensor) -> Tensor:
    """bfloat16 and float16 raised to float32; float32 and float64 as they are."""
    return image.to(torch.promote_types(image.dtype, torch.float32))


@contextlib.contextmanager
def full_precision(sr: Tensor, hr: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Both images in float32 at least, autocast off: SSIM in bfloat16 has two digits."""
    with torch.autocast(sr.device.type, enabled=False):
        yield at_least_float32(sr), at_least_float32(hr)
