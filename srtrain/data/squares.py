"""Which square of an image a sample shows and which way up, and where its bytes lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from srtrain import rng

if TYPE_CHECKING:
    from collections.abc import Sequence

    from srtrain.data.imageset import ImageSet

SYMMETRIES = 8
"""Of the square. Bit 0 mirrors left-right, bit 1 top-bottom, then bit 2 transposes."""
STAGE = "crop"
CHANNELS = 3
_LOW = np.uint64(2**32 - 1)


class Crop(NamedTuple):
    """Corner of a square, and one of the eight symmetries of the square."""

    top: int
    left: int
    symmetry: int


class Squares(NamedTuple):
    """Squares of pixels in flat files of bytes, int64 (N,) each.

    Pixel (i, j) of a square that is the right way up begins at byte ``origin + i * down + j *
    right`` of ``file``: mirrored and transposed ones differ in these numbers alone.
    """

    file: np.ndarray
    origin: np.ndarray
    down: np.ndarray
    right: np.ndarray


def draw_crop(*, seed: int, sample: int, height: int, width: int, patch: int) -> Crop:
    """Uniform over all ``patch``² squares of an image and the 8 symmetries; f(seed, sample)."""
    draw = rng.generator(seed, sample, STAGE)
    top = draw.integers(height - patch + 1)
    left = draw.integers(width - patch + 1)
    return Crop(int(top), int(left), int(draw.integers(SYMMETRIES)))


def draw_crops(*, seed: int, samples: Sequence[int], sizes: np.ndarray, patch: int) -> np.ndarray:
    """``draw_crop`` of every sample as a row (top, left, symmetry) of int64 (N, 3).

    ``sizes``: (height, width) of each sample's image. What numpy's generator does, for all at once:
    a 32-bit word times the number of choices, shifted right; nothing is drawn for a single choice.

    Source: Lemire 2019, "Fast random integer generation in an interval", algorithm 5.
    """
    choices = np.full((len(samples), 3), SYMMETRIES, np.uint64)
    choices[:, :2] = sizes - patch + 1
    drawn = rng.words(seed, samples, STAGE, 2)
    halves = np.stack([drawn & _LOW, drawn >> np.uint64(32)], axis=2).reshape(-1, 4)
    real = choices > 1
    scaled = np.take_along_axis(halves, real.cumsum(axis=1) - real, axis=1) * choices
    crops = (scaled >> np.uint64(32)).astype(np.int64)
    # One in a hundred million: where words do not divide evenly, numpy may draw again.
    odd = ((scaled & _LOW) < choices).any(axis=1, where=real)
    for row in np.flatnonzero(odd).tolist():
        height, width = sizes[row].tolist()
        crops[row] = draw_crop(
            seed=seed, sample=samples[row], height=height, width=width, patch=patch
        )
    return crops


def squares(
    images: ImageSet, chosen: np.ndarray, crops: np.ndarray, *, side: int, patch: int, zoom: int = 1
) -> Squares:
    """Where the squares of ``patch * zoom`` lie that ``draw_crops`` drew on a grid of ``zoom``."""
    top, left, symmetry = crops.T
    pitch = images.shapes[chosen, side, 1] * CHANNELS
    mirrored, flipped, transposed = ((symmetry >> bit & 1).astype(bool) for bit in range(3))
    last = patch * zoom - 1
    row = top * zoom + np.where(flipped, last, 0)
    column = left * zoom + np.where(mirrored, last, 0)
    downwards = np.where(flipped, -pitch, pitch)
    rightwards = np.where(mirrored, -CHANNELS, CHANNELS)
    return Squares(
        file=images.file_of[chosen],
        origin=images.offsets[chosen, side] + row * pitch + column * CHANNELS,
        down=np.where(transposed, rightwards, downwards),
        right=np.where(transposed, downwards, rightwards),
    )


def cut(pixels: np.ndarray, origin: int, down: int, right: int, out: np.ndarray) -> None:
    """``out`` (P, P, 3) = one of `Squares` in the flat uint8 ``pixels``."""
    square = np.ndarray(out.shape, np.uint8, pixels, origin, (down, right, 1))
    if right == CHANNELS:  # whole rows
        out[...] = square
        return
    for channel in range(CHANNELS):  # numpy's inner loop is then a row, not three bytes: 3 × faster
        out[..., channel] = square[..., channel]
