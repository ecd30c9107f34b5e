"""Small folders of images for the tests of data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path


def noise(height: int, width: int, seed: int) -> np.ndarray:
    """Random pixels: no two images, no two crops alike."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save(path: Path, pixels: np.ndarray) -> Path:
    """Writes an image file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def folder_of(path: Path, count: int, *, height: int = 40, width: int = 52, seed: int = 0) -> Path:
    """A folder with ``count`` different PNG files 000.png …"""
    for index in range(count):
        save(path / f"{index:03d}.png", noise(height, width, 1000 * seed + index))
    return path
