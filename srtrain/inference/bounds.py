"""The two images of a band, of the kind that was given: read once, made twice."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from srtrain.batch import to_float
from srtrain.images import from_pillow, from_tensor, to_pillow, to_tensor

if TYPE_CHECKING:
    from collections.abc import Callable

AnyImage = TypeVar("AnyImage", Image.Image, "np.ndarray[Any, Any]", Tensor)

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Bounds(NamedTuple, Generic[AnyImage]):
    """Two images between which the truth is expected, of one kind."""

    lower: AnyImage
    upper: AnyImage


def opened(image: AnyImage) -> tuple[Tensor, Callable[[Tensor], AnyImage]]:
    """The image as float32 RGB (B, 3, h, w) in [0, 1], and what makes its kind of a bound.

    Levels are rounded half up: no level that lies between the bounds falls outside.

    Raises: TypeError, ValueError for anything but opaque RGB.
    """
    if isinstance(image, Tensor):
        return _opened_tensor(image)
    if isinstance(image, np.ndarray):
        return _opened_array(image)
    if isinstance(image, Image.Image):
        return _opened_pillow(image)
    raise TypeError(f"expected a PIL image, an array or a tensor, got {type(image).__name__}")


def check_type(image: np.ndarray[Any, Any] | Tensor) -> None:
    """Of other integers nobody knows which level is white.

    Raises: TypeError for other types than uint8, uint16 (arrays) and float16, 32, 64.
    """
    if isinstance(image, Tensor):
        known, levels = image.dtype in (torch.uint8, *FLOATS), "uint8"
    else:
        floats = image.dtype.kind == "f" and image.dtype.itemsize in (2, 4, 8)
        known, levels = floats or image.dtype in (np.uint8, np.uint16), "uint8, uint16"
    if not known:
        raise TypeError(
            f"expected {levels} or float in [0, 1], got {image.dtype}: "
            "cast to uint8 (levels 0 … 255) or float32 (values 0 … 1)"
        )


def check_unit_range(lowest: float, highest: float, dtype: str) -> None:
    """Slight overshoot is fine; 255 means that someone forgot to divide.

    Raises: ValueError beyond, for NaN and for infinity.
    """
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise ValueError(f"{dtype} images must lie in [0, 1], got NaN or infinity")
    if not (lowest >= -1 and highest <= 2):
        raise ValueError(
            f"{dtype} images must lie in [0, 1], got {lowest:.4g} … {highest:.4g}"
            + "; divide by 255?" * (highest > 2)
        )


def turned(shape: tuple[int, ...]) -> str:
    """What to do with an array whose channels come first; empty for other shapes."""
    first = len(shape) == 3 and shape[0] in (1, 3, 4)
    return "; channels first? array.transpose(1, 2, 0)" if first else ""


def _opened_tensor(image: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    if image.ndim not in (3, 4) or image.shape[-3] != 3:
        raise ValueError(f"expected RGB (3, H, W) or (B, 3, H, W), got {tuple(image.shape)}")
    check_type(image)
    levels = image.dtype == torch.uint8
    lr = to_float(image if image.ndim == 4 else image[None]).float()
    check_unit_range(lr.min().item(), lr.max().item(), str(image.dtype))

    def made(bound: Tensor) -> Tensor:
        out = (bound.mul(255).add(0.5).floor() if levels else bound).to(image.dtype)
        return out if image.ndim == 4 else out[0]

    return lr, made


def _opened_array(
    image: np.ndarray[Any, Any],
) -> tuple[Tensor, Callable[[Tensor], np.ndarray[Any, Any]]]:
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected RGB (H, W, 3), got {image.shape}{turned(image.shape)}")
    check_type(image)
    if image.dtype in (np.uint8, np.uint16):
        return to_tensor(image), lambda bound: from_tensor(bound, bits=8 * image.itemsize)
    check_unit_range(float(image.min()), float(image.max()), str(image.dtype))
    lr = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]

    def made(bound: Tensor) -> np.ndarray[Any, Any]:
        out: np.ndarray[Any, Any] = bound[0].permute(1, 2, 0).cpu().numpy().astype(image.dtype)
        return out

    return lr, made


def _opened_pillow(image: Image.Image) -> tuple[Tensor, Callable[[Tensor], Image.Image]]:
    picture = from_pillow(image)
    if picture.alpha is not None or picture.pixels.shape[2] != 3:
        raise ValueError(f'expected opaque RGB, got mode {image.mode}: image.convert("RGB")')

    def made(bound: Tensor) -> Image.Image:
        return to_pillow(replace(picture, pixels=from_tensor(bound, bits=picture.bits)))

    return to_tensor(picture.pixels), made
