"""How far a network looks: measured on the network itself, so that tiles can be exact."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from srtrain.networks.generator import Generator

LONGEST = 64  # LR pixels; a longer structural reach is probed for where it stops to matter
_STRIP = 32  # height of the probe; holds every window size in use
_WINDOW = 32  # phase of tiles for networks that see position: a multiple of their windows 4 … 32
_UNSEEN = 2e-6  # of the range [0, 1]; tiles promise 1e-5
_BLENDED = 32  # overlap where nothing is exact


@dataclass(frozen=True)
class Reach:
    """Tiles need ``halo`` LR pixels around them and must start at multiples of ``align``.

    ``exact``: a tile then equals the same part of the whole. Otherwise the network looks at the
    whole image (channel attention, global pooling), and tiles can only be blended.
    """

    halo: int
    align: int = 1
    exact: bool = True


@torch.no_grad()
def measure(generator: Generator) -> Reach:
    """The ``Reach`` of a generator, by a few forward passes over strips of noise.

    First by structure: a NaN at one pixel comes out wherever that pixel can matter, whatever the
    weights. If that is beyond 64 pixels, by effect: the smallest distance beyond which other
    pixels change the output by less than 2e-6 of its range.
    """
    training = generator.training
    generator.eval()
    try:
        align = generator.multiple_of
        with _plain_convolutions():
            if not _same_after_shift(generator, align):
                align = math.lcm(align, _WINDOW)
            halo = _structural(generator)
        if halo is None:
            halo = _effective(generator)
        if halo is None:
            return Reach(_BLENDED, align, exact=False)
        return Reach(halo + align - 1, align)
    finally:
        generator.train(training)


def _structural(generator: Generator) -> int | None:
    reach = 0
    for across in (False, True):
        length = 2 * LONGEST + 2 * _WINDOW
        strip = _noise(generator, length, across=across)
        centre = length // 2
        strip[..., centre, :] = torch.nan
        sr = generator(strip.mT if across else strip)
        hit = (sr.mT if across else sr).isnan().any(dim=-1).flatten(0, 1).any(dim=0)
        touched = hit.view(length, generator.scale).any(dim=1).nonzero().flatten()
        if touched.numel() == 0:
            return None  # the network hides NaN
        reach = max(reach, centre - int(touched[0]), int(touched[-1]) - centre)
    return reach if reach <= LONGEST else None


def _effective(generator: Generator) -> int | None:
    best = None
    for halo in (128, 64, 32, 16):  # downwards: a global network is known after one comparison
        if not all(_unseen_beyond(generator, halo, across=across) for across in (False, True)):
            break
        best = halo
    return best


def _unseen_beyond(generator: Generator, halo: int, *, across: bool) -> bool:
    """Whether the middle of a strip stays the same when all beyond ``halo`` is replaced."""
    length = 2 * halo + 4 * _WINDOW
    first, second = (_noise(generator, length, across=across, seed=seed) for seed in (0, 1))
    middle = slice(length // 2 - _WINDOW // 2, length // 2 + _WINDOW // 2)
    kept = slice(middle.start - halo, middle.stop + halo)
    second[..., kept, :] = first[..., kept, :]
    inside = slice(middle.start * generator.scale, middle.stop * generator.scale)
    outputs = [generator(strip.mT if across else strip) for strip in (first, second)]
    left, right = ((sr.mT if across else sr)[..., inside, :] for sr in outputs)
    return _equal(left, right)


def _same_after_shift(generator: Generator, step: int) -> bool:
    """Whether moving the image by ``step`` pixels only moves the output, away from the borders."""
    length = 2 * LONGEST + 2 * _WINDOW
    strip = _noise(generator, length, across=False)
    strip = strip[..., : length - length % step, :]
    whole = generator(strip)[..., step * generator.scale :, :]
    moved = generator(strip[..., step:, :])
    third = moved.shape[-2] // 3
    middle = (..., slice(third, 2 * third), slice(None))
    return _equal(whole[middle], moved[middle])


def _equal(left: Tensor, right: Tensor) -> bool:
    span = max(1.0, left.abs().max().item())
    return bool((left - right).abs().max() <= _UNSEEN * span)


def _noise(generator: Generator, length: int, *, across: bool, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(2 * seed + across)
    noise = torch.rand(1, 3, length, _STRIP, generator=source)
    return noise.to(device_of(generator))


def device_of(module: nn.Module) -> torch.device:
    """Where the first parameter or buffer lies; the CPU if there is none."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")


@contextlib.contextmanager
def _plain_convolutions() -> Iterator[None]:
    """Winograd and FFT convolutions spread a NaN beyond the kernel, and TF32 blurs 2e-6."""
    onednn = torch.backends.mkldnn
    enabled = onednn.enabled
    onednn.enabled = False  # type: ignore[assignment]  # torch's descriptor is untyped
    try:
        with torch.backends.cudnn.flags(enabled=False):
            yield
    finally:
        onednn.enabled = enabled
