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
_STRIP = 32  # height of the probe
_WINDOW = 32
# Phases of tiles for networks that see position: multiples of their windows 4 … 32, stripes of 64.
_PHASES = (1, _WINDOW, 2 * _WINDOW)
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
def measure(generator: Generator, *, longest: int = LONGEST) -> Reach:
    """The ``Reach`` of a generator, by a few forward passes over strips of noise.

    First by structure: a NaN at one pixel comes out wherever that pixel can matter, whatever the
    weights. If that is beyond ``longest`` pixels, by effect: the smallest distance beyond which
    other pixels change the output by less than 2e-6 of its range.
    """
    training = generator.training
    generator.eval()
    try:
        with _plain_convolutions():
            halo = _structural(generator, longest)
        if halo is None:
            halo = _effective(generator)
        with _plain_convolutions():
            align, change = _alignment(generator, margin=max(LONGEST, halo or 0))
        if halo is not None and align != generator.multiple_of:
            # Down to the border: windows that wrap around mix it with the opposite one.
            change = max(change, _change_after_shift(generator, align, margin=halo))
        if halo is None or change > _UNSEEN:
            return Reach(_BLENDED, align, exact=False)
        return Reach(halo + align - 1, align)
    finally:
        generator.train(training)


def _alignment(generator: Generator, *, margin: int) -> tuple[int, float]:
    """The least phase after which a network does the same, or as nearly so as after any."""
    found: dict[int, float] = {}
    for phase in (math.lcm(generator.multiple_of, phase) for phase in _PHASES):
        found[phase] = _change_after_shift(generator, phase, margin=margin)
        if found[phase] <= _UNSEEN:
            break
    return next(item for item in found.items() if item[1] <= max(_UNSEEN, 2 * min(found.values())))


def _structural(generator: Generator, longest: int) -> int | None:
    reach = 0
    for across in (False, True):
        length = 2 * longest + 2 * _WINDOW
        strip = _noise(generator, length, across=across)
        centre = length // 2
        strip[..., centre, :] = torch.nan
        sr = generator(strip.mT if across else strip)
        hit = (sr.mT if across else sr).isnan().any(dim=-1).flatten(0, 1).any(dim=0)
        touched = hit.view(length, generator.scale).any(dim=1).nonzero().flatten()
        if touched.numel() == 0:
            return None  # the network hides NaN
        reach = max(reach, centre - int(touched[0]), int(touched[-1]) - centre)
    return reach if reach <= longest else None


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
    return _change(left, right) <= _UNSEEN


def _change_after_shift(generator: Generator, step: int, *, margin: int) -> float:
    """What ``margin`` pixels below its top changes in an image without its first ``step`` rows."""
    length = step + margin + 3 * _WINDOW
    strip = _noise(generator, length + -length % step, across=False)
    below = (step + margin) * generator.scale
    whole, moved = generator(strip), generator(strip[..., step:, :])
    return _change(whole[..., below:, :], moved[..., margin * generator.scale :, :])


def _change(left: Tensor, right: Tensor) -> float:
    """The largest, as a share of the range: at least [0, 1], but some untrained give up to 45."""
    span = max(1.0, left.abs().max().item())
    return (left - right).abs().max().item() / span


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
