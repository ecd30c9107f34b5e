"""Losses are computed in float32 at least, whatever precision the network runs in.

Frozen networks alone, those of features and the mean of flows, may be asked for in bfloat16: what
is compared is float32 again.
"""

from __future__ import annotations

import contextlib
from functools import cache
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from torch import Tensor

Precision = Literal["fp32", "bf16", "auto"]


def at_least_float32(image: Tensor) -> Tensor:
    """bfloat16 and float16 raised to float32; float32 and float64 as they are."""
    return image.to(torch.promote_types(image.dtype, torch.float32))


def autocast_off(device: torch.device) -> AbstractContextManager[object]:
    """Within, nothing is computed in low precision; where nothing is anyway, it costs nothing."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


@contextlib.contextmanager
def full_precision(sr: Tensor, hr: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Both images in float32 at least, autocast off: SSIM in bfloat16 has two digits."""
    with autocast_off(sr.device):
        yield at_least_float32(sr), at_least_float32(hr)


def narrowed(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Within, convolutions are computed in bfloat16 where ``narrows`` says so.

    Nowhere for ``fp32``; ``auto`` that is not bfloat16 leaves them as they are outside.
    """
    if narrows(device, precision):
        return torch.autocast(device.type, torch.bfloat16)
    return autocast_off(device) if precision == "fp32" else contextlib.nullcontext()


def narrows(device: torch.device, precision: Precision) -> bool:
    """Whether ``precision`` is bfloat16 there: ``auto`` is where that gains.

    It does on CPUs that multiply it; elsewhere ``auto`` is ``fp32``, on GPUs too.
    """
    gains = device.type == "cpu" and multiplies_bf16()
    return precision == "bf16" or (precision == "auto" and gains)


@cache
def multiplies_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 (AMX, AVX512-BF16), as far as torch can say."""
    ask = getattr(torch.cpu, "get_capabilities", None)  # not in every torch
    known = ask() if ask and torch.backends.mkldnn.is_available() else {}
    return any(known.get(name) for name in ("amx_bf16", "avx512_bf16"))
