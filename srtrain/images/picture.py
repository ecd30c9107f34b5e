"""A decoded image, and its way to a tensor and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Pixels = np.ndarray[Any, np.dtype[Any]]
_IN_CACHE = 2**17  # floats


@dataclass(frozen=True, eq=False)
class Picture:
    """Upright pixels, uint8 or uint16 (H, W, 3) RGB or (H, W, 1) gray, and what belongs to them.

    ``alpha``: (H, W) of the same dtype, not premultiplied, or None. ``mode``: what the file held
    ("P", "CMYK", …). ``icc``: the colour profile of ``pixels``. ``notes``: what was lost on the
    way here, for people.
    """

    pixels: Pixels
    alpha: Pixels | None = None
    mode: str = "RGB"
    icc: bytes | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises: ValueError if pixels and alpha do not fit the description above."""
        pixels, alpha = self.pixels, self.alpha
        if pixels.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"pixels must be uint8 or uint16, got {pixels.dtype}")
        if pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
            raise ValueError(f"pixels must be (H, W, 1 or 3), got {pixels.shape}")
        if alpha is not None and (alpha.shape != pixels.shape[:2] or alpha.dtype != pixels.dtype):
            raise ValueError(
                f"alpha {alpha.dtype} {alpha.shape} does not fit {pixels.dtype} {pixels.shape}"
            )

    @property
    def bits(self) -> int:
        """8 or 16 per channel."""
        return 8 * self.pixels.dtype.itemsize

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def rgb8(self) -> Pixels:
        """uint8 (H, W, 3): gray repeated, 16 bit / 257 rounded, alpha laid over white.

        White, because the colour below transparent pixels is arbitrary and must not be learnt.
        """
        pixels = _to_8_bits(self.pixels)
        if self.alpha is not None:
            alpha = _to_8_bits(self.alpha)[..., None].astype(np.uint32)
            mixed = (pixels * alpha + 255 * (255 - alpha) + 127) // 255
            pixels = mixed.astype(np.uint8)
        return np.ascontiguousarray(np.broadcast_to(pixels, (*self.size, 3)))


def to_tensor(pixels: Pixels) -> Tensor:
    """``pixels / max``: float32 (1, 3, H, W) in [0, 1] of uint8 or uint16 levels, gray repeated.

    Shapes: pixels (H, W), (H, W, 1) or (H, W, 3).
    """
    import torch

    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"pixels must be uint8 or uint16, got {pixels.dtype}")
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise ValueError(f"pixels must be (H, W), (H, W, 1) or (H, W, 3), got {pixels.shape}")
    unit = pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    image = torch.from_numpy(np.ascontiguousarray(unit.transpose(2, 0, 1)))[None]
    return image.expand(-1, 3, -1, -1).contiguous()


def to_uint8(image: Tensor) -> Pixels:
    """Clamped, rounded half up: (3, H, W) or (1, 3, H, W) in [0, 1] -> uint8 (H, W, 3)."""
    return from_tensor(image, bits=8)


def from_tensor(image: Tensor, *, bits: int) -> Pixels:
    """Levels of a float image, clamped, rounded half up; NaN is refused.

    Shapes: image (C, H, W) or (1, C, H, W) in [0, 1] -> uint8 or uint16 (H, W, C).
    """
    if image.ndim == 4 and image.shape[0] == 1:
        image = image[0]
    if image.ndim != 3 or bits not in (8, 16):
        raise ValueError(f"one image of 8 or 16 bits is needed, got {tuple(image.shape)}, {bits}")
    levels = round_levels(image.detach(), bits=bits)
    array: Pixels = levels.permute(1, 2, 0).contiguous().cpu().numpy()
    return array


def round_levels(image: Tensor, *, bits: int) -> Tensor:
    """uint8 or uint16 of floats in [0, 1], clamped, rounded half up; NaN and infinity are refused.

    Raises: ValueError.
    """
    import torch

    dtype = torch.uint8 if bits == 8 else torch.uint16
    levels = torch.empty_like(image, dtype=dtype)
    rows = image.shape[-2]
    if image.device.type == "cpu":  # as many as stay in the cache through five operations
        rows = max(1, _IN_CACHE * rows // max(1, image.numel()))
    for part, rounded in zip(image.split(rows, -2), levels.split(rows, -2), strict=True):
        values = part.float()
        if not torch.isfinite(values.sum()):
            raise ValueError(
                "the image holds NaN or infinity; the network that made it has diverged"
            )
        values = values.clamp(0, 1).mul_(2**bits - 1).add_(0.5)
        rounded.copy_(values.to(torch.int32))  # at once, torch takes twice as long
    return levels


def _to_8_bits(levels: Pixels) -> Pixels:
    if levels.dtype == np.uint8:
        return levels
    return ((levels.astype(np.uint32) + 128) // 257).astype(np.uint8)
