"""Regression to the mean, measured without any network.

The MSE optimum is ``E[y|x]``, and the law of total variance says what it lacks:
``E‖y‖² - E‖ŷ‖² = MSE``. A sampler of the posterior lacks nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from srtrain.checks import same_shape

if TYPE_CHECKING:
    from torch import Tensor


def rtm_sums(sr: Tensor, hr: Tensor) -> tuple[Tensor, Tensor]:
    """``Σ(y² - ŷ²)`` and ``Σ(y - ŷ)²`` per image: over a set, divide sum by sum.

    Shapes: sr, hr (B, C, H, W) in [0, 1] -> twice (B,) float64.
    Raises: ValueError if shapes differ.
    """
    same_shape(sr, hr)
    sr, hr = sr.double(), hr.double()
    # (y - ŷ)(y + ŷ) keeps the digits that y² - ŷ² would lose.
    error = hr - sr
    return (error * (hr + sr)).sum(dim=(1, 2, 3)), error.square().sum(dim=(1, 2, 3))


def rtm(sr: Tensor, hr: Tensor) -> Tensor:
    """``(‖y‖² - ‖ŷ‖²) / ‖y - ŷ‖²`` per image: 1 = the mean, 0 = as much energy as HR has.

    Above 1, smoother than the mean; below 1, energy was added. Necessary and not sufficient
    (nearest-neighbour reads .96), and a shift of the mean by ``bias`` moves it by about
    ``2 · mean · bias / MSE``: read it beside MSE and bias. NaN for identical images.
    """
    gap, squared_error = rtm_sums(sr, hr)
    return gap / squared_error


def bias(sr: Tensor, hr: Tensor) -> Tensor:
    """``mean(sr - hr)`` per image, (B,) float64: what a colour or brightness shift looks like."""
    same_shape(sr, hr)
    return (sr.double() - hr.double()).mean(dim=(1, 2, 3))
