"""Dead leaves with textures: endless training images without a photo in them.

Opaque shapes whose radii follow ``r^-3`` occlude each other, which gives the edges, the scale
invariance and the 1/f spectrum of natural images (Lee, Mumford & Huang 2001); training on them
comes close to training on photos (Achddou, Gousseau & Ladjal 2021). What is drawn is a mix:
40 % textured leaves, 30 % plain leaves, 30 % coloured 1/f^s noise.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from srtrain.rng import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

REVISION = 1
"""Belongs into every cache key: it changes whenever the same (seed, sample) draws other pixels."""

SUPERSAMPLING = 2
RADIUS_MIN = 4.0
"""In output pixels. One pixel, as in the literature before its ÷5 downscale, is too busy."""
COVERAGE = 5.0
"""Mean number of leaves over a pixel: exp(-5) = 0.7 % of the picture shows the background."""
MARGIN = 0.25
"""Centres fall this share of the side outside the picture too, else its borders are emptier."""

TILE = 256
NOISE_TEXTURES, SINUS_TEXTURES, GRADIENT_TEXTURES = 12, 6, 6

OPPONENT_AXES = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]], np.float32)
OPPONENT_AXES /= np.linalg.norm(OPPONENT_AXES, axis=1, keepdims=True)
"""Luminance, yellow-blue, green-magenta: the principal axes of natural colours (Ruderman 1998)."""
OPPONENT_SPREAD = np.array([0.40, 0.11, 0.045], np.float32)
"""Standard deviation along each axis for RGB in [0, 1]; set by eye beside photos."""
TINT_SHARE = np.array([0.3, 0.6, 0.6], np.float32)
MEAN_GRAY = 0.45


def dead_leaves(sample: int, *, size: int, seed: int) -> NDArray[np.uint8]:
    """Picture number ``sample`` of the endless set ``seed``: uint8 RGB ``(size, size, 3)``.

    A pure function of its arguments. About 0.03 s at 128 px on one core.

    Raises: ValueError if ``size`` leaves no room for a leaf.
    Source: Achddou et al. 2021 (radii, gradients); VibrantLeaves 2025 (texture kinds).
    """
    if size < 4 * RADIUS_MIN:
        raise ValueError(f"size={size} must be at least {4 * RADIUS_MIN:.0f} px to hold leaves")
    rng = generator(seed, sample, "leaves")
    kind = rng.random()
    if kind < 0.3:
        image = _noise_picture(rng, size)
    else:
        fine = _leaves_picture(rng, size * SUPERSAMPLING, seed=seed, textured=kind >= 0.6)
        image = fine.reshape(size, SUPERSAMPLING, size, SUPERSAMPLING, 3).mean(axis=(1, 3))
    return (image.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _leaves_picture(rng: np.random.Generator, side: int, *, seed: int, textured: bool) -> Floats:
    radius_min, radius_max = RADIUS_MIN * SUPERSAMPLING, float(side)
    mean_area = 2 * np.pi * radius_min**2 * np.log(radius_max / radius_min)
    count = int(COVERAGE * ((1 + 2 * MARGIN) * side) ** 2 / mean_area)
    # Inverse of the cumulative distribution of r^-3 between the two radii.
    steepness = 1 - (radius_min / radius_max) ** 2
    radii = radius_min / np.sqrt(1 - steepness * rng.random(count))
    owner = _stack(rng, radii, side)
    colors = _colors(rng, count + 1)
    picture = colors[owner]
    if textured:
        picture += _texture(rng, owner, count + 1, seed=seed)
    return picture


def _stack(rng: np.random.Generator, radii: NDArray[np.float64], side: int) -> NDArray[np.intp]:
    """Which leaf is seen at each pixel ``(side, side)``; 0 is the background, k the k-th leaf."""
    count = len(radii)
    centers = rng.uniform(-MARGIN * side, (1 + MARGIN) * side, (count, 2)).astype(np.float32)
    shapes = rng.integers(0, 3, count)
    aspects = np.where(shapes == 0, 1.0, rng.uniform(0.35, 1.0, count))
    angles = rng.uniform(0, np.pi, count)
    # (u, v): coordinates along the leaf's own axes, 1 at its rim.
    rows = (np.stack([np.cos(angles), np.sin(angles)], 1) / radii[:, None]).astype(np.float32)
    cols = np.stack([-np.sin(angles), np.cos(angles)], 1) / (radii * aspects)[:, None]
    cols = cols.astype(np.float32)
    reach = np.where(shapes == 2, np.hypot(1, aspects), 1.0) * radii
    low = np.clip(np.floor(centers - reach[:, None]), 0, side).astype(int)
    high = np.clip(np.ceil(centers + reach[:, None]) + 1, 0, side).astype(int)
    owner = np.zeros((side, side), np.intp)
    grid = np.arange(side, dtype=np.float32)
    for leaf in np.flatnonzero((low < high).all(axis=1)):
        (top, left), (bottom, right) = low[leaf], high[leaf]
        y = grid[top:bottom, None] - centers[leaf, 0]
        x = grid[left:right] - centers[leaf, 1]
        u = y * rows[leaf, 0] + x * rows[leaf, 1]
        v = y * cols[leaf, 0] + x * cols[leaf, 1]
        np.square(u, out=u)
        np.square(v, out=v)
        inside = np.maximum(u, v) < 1 if shapes[leaf] == 2 else u + v < 1
        owner[top:bottom, left:right][inside] = leaf + 1
    return owner


def _texture(rng: np.random.Generator, owner: NDArray[np.intp], count: int, *, seed: int) -> Floats:
    """Each leaf's texture, turned, zoomed, shifted and tinted at random: ``(side, side, 3)``."""
    bank = _texture_bank(seed)
    which = rng.integers(0, len(bank), count)
    angle = rng.uniform(0, 2 * np.pi, count)
    zoom = np.exp(rng.uniform(np.log(0.4), np.log(1.5), count))
    shift = rng.uniform(0, TILE, (count, 2)).astype(np.float32)
    cos, sin = (zoom * np.cos(angle)).astype(np.float32), (zoom * np.sin(angle)).astype(np.float32)
    strength = np.exp(rng.uniform(np.log(0.02), np.log(0.25), count)).astype(np.float32)
    tint = OPPONENT_SPREAD * rng.standard_normal((count, 3), np.float32)
    tint[:, 0] = OPPONENT_SPREAD[0]
    tint = strength[:, None] / OPPONENT_SPREAD[0] * tint @ OPPONENT_AXES * np.sqrt(3, dtype="f4")
    x = np.arange(len(owner), dtype=np.float32)
    y = x[:, None]
    row = (y * cos[owner] + x * sin[owner] + shift[owner, 0]).astype(np.int32) % TILE
    col = (x * cos[owner] - y * sin[owner] + shift[owner, 1]).astype(np.int32) % TILE
    return np.asarray(bank[which[owner], row, col, None] * tint[owner], np.float32)


@functools.lru_cache(maxsize=2)
def _texture_bank(seed: int) -> Floats:
    """24 periodic tiles of zero mean and unit variance ``(24, TILE, TILE)``."""
    rng = generator(seed, 0, "leaf textures")
    slopes = np.linspace(0.5, 2.5, NOISE_TEXTURES)
    tiles = [_colored_noise(rng, TILE, slope) for slope in slopes]
    y, x = np.mgrid[:TILE, :TILE] / TILE
    for period in np.geomspace(4, 48, SINUS_TEXTURES):
        waves = np.rint(TILE / period)
        across = np.rint(rng.uniform(-0.5, 0.5) * waves)
        bend = rng.uniform(0, 1.5) * np.sin(2 * np.pi * (y + rng.random()))
        tiles.append(np.sin(2 * np.pi * (waves * x + across * y) + bend))
    for power in np.linspace(0.5, 2.0, GRADIENT_TEXTURES):
        # A triangle wave one tile long: a ramp on nearly every leaf, a crease on a few.
        tiles.append(np.abs(2 * x - 1) ** power)
    raw = np.stack(tiles)
    raw -= raw.mean(axis=(1, 2), keepdims=True)
    bank: Floats = (raw / raw.std(axis=(1, 2), keepdims=True)).astype(np.float32)
    bank.setflags(write=False)
    return bank


def _noise_picture(rng: np.random.Generator, size: int) -> Floats:
    """Coloured 1/f^s noise cut from a field twice as wide, so that it does not wrap around."""
    slope = rng.uniform(0.8, 1.8)
    planes = [_colored_noise(rng, 2 * size, slope)[:size, :size] for _ in range(3)]
    spread = OPPONENT_SPREAD * rng.uniform(0.3, 0.9)
    field = np.stack(planes, axis=-1).astype(np.float32) * spread
    return np.asarray((field + _tint(rng)) @ OPPONENT_AXES + MEAN_GRAY, np.float32)


def _colored_noise(rng: np.random.Generator, side: int, slope: float) -> NDArray[np.float64]:
    """Gaussian field with amplitude spectrum 1/f^slope, zero mean, unit variance."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((side, side))) * frequency**-slope
    field: NDArray[np.float64] = np.fft.irfft2(spectrum, s=(side, side))
    field /= field.std()
    return field


def _colors(rng: np.random.Generator, count: int) -> Floats:
    """RGB ``(count, 3)`` around one tint per picture; chroma is heavy-tailed as in photos."""
    opponent = rng.standard_normal((count, 3), np.float32) * OPPONENT_SPREAD
    opponent[:, 1:] *= np.exp(rng.uniform(-1, 1, (count, 1))).astype(np.float32)
    return np.asarray((opponent + _tint(rng)) @ OPPONENT_AXES + MEAN_GRAY, np.float32)


def _tint(rng: np.random.Generator) -> Floats:
    """The light of one picture, in opponent coordinates ``(3,)``."""
    return rng.standard_normal(3, np.float32) * OPPONENT_SPREAD * TINT_SHARE
