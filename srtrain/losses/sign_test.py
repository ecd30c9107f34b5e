"""Does a distance see images as people do? A proxy that takes seconds.

At equal mean squared error, people hardly mind a shift of brightness, of contrast or of position,
and mind blur, JPEG blocks, salt and pepper, and noise very much (Wang & Bovik 2009, the "Einstein"
pictures). A distance passes a pair if it puts the first kind below the second. L2 is at chance.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from srtrain.rng import generator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

MARGIN = 8
"""Pixels around a crop that a shift or a blur may draw on; distances are taken without them."""
TARGET_QUALITY = 8


def mean_shift(image: Floats, strength: float) -> Floats:
    """Brighter by ``strength``; darker where that would clip more."""
    return image + strength * (1.0 if image.mean() < 0.5 else -1.0)


def contrast(image: Floats, strength: float) -> Floats:
    """Contrast around the mean lowered by ``strength``."""
    return np.asarray(image - strength * (image - image.mean(axis=(0, 1))))


def shift(image: Floats, strength: float) -> Floats:
    """Moved by ``strength`` pixels in both directions, cubic interpolation."""
    return np.asarray(ndimage.shift(image, (strength, strength, 0), order=3, mode="reflect"))


def blur(image: Floats, strength: float) -> Floats:
    """Gaussian blur of that sigma."""
    return np.asarray(ndimage.gaussian_filter(image, (strength, strength, 0)))


def jpeg(image: Floats, strength: float) -> Floats:
    """JPEG of quality ``100 - strength``."""
    buffer = io.BytesIO()
    pixels = (image.clip(0, 1) * 255 + 0.5).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=round(100 - strength))
    return np.asarray(Image.open(buffer), np.float64) / 255


def salt_pepper(image: Floats, strength: float) -> Floats:
    """A share ``strength`` of the pixels turned black or white, always the same ones first."""
    order = generator(0, 0, "salt and pepper").random((*image.shape[:2], 1))
    return np.where(order < strength / 2, 0.0, np.where(order > 1 - strength / 2, 1.0, image))


def noise(image: Floats, strength: float) -> Floats:
    """White Gaussian noise of that standard deviation, always the same field."""
    return image + strength * generator(0, 0, "noise").standard_normal(image.shape)


KEPT: dict[str, tuple[Callable[[Floats, float], Floats], float]] = {
    "mean": (mean_shift, 0.6),
    "contrast": (contrast, 0.98),
    "shift": (shift, 7.0),
}
HARMED: dict[str, tuple[Callable[[Floats, float], Floats], float]] = {
    "blur": (blur, 12.0),
    "jpeg": (jpeg, 100.0 - TARGET_QUALITY),
    "salt & pepper": (salt_pepper, 0.9),
    "noise": (noise, 0.9),
}
"""Distortion and the largest strength that is tried; MSE grows with strength up to there."""


def equal_mse_set(crop: NDArray[np.uint8]) -> tuple[Floats, dict[str, Floats]]:
    """The reference and its distortions, each at the MSE of JPEG quality 8 (within 3 %).

    A distortion that cannot reach it, such as the shift of a flat picture, is left out.

    Shapes: crop (H, W, 3) uint8 -> (H - 16, W - 16, 3) in [0, 1].
    """
    image = crop / 255
    target = _mse(image, jpeg(image, HARMED["jpeg"][1]))
    distorted = {}
    for name, (distort, strongest) in {**KEPT, **HARMED}.items():
        strength = strongest
        if name != "jpeg":
            strength = _strength(image, distort, strongest, target)
        candidate = distort(image, strength).clip(0, 1)
        if abs(_mse(image, candidate) / target - 1) < 0.03:
            distorted[name] = _inner(candidate)
    return _inner(image), distorted


def sign_test(distance: Distance, crops: Sequence[NDArray[np.uint8]]) -> float:
    """Share of the (kept, harmed) pairs of all crops where the kept one is nearer; ties count half.

    ``distance(reference, distorted)`` takes (B, 3, H, W) in [0, 1] and gives (B,).
    """
    return sign_score([_distances(distance, *equal_mse_set(crop)) for crop in crops])


def sign_score(tables: Sequence[dict[str, float]]) -> float:
    """The same from {distortion: distance} per crop."""
    wins = [
        0.5 + 0.5 * np.sign(table[harmed] - table[kept])
        for table in tables
        for kept in KEPT
        for harmed in HARMED
        if kept in table and harmed in table
    ]
    return float(np.mean(wins))


def to_tensor(pictures: Sequence[Floats]) -> torch.Tensor:
    """(H, W, 3) each -> (B, 3, H, W) float32."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()


def _distances(
    distance: Distance, reference: Floats, distorted: dict[str, Floats]
) -> dict[str, float]:
    pictures = to_tensor(list(distorted.values()))
    values = distance(to_tensor([reference]).expand_as(pictures), pictures)
    return dict(zip(distorted, values.tolist(), strict=True))


def _strength(
    image: Floats, distort: Callable[[Floats, float], Floats], strongest: float, target: float
) -> float:
    low, high = 0.0, strongest
    for _ in range(14):
        middle = (low + high) / 2
        if _mse(image, distort(image, middle).clip(0, 1)) < target:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _mse(image: Floats, other: Floats) -> float:
    return float(np.square(_inner(image) - _inner(other)).mean())


def _inner(image: Floats) -> Floats:
    return image[MARGIN:-MARGIN, MARGIN:-MARGIN]
