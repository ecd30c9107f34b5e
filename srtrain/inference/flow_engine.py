"""Images of a flow: each one and whole while it is made, its velocities computed in tiles."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from srtrain.errors import ConfigError
from srtrain.inference.engine import Engine, is_out_of_memory
from srtrain.inference.forward import to_unit
from srtrain.inference.memory import available
from srtrain.inference.receptive import Reach
from srtrain.inference.sampling import Sampling
from srtrain.inference.velocity import AtMoment, VelocityEngine
from srtrain.networks.flow import Flow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from srtrain.inference.tiling import Operation
    from srtrain.networks.generator import Generator

# Of one HR pixel while it is made, beside what a velocity's tile takes: noise, half-made image
# before and after a step, condition, velocities, mean and spread. Measured: 164; by Heun's steps
# and projected 234.
_BYTES = 240
_SHARE = 0.4  # of a GPU's free memory; the rest is the network's
_ON_HOST = 0.8

_log = logging.getLogger(__name__)


class FlowEngine:
    """A flow on a device, for images of any size; takes the place of ``Engine``.

    Tiles are those of the velocity, in each step anew, on one half-made image: no seam can appear,
    and no tile, batch or number of samples changes an image (to 1e-5 in fp32). The mean's network
    is asked once an image. ``tile`` as for ``Engine``, in LR pixels; ``sampling`` is what
    ``sample`` makes where it is not told otherwise, and whose sample 0 ``whole`` gives.

    Raises: TypeError for a generator that is no flow.
    """

    def __init__(
        self,
        generator: Generator,
        *,
        precision: torch.dtype,
        tile: int | None = None,
        sampling: Sampling | None = None,
    ) -> None:
        if not isinstance(generator.net, Flow):
            raise TypeError(f"{generator.architecture} is no flow")
        self.generator = generator
        self.flow = generator.net
        self.sampling = sampling or Sampling()
        self.velocity = VelocityEngine(AtMoment(self.flow), precision=precision)
        mean = self.flow.mean
        self.mean = None if mean is None else Engine(mean, precision=precision)
        self.tile = tile
        self.home = self.device = self.velocity.device  # of half-made images
        self._most: int | None = None  # samples at once, after memory ran out

    @property
    def tile(self) -> int | None:
        """LR pixels a side: as given, or as chosen since."""
        tile = self.velocity.tile
        return None if tile is None else -(-tile // self.generator.scale)

    @tile.setter
    def tile(self, tile: int | None) -> None:
        self.velocity.tile = None if tile is None else tile * self.generator.scale
        if self.mean is not None:
            self.mean.tile = tile

    @property
    def reach(self) -> Reach:
        """How far one velocity looks, in LR pixels; ``exact``: and neither is the mean blended."""
        found, scale = self.velocity.reach, self.generator.scale
        exact = found.exact and (self.mean is None or self.mean.reach.exact)
        return Reach(-(-found.halo // scale), -(-found.align // scale), exact=exact)

    def together(self, height: int, width: int) -> int:
        """How many LR images of this size are best computed at once."""
        scale = self.generator.scale
        return self.velocity.together(height * scale, width * scale)

    def whole(
        self,
        lr: Tensor,
        *,
        on_tile: Callable[[], None] | None = None,
        finish: Operation | None = None,
    ) -> Tensor:
        """Sample 0 of the seed, of every image of ``lr``, where that is.

        Shapes: lr (B, 1 | 3, h, w), levels or floats -> (B, 3, H, W) float32, or what ``finish``
        makes of that.
        """
        made = next(self.sample(lr, replace(self.sampling, samples=1), on_tile=on_tile))
        return (made if finish is None else finish(made)).to(lr.device)

    @torch.no_grad()
    def certain(self, alpha: Tensor) -> Tensor:
        """What is not sampled, as alpha: by the mean's network, or bicubic where there is none.

        Shapes: alpha float (B, 1, h, w) -> (B, 1, H, W) float32 in [0, 1], where that is.
        """
        if self.mean is None:
            return self.flow.enlarged(alpha).clamp(0, 1)
        return self.mean.whole(alpha).mean(dim=1, keepdim=True).clamp_(0, 1)

    @torch.no_grad()
    def sample(
        self,
        lr: Tensor,
        sampling: Sampling | None = None,
        *,
        on_tile: Callable[[], None] | None = None,
    ) -> Iterator[Tensor]:
        """Sample after sample, some computed together where they are small.

        Shapes: lr (B, 1 | 3, h, w), levels or floats -> float32 (B, 3, H, W) in [0, 1] on the
        device of half-made images. All B have the noise of their sample in common.
        Raises: MemoryError where a single one is beyond the memory.
        """
        asked = sampling or self.sampling
        self._find_room(lr)
        seen = to_unit(lr.to(self.home)).expand(-1, 3, -1, -1)
        seen = seen.contiguous(memory_format=torch.channels_last)  # as noise and velocities
        mean = None if self.mean is None else self.mean.whole(seen, on_tile=on_tile)
        done = 0
        while done < asked.samples:
            numbers = range(done, min(asked.samples, done + self._at_once(seen)))
            try:
                made = self._made(seen, mean, numbers, asked, on_tile)
            except RuntimeError as error:
                if not is_out_of_memory(error) or not self._can_give_way(len(numbers)):
                    raise
            else:
                done = numbers.stop
                yield from made.split(len(lr))
                continue
            # Here, not in the handler: the exception holds what filled the memory.
            self._give_way(len(numbers))
            seen, mean = seen.to(self.home), None if mean is None else mean.to(self.home)

    def _made(
        self,
        lr: Tensor,
        mean: Tensor | None,
        numbers: Sequence[int],
        asked: Sampling,
        on_tile: Callable[[], None] | None,
    ) -> Tensor:
        """Samples of these numbers, one after the other along the first axis."""
        count = len(lr)

        def each(image: Tensor) -> Tensor:
            return image if len(numbers) == 1 else torch.cat([image] * len(numbers))

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            return self.velocity.at(x, t, on_tile=on_tile)

        return self.flow.sample(
            each(lr),
            number=[number for number in numbers for _ in range(count)],
            seed=asked.seed,
            velocity=velocity,
            mean=None if mean is None else each(mean),
            **asked.how,
        ).clamp_(0, 1)

    def _at_once(self, lr: Tensor) -> int:
        """Samples that are computed together."""
        best = max(1, self.together(*lr.shape[-2:]) // len(lr))
        room = int(self._room(self.home) // self._needed(lr))
        return max(1, min(best, room, self._most or best))

    def _needed(self, lr: Tensor) -> int:
        """Bytes of one sample of every image of ``lr``."""
        count, _, height, width = lr.shape
        return count * height * width * self.generator.scale**2 * _BYTES

    def _room(self, place: torch.device) -> float:
        return (_SHARE if place.type == "cuda" else _ON_HOST) * available(place)

    def _find_room(self, lr: Tensor) -> None:
        """Half-made images lie on the device if they fit there, else on the host.

        Raises: MemoryError if neither has the room.
        """
        needed, self.home = self._needed(lr), self.device
        if needed <= self._room(self.home):
            return
        host = torch.device("cpu")
        free = self._room(host)
        if needed > free:
            size = "x".join(str(side * self.generator.scale) for side in lr.shape[:-3:-1])
            raise MemoryError(
                f"a sample of {size} pixels takes {needed / 1e9:.1f} GB while it is made,"
                f" {free / 1e9:.1f} GB are free: cut the image into parts"
            )
        self._give_way(1)

    def _can_give_way(self, count: int) -> bool:
        return count > 1 or self.home.type == "cuda"

    def _give_way(self, count: int) -> None:
        """To fewer samples at once; then to the host's memory."""
        if count > 1:
            self._most = count // 2
            _log.warning("out of memory: continuing with %d samples at once", self._most)
        else:
            self.home = torch.device("cpu")
            _log.warning("samples do not fit the GPU's memory: half-made images stay in the host's")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def make_engine(
    generator: Generator,
    *,
    precision: torch.dtype,
    tile: int | None = None,
    sampling: Sampling | None = None,
) -> Engine | FlowEngine:
    """The engine that suits ``generator``."""
    if isinstance(generator.net, Flow):
        return FlowEngine(generator, precision=precision, tile=tile, sampling=sampling)
    return Engine(generator, precision=precision, tile=tile)


def refuse(generator: Generator, *, self_ensemble: bool, sampling: Sampling | None) -> None:
    """Raises: ConfigError for flips and turns of a flow, and for samples of what is none."""
    flow = isinstance(generator.net, Flow)
    if flow and self_ensemble:
        raise ConfigError(
            "a mean over flips and turns averages what was sampled",
            where="--self-ensemble",
            fix="leave it out; --samples 8 writes the mean of samples too",
        )
    if not flow and sampling is not None:
        raise ConfigError(
            f"{generator.architecture} predicts one image: there is nothing to sample",
            where="samples, seed, steps, sampler, project",
            fix="give a run of experiment=pmrf or posterior, or leave them out",
        )
