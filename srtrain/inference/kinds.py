"""Samples of an image of any kind: opened once, made as often as there are samples."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from srtrain.batch import to_float
from srtrain.images import Picture, from_pillow, from_tensor, to_pillow
from srtrain.inference.bounds import AnyImage, check_type, check_unit_range, turned
from srtrain.inference.transparency import fill_hidden

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from srtrain.inference.flow_engine import FlowEngine
    from srtrain.inference.sampling import Sampling

    Enlarge = Callable[[Tensor], Tensor]
    """Of alpha: float (B, 1, h, w) -> (B, 1, H, W)."""


def samples_of(
    flow: FlowEngine, image: AnyImage, sampling: Sampling, enlarge: Enlarge
) -> Iterator[AnyImage]:
    """The samples of an image, of its kind and size; where that is gray, so are they."""
    lr, made = opened(image, enlarge)
    for sr in flow.sample(lr, sampling):
        yield made(as_given(sr, lr))


def as_given(sr: Tensor, lr: Tensor) -> Tensor:
    """The mean of the channels where ``lr`` has but one."""
    return sr.mean(dim=1, keepdim=True) if lr.shape[1] == 1 else sr


def opened(image: AnyImage, enlarge: Enlarge) -> tuple[Tensor, Callable[[Tensor], AnyImage]]:
    """The colours as float32 (B, 1 | 3, h, w) in [0, 1], and what makes a sample's image of them.

    That takes (B, 1 | 3, H, W) and gives the kind, type and channels of ``image``; alpha is
    enlarged once.

    Raises: TypeError, ValueError as ``Upscaler.upscale``.
    """
    if isinstance(image, Tensor):
        return _tensor(image)
    if isinstance(image, np.ndarray):
        return _array(image, enlarge)
    if isinstance(image, Image.Image):
        lr, made = opened_picture(from_pillow(image), enlarge)
        return lr, lambda sr: to_pillow(made(sr))
    raise TypeError(f"expected a PIL image, an array or a tensor, got {type(image).__name__}")


def opened_picture(
    picture: Picture, enlarge: Enlarge
) -> tuple[Tensor, Callable[[Tensor], Picture]]:
    """As ``opened``; depth and profile are kept, alpha is a plane of its own."""
    most = np.float32(np.iinfo(picture.pixels.dtype).max)
    colour = _planes(picture.pixels / most)
    alpha = None
    if picture.alpha is not None:
        seen = _planes(picture.alpha[..., None] / most)
        colour = fill_hidden(colour, seen)
        alpha = from_tensor(enlarge(seen), bits=picture.bits)[..., 0]

    def made(sr: Tensor) -> Picture:
        return replace(picture, pixels=from_tensor(sr, bits=picture.bits), alpha=alpha)

    return colour, made


def check_array(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """``image``. Raises: TypeError, ValueError for types and shapes that no image has."""
    channels = 1 if image.ndim == 2 else image.shape[-1] if image.ndim == 3 else 0
    if channels not in (1, 2, 3, 4):
        raise ValueError(
            f"expected (H, W) or (H, W, 1 … 4), got {image.shape}{turned(image.shape)}"
        )
    check_type(image)
    return image


def _planes(unit: np.ndarray[Any, Any]) -> Tensor:
    """Shapes: (H, W, C) -> float32 (1, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(unit, np.float32)).permute(2, 0, 1)[None]


def _tensor(image: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    if image.ndim not in (3, 4) or image.shape[-3] not in (1, 3):
        raise ValueError(f"expected (C, H, W) or (B, C, H, W), C 1 or 3, got {tuple(image.shape)}")
    check_type(image)
    levels = image.dtype == torch.uint8
    lr = to_float(image if image.ndim == 4 else image[None]).float()
    check_unit_range(lr.min().item(), lr.max().item(), str(image.dtype))

    def made(sr: Tensor) -> Tensor:
        out = (sr.mul(255).add(0.5).floor() if levels else sr).to(image.dtype)
        return (out if image.ndim == 4 else out[0]).to(image.device)

    return lr, made


def _array(
    image: np.ndarray[Any, Any], enlarge: Enlarge
) -> tuple[Tensor, Callable[[Tensor], np.ndarray[Any, Any]]]:
    check_array(image)
    unit = _unit(image if image.ndim == 3 else image[..., None])
    channels = unit.shape[1]
    colours = channels - (channels in (2, 4))
    colour, alpha = unit[:, :colours], unit[:, colours:]
    larger = alpha
    if colours < channels:
        colour, larger = fill_hidden(colour, alpha), enlarge(alpha).cpu()

    def made(sr: Tensor) -> np.ndarray[Any, Any]:
        planes = torch.cat([sr.cpu(), larger], dim=1) if colours < channels else sr
        out: np.ndarray[Any, Any]
        if image.dtype.kind == "u":
            out = from_tensor(planes, bits=8 * image.itemsize)
        else:
            out = planes[0].permute(1, 2, 0).cpu().numpy().astype(image.dtype)
        return out[..., 0] if image.ndim == 2 else out

    return colour, made


def _unit(layers: np.ndarray[Any, Any]) -> Tensor:
    if layers.dtype.kind == "u":
        return _planes(layers / np.float32(np.iinfo(layers.dtype).max))
    check_unit_range(float(layers.min()), float(layers.max()), str(layers.dtype))
    return _planes(layers)
