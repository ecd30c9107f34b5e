"""(seed, sample, stage) → numbers: randomness without history.

The k-th sample of a run looks the same whoever draws it, and whenever: the same for any number of
workers or ranks, and after any resume. Philox is counter-based (Salmon et al. 2011, "Parallel
random numbers: as easy as 1, 2, 3"), so independent keys give independent streams.
"""

from __future__ import annotations

import functools
import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def generator(seed: int, sample: int, stage: str) -> np.random.Generator:
    """A fresh numpy generator for one ``stage`` ("crop", "blur", …) of one ``sample`` of a run."""
    key = np.array([seed & _MASK64, sample & _MASK64], dtype=np.uint64)
    counter = np.array([0, 0, 0, zlib.crc32(stage.encode())], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


@functools.lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order in which pass number ``epoch`` visits ``count`` images; memoised, read-only."""
    order = generator(seed, epoch, "order").permutation(count)
    order.setflags(write=False)
    return order


def noise(
    shape: tuple[int, ...], *, seed: int, samples: torch.Tensor, stage: str, device: torch.device
) -> torch.Tensor:
    """Standard normal noise ``(B, *shape)``; row b depends on (seed, samples[b], stage) alone.

    Drawn by the device's own generator, so equal numbers are promised per device type only.
    """
    import torch

    rows = [
        torch.randn(shape, generator=stream(seed, sample, stage, device), device=device)
        for sample in samples.tolist()
    ]
    return torch.stack(rows)


def stream(seed: int, sample: int, stage: str, device: torch.device) -> torch.Generator:
    """The device's own generator, seeded for one ``stage`` of one ``sample`` of a run."""
    import torch

    key = int(generator(seed, sample, stage).integers(0, 2**63 - 1))
    return torch.Generator(device=device).manual_seed(key)


_MASK64 = 2**64 - 1
