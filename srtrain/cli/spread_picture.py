"""How far samples lie apart, as a picture with the scale that it is read by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from srtrain.evaluation.heat import heat

if TYPE_CHECKING:
    from srtrain.images.picture import Pixels

    Levels = np.ndarray[Any, np.dtype[np.float32]]

_TOPS = (
    1,
    2,
    5,
    10,
    15,
    20,
    30,
    50,
    100,
)  # levels; a standard deviation in [0, 255] ends at 127.5 · √2
_SHARE = 99  # per cent of the pixels that the scale's top is not below
_TICKS = 5


def spread_picture(levels: Levels) -> Pixels:
    """``levels`` by colour, pixel for pixel, and beside them which colour is which level.

    The scale ends at 1, 2, 5, 10, … 100 levels, the least that 99 % of the pixels do not exceed.

    Shapes: float (H, W), levels of 255 -> uint8 (H', W', 3), the map in its upper left corner.
    """
    high = float(np.percentile(levels, _SHARE))
    top = next((top for top in _TOPS if top >= high), _TOPS[-1])
    scale = _scale(top, beyond=bool((levels > top).any()), height=levels.shape[0])
    height, width = max(levels.shape[0], scale.shape[0]), levels.shape[1]
    picture = np.full((height, width + scale.shape[1], 3), 255, np.uint8)
    picture[: levels.shape[0], :width] = heat(levels, hottest=top)
    picture[: scale.shape[0], width:] = scale
    return picture


def _scale(top: int, *, beyond: bool, height: int) -> Pixels:
    """A bar from 0 up to ``top`` with its levels, on white, of about this height."""
    from PIL import Image, ImageDraw, ImageFont

    size = min(32, max(11, height // 24))
    font = ImageFont.load_default(size)
    height = max(height, 12 * size)
    bar, gap, first, last = size, size // 2, 4 * size, height - size
    image = Image.new("RGB", (9 * size, height), "white")
    ramp = np.linspace(top, 0, last - first, dtype=np.float32)[:, None].repeat(bar, axis=1)
    image.paste(Image.fromarray(heat(ramp, hottest=top)), (gap, first))
    pen = ImageDraw.Draw(image)
    pen.text((gap, size // 2), "std of samples,\nlevels of 255", "black", font, spacing=size // 6)
    for tick in range(_TICKS + 1):
        level = top * tick / _TICKS
        y = last - round((last - first) * tick / _TICKS)
        pen.line((gap + bar, y, 2 * gap + bar, y), "black", max(1, size // 12))
        words = f"{level:g}" + " or more" * (beyond and tick == _TICKS)
        pen.text((3 * gap + bar, y), words, "black", font, anchor="lm")
    return np.asarray(image)
