"""Guards, and how they are worded: the value, what was expected, the likely fix."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def same_shape(sr: Tensor, hr: Tensor) -> None:
    """Raises ValueError unless the shapes agree; broadcasting would hide a wrong scale."""
    if sr.shape != hr.shape:
        raise ValueError(
            f"sr {tuple(sr.shape)} and hr {tuple(hr.shape)} must have one shape; is `scale` right?"
        )


def divisible_by(value: int, by: int, what: str) -> None:
    """Raises ValueError unless ``by`` divides ``value``."""
    if by < 1 or value % by:
        raise ValueError(f"{what} = {value} must be a multiple of {by}")


def image_batch(image: Tensor, what: str = "image") -> None:
    """Raises ValueError unless ``image`` is a float NCHW batch."""
    if image.ndim != 4 or not image.is_floating_point():
        raise ValueError(
            f"{what} must be a float (B, C, H, W) batch, got {image.dtype} {tuple(image.shape)}"
        )


def counted(number: int, noun: str) -> str:
    """``1 problem``, ``2 problems``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
