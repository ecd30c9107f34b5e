"""How a validation's large images go through the network; training/ does not know inference/."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srtrain.inference.receptive import measure
from srtrain.inference.tiling import upscale_tiled
from srtrain.inference.velocity import AtMoment
from srtrain.networks.flow import Flow

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from srtrain.networks.generator import Generator

VALIDATION_TILE = 512  # LR pixels a side
VELOCITY_TILE = 1024  # HR pixels a side; a velocity's wide halo would be half of smaller ones


def in_tiles(generator: Generator) -> Callable[[Tensor], Tensor]:
    """``generator.raw`` tile by tile, equal to the whole to 1e-5; the whole if it sees all of it.

    In fp32 with TF32 off, that is, for which the caller cares: ``Validation.predict`` does.
    Tiles of one size whatever memory there is: a run that is resumed finds the same figures. Of a
    flow the velocities are tiled, on one half-made image.
    """
    if isinstance(generator.net, Flow):
        return _flow_in_tiles(generator.net) or generator.raw
    headless, head = generator.headless().eval(), generator.head
    reach = measure(headless)
    if not reach.exact:
        return generator.raw

    def tiled(lr: Tensor) -> Tensor:
        return upscale_tiled(
            headless, lr, tile=VALIDATION_TILE, halo=reach, finish=head.maps if head else None
        )

    return tiled


def _flow_in_tiles(flow: Flow) -> Callable[[Tensor], Tensor] | None:
    """Sample 0 of seed 0; None where a velocity, or the mean, sees all of the image."""
    still = AtMoment(flow).eval()
    reach = still.reach()
    mean = flow.mean
    known = None if mean is None else measure(mean)
    if not reach.exact or (known is not None and not known.exact):
        return None

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        still.moment = t[:1]
        return upscale_tiled(still, x, tile=VELOCITY_TILE, halo=reach)

    def tiled(lr: Tensor) -> Tensor:
        found = None
        if mean is not None and known is not None:
            found = upscale_tiled(mean, lr, tile=VALIDATION_TILE, halo=known)
        return flow.sample(lr, velocity=velocity, mean=found)

    return tiled
