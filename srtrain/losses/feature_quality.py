"""How good is a perceptual distance? Proxies that need no human ratings and take seconds.

The sign test: at equal mean squared error, people hardly mind a change of brightness or contrast or
a small shift, and mind blur, JPEG blocks, salt and pepper, and noise (Wang & Bovik 2009, the
"Einstein" pictures). A distance passes a pair if it puts the first kind below the second; L2 is at
chance. It is a proxy, not agreement with people.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage
from torch import nn

from srtrain.losses.features import EMBEDDED_CONVS, VGG19Features, calibration_batch
from srtrain.rng import generator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    # (1, 3, H, W) and (B, 3, H, W) -> {"raw": (B,), "unit": (B,)} or some of these.
    Distance = Callable[[torch.Tensor, torch.Tensor], dict[str, torch.Tensor]]

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


def bicubic(image: Floats, strength: float) -> Floats:
    """Reduced by ``strength`` with Pillow's bicubic, and enlarged again."""
    height, width = image.shape[:2]
    small = (round(width / strength), round(height / strength))
    planes = []
    for plane in np.moveaxis(image.astype(np.float32), -1, 0):
        reduced = Image.fromarray(plane).resize(small, Image.Resampling.BICUBIC)
        planes.append(np.asarray(reduced.resize((width, height), Image.Resampling.BICUBIC)))
    return np.stack(planes, axis=-1).astype(np.float64)


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


def sign_test(
    distance: Distance, sets: Sequence[tuple[Floats, dict[str, Floats]]]
) -> dict[str, float]:
    """Share of the (kept, harmed) pairs of all ``equal_mse_set``s where the kept one is nearer."""
    tables: dict[str, list[dict[str, float]]] = {}
    for reference, distorted in sets:
        values = distance(to_tensor([reference]), to_tensor(list(distorted.values())))
        for kind, column in values.items():
            tables.setdefault(kind, []).append(dict(zip(distorted, column.tolist(), strict=True)))
    return {kind: sign_score(table) for kind, table in tables.items()}


def sign_score(tables: Sequence[dict[str, float]]) -> float:
    """The same from {distortion: distance} per crop; ties count half."""
    wins = [
        0.5 + 0.5 * np.sign(table[harmed] - table[kept])
        for table in tables
        for kept in KEPT
        for harmed in HARMED
        if kept in table and harmed in table
    ]
    return float(np.mean(wins))


class FeatureDistance:
    """The two usual distances in the space of some features, over all their taps.

    ``raw``: ``Σ_taps mean (φ(a) - φ(b))² / mean φ(calibration)²``, as ``Perceptual``, per image.
    ``unit``: ``Σ_taps mean_positions ‖φ(a)/‖φ(a)‖ - φ(b)/‖φ(b)‖‖²``, as LPIPS without its heads.
    """

    def __init__(self, features: VGG19Features) -> None:
        self.features = features
        with torch.no_grad():
            activations = features(calibration_batch())
        self.sizes = {tap: float(x.square().mean()) for tap, x in activations.items()}

    @torch.no_grad()
    def __call__(self, reference: torch.Tensor, distorted: torch.Tensor) -> dict[str, torch.Tensor]:
        """{"raw": (B,), "unit": (B,)}; one reference (1, 3, H, W) serves a whole batch."""
        raw, unit = torch.zeros(len(distorted)), torch.zeros(len(distorted))
        ours, theirs = self.features(reference), self.features(distorted)
        for tap, size in self.sizes.items():
            a, b = ours[tap], theirs[tap]
            raw += (a - b).square().mean((1, 2, 3)) / size
            a, b = F.normalize(a, eps=1e-6), F.normalize(b, eps=1e-6)
            unit += (a - b).square().sum(1).mean((1, 2))
        return {"raw": raw, "unit": unit}


def random_features(seed: int) -> VGG19Features:
    """The control: VGG-19's first five convolutions with He's random weights, zero biases."""
    features = VGG19Features("embedded", taps=EMBEDDED_CONVS)
    random = torch.Generator().manual_seed(seed)
    for conv in EMBEDDED_CONVS:
        nn.init.kaiming_normal_(features.get_buffer(f"{conv}_weight"), generator=random)
        nn.init.zeros_(features.get_buffer(f"{conv}_bias"))
    features.features_name = f"first5/random-{seed}"
    return features


def to_tensor(pictures: Sequence[Floats]) -> torch.Tensor:
    """(H, W, 3) each -> (B, 3, H, W) float32."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()


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
