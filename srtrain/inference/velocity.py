"""The velocity of a flow as a network from images to images, which engines can cut into tiles."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, ClassVar

import torch

from srtrain.inference.engine import Engine
from srtrain.inference.receptive import Reach, measure
from srtrain.networks.generator import Generator
from srtrain.networks.spec import Spec

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from srtrain.networks.flow import Flow

LONGEST = 256  # HR pixels that a U-Net of four levels still reaches


class AtMoment(Generator):
    """``velocity(x, moment)``, of ``scale`` 1: its pixels are HR pixels.

    It sees the half-made image and what that is conditioned on, ``channels`` in all; of three
    channels alone, as probes give them, the condition is a copy.
    """

    moment: Tensor

    def __init__(self, flow: Flow) -> None:
        net = flow.velocity
        kind = type(net)
        super().__init__(
            net,
            scale=1,
            spec=Spec(_target_=f"{kind.__module__}.{kind.__qualname__}", kwargs={}),
            multiple_of=int(getattr(net, "multiple_of", 1)),
        )
        self.channels = 3 if flow.condition == "none" else 6
        self.moment = torch.full((1,), 0.5)
        self.train(net.training)

    def raw(self, lr: Tensor) -> Tensor:
        """Shapes: (B, 3 | channels, H, W) -> (B, 3, H, W). The network pads what it must."""
        times = self.channels // lr.shape[1]
        seen = lr if times == 1 else lr.repeat(1, times, 1, 1)
        velocity: Tensor = self.net(seen, self.moment.to(lr.device).expand(len(lr)))
        return velocity

    def reach(self) -> Reach:
        """Of one velocity, in HR pixels; measured."""
        return measure(self, longest=LONGEST)


class VelocityEngine(Engine):
    """``Engine`` for an ``AtMoment``, whose halo is wide and whose pixels are many.

    Windows are larger: around 54 pixels, a core of 310 costs 1.8 times its own work, one of 580
    1.4 times.
    """

    largest: ClassVar[dict[str, int]] = {"cpu": 1024, "cuda": 2048}
    on_cpu: ClassVar[int] = 2 * 2**30

    @functools.cached_property
    def reach(self) -> Reach:
        """How far a velocity looks, in HR pixels."""
        assert isinstance(self.generator, AtMoment)
        return self.told(self.generator.reach())

    def at(self, x: Tensor, t: Tensor, *, on_tile: Callable[[], None] | None = None) -> Tensor:
        """The velocity of the whole half-made image ``x`` at moments ``t``, all the same.

        Shapes: x (B, channels, H, W), t (B,) -> (B, 3, H, W), where x is.
        """
        assert isinstance(self.generator, AtMoment)
        self.generator.moment = t[:1]
        return self.whole(x, on_tile=on_tile)
