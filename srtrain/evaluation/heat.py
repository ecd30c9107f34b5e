"""Numbers per pixel as colours that anyone can order: black, violet, red, yellow, white."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from srtrain.images.picture import Pixels

# Matplotlib's magma at fifths: lightness rises evenly, also for the colour-blind and in print.
STOPS = ("#000004", "#3b0f70", "#8c2981", "#de4968", "#fe9f6d", "#fcfdbf")


def heat(values: NDArray[np.float32], *, hottest: float) -> Pixels:
    """0 is black, ``hottest`` and more the lightest colour, linear between equally spaced stops.

    Shapes: (H, W) -> uint8 (H, W, 3).
    """
    stops = np.array([[int(stop[i : i + 2], 16) for i in (1, 3, 5)] for stop in STOPS], np.float64)
    at = np.clip(values / hottest, 0, 1) * (len(stops) - 1)
    channels = [np.interp(at, np.arange(len(stops)), stops[:, c]) for c in range(3)]
    made: Pixels = np.floor(np.stack(channels, axis=2) + 0.5).astype(np.uint8)
    return made
