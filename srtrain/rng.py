"""(seed, sample, stage) → numbers: randomness without history.

The k-th sample of a run looks the same whoever draws it, and whenever: the same for any number of
workers or ranks, and after any resume. Philox is counter-based (Salmon et al. 2011, "Parallel
random numbers: as easy as 1, 2, 3"), so independent keys give independent streams.
"""

from __future__ import annotations

import functools
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


def generator(
    seed: int, sample: int, stage: str, *, place: tuple[int, int] = (0, 0)
) -> np.random.Generator:
    """A fresh numpy generator for one ``stage`` ("crop", "blur", …) of one ``sample`` of a run.

    ``place``: two numbers more, for what is drawn piece by piece; another place, another stream.
    """
    key = np.array([seed & _MASK64, sample & _MASK64], dtype=np.uint64)
    counter = np.array([0, *place, zlib.crc32(stage.encode())], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def words(seed: int, samples: Sequence[int], stage: str, count: int) -> np.ndarray:
    """Row i: the first ``count`` uint64 words that ``generator(seed, samples[i], stage)`` draws.

    For many samples of one stage: a new key costs a fifth of a new generator.
    """
    bits = generator(seed, 0, stage).bit_generator
    state: Any = bits.state
    key = state["state"]["key"]
    found = np.empty((len(samples), count), np.uint64)
    for row, sample in enumerate(samples):
        key[1] = sample & _MASK64
        bits.state = state
        found[row] = bits.random_raw(count)
    return found


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

    numbers = samples.tolist()
    batch = torch.empty((len(numbers), *shape), device=device)
    own = torch.Generator(device=device)
    for row, (key,) in zip(batch, words(seed, numbers, stage, 1), strict=True):
        row.normal_(generator=own.manual_seed(int(key >> 1)))  # of 63 bits
    return batch


def noise_field(
    height: int, width: int, *, seed: int, sample: int, place: tuple[int, int] = (0, 0)
) -> np.ndarray:
    """Standard normal (3, height, width) float32: a window of an endless field of noise.

    The value of a pixel depends on (seed, sample, row, column) alone, ``place`` being the window's
    first row and column: any two windows agree where they overlap, on every device. Drawn on the
    CPU in blocks of ``BLOCK`` pixels a side, 20 ms for a megapixel.
    """
    (top, left), (bottom, right) = place, (place[0] + height, place[1] + width)
    rows, columns = (
        range(top // BLOCK, -(-bottom // BLOCK)),
        range(left // BLOCK, -(-right // BLOCK)),
    )
    field = np.empty((3, len(rows) * BLOCK, len(columns) * BLOCK), np.float32)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            drawn = generator(seed, sample, "field", place=(row, column))
            field[:, i * BLOCK : (i + 1) * BLOCK, j * BLOCK : (j + 1) * BLOCK] = (
                drawn.standard_normal((3, BLOCK, BLOCK), np.float32)
            )
    y, x = top - rows.start * BLOCK, left - columns.start * BLOCK
    return np.ascontiguousarray(field[:, y : y + height, x : x + width])


def stream(seed: int, sample: int, stage: str, device: torch.device) -> torch.Generator:
    """The device's own generator, seeded for one ``stage`` of one ``sample`` of a run."""
    import torch

    key = int(generator(seed, sample, stage).integers(0, 2**63 - 1))
    return torch.Generator(device=device).manual_seed(key)


_MASK64 = 2**64 - 1
BLOCK = 64  # pixels a side, of ``noise_field``; another number, another field
