"""A generator as it runs fastest: its device, its precision, its order in memory."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from srtrain.errors import ConfigError
from srtrain.inference.receptive import device_of

if TYPE_CHECKING:
    from srtrain.networks.generator import Generator

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """The device called ``name``; "auto" is the GPU if there is one, else the CPU.

    Raises: ConfigError if this machine does not have it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("no CUDA device here", where=f"device={name}", fix="use cpu or auto")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {name!r}", fix="use auto, cpu or cuda") from error


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """What ``auto``, ``fp32``, ``bf16`` or ``fp16`` means on this device.

    "auto" is bf16 where the hardware has it, which on GPUs is since 2020, and fp32 elsewhere: on a
    CPU bf16 is slower (0.7 times, without matrix units).

    Raises: ConfigError for another name.
    """
    if name == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    if name not in PRECISIONS:
        raise ConfigError(f"unknown precision {name!r}", fix="use auto, fp32, bf16 or fp16")
    return PRECISIONS[name]


class Forward:
    """``generator(windows)`` in float32 on its device, of windows of any type from anywhere.

    Convolutions run channels last: on a CPU 1.3 to 1.7 times as fast. A network that refuses that
    order (by ``view``) gets the usual one. In fp32, convolutions are not rounded to TF32.

    Shapes: windows (B, 1 | 3, h, w), levels or floats in [0, 1] -> (B, C', h·scale, w·scale).
    """

    def __init__(self, generator: Generator, precision: torch.dtype = torch.float32) -> None:
        self.generator = generator.to(memory_format=torch.channels_last)
        self.device = device_of(generator)
        self.precision = precision
        self.order = torch.channels_last

    def __call__(self, windows: Tensor) -> Tensor:
        """Gray windows are given to the network as equal colours."""
        lr = to_unit(windows.to(self.device))
        lr = lr.expand(-1, 3, -1, -1) if lr.shape[1] == 1 else lr
        try:
            return self._run(lr)
        except RuntimeError as error:
            if self.order is torch.contiguous_format or "view size" not in str(error):
                raise
        self.order = torch.contiguous_format
        self.generator.to(memory_format=self.order)
        return self._run(lr)

    def _run(self, lr: Tensor) -> Tensor:
        lower = self.precision is not torch.float32
        # TF32 rounds to 10 bits: tiles would equal the whole to 1e-3 only.
        plain = not lower and self.device.type == "cuda"
        flags = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        dtype = self.precision if lower else torch.bfloat16
        with (
            torch.autocast(self.device.type, dtype, enabled=lower),
            flags if plain else contextlib.nullcontext(),
        ):
            sr: Tensor = self.generator(lr.contiguous(memory_format=self.order))
        return sr.float()


def to_unit(image: Tensor) -> Tensor:
    """float32 in [0, 1] of uint8 or uint16 levels; floats as they are."""
    if image.is_floating_point():
        return image.float()
    return image.float().div_(torch.iinfo(image.dtype).max)
