"""Models as they are measured: LR images in, SR images out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image

from srtrain.degradation.resize import upscale_rounded
from srtrain.files import sha256_of
from srtrain.images import read_rgb8
from srtrain.inference.engine import Engine
from srtrain.inference.memory import available, bytes_per_pixel
from srtrain.inference.receptive import measure
from srtrain.inference.upscaler import Upscaler

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from srtrain.cli.evaluate.sets import DataSet, Item
    from srtrain.inference.receptive import Reach
    from srtrain.networks.generator import Generator

_SMALL = 64  # LR pixels a side; up to this size images are never cut
_SHARE = 0.7  # of the free memory that a whole image may take


class Made(NamedTuple):
    """``sr`` (B, 3, H, W); of each image its samples (N, 3, H, W) uint8, and the mean image."""

    sr: Tensor
    samples: list[Tensor]
    means: list[Tensor | None]


class Model(ABC):
    """``name`` as in tables; ``sha256`` of its file, of all of its images, or empty.

    ``whole_levels``: its images are of 8 bit already. ``approximate``: its last ones were blended
    from tiles, and differ from those of whole images. ``one_by_one``: an image takes so long that
    several at once would only delay what is kept of each.
    """

    whole_levels = True
    approximate = False
    one_by_one = False

    def __init__(self, name: str, sha256: str) -> None:
        self.name = name
        self.sha256 = sha256

    @abstractmethod
    def upscale(self, lr: Tensor, data: DataSet, items: Sequence[Item]) -> Tensor:
        """Shapes: lr (B, 3, h, w) in [0, 1] -> float32 (B, 3, H, W) in [0, 1], where lr is."""

    def make(self, lr: Tensor, data: DataSet, items: Sequence[Item]) -> Made:
        """All that is measured: of most models one image each."""
        return Made(self.upscale(lr, data, items), [], [])

    def key(self, data: DataSet, item: Item) -> str:
        """Changes with whatever may change its image of ``item``."""
        return self.sha256 or self.name

    def prepare(self, device: torch.device) -> None:  # noqa: B027 - most have nothing to do
        """Before the first image."""

    def release(self) -> None:  # noqa: B027
        """After the last."""


class Classic(Model):
    """``bicubic`` as MATLAB's ``imresize`` of 8-bit files, ``lanczos`` as Pillow's; ``nearest``."""

    def __init__(self, name: str, word: str, scale: int) -> None:
        super().__init__(name, "")
        self.word = word
        self.scale = scale

    def key(self, data: DataSet, item: Item) -> str:
        """What it does; not what it is called."""
        return self.word

    def upscale(self, lr: Tensor, data: DataSet, items: Sequence[Item]) -> Tensor:
        """As above."""
        if self.word == "bicubic":
            return upscale_rounded(lr, scale=self.scale)
        if self.word == "nearest":
            return lr.repeat_interleave(self.scale, -1).repeat_interleave(self.scale, -2)
        return torch.stack([self._lanczos(image) for image in lr.cpu()]).to(lr.device)

    def _lanczos(self, lr: Tensor) -> Tensor:
        levels = lr.mul(255).round().byte().permute(1, 2, 0).numpy()
        size = (self.scale * levels.shape[1], self.scale * levels.shape[0])
        larger = Image.fromarray(levels).resize(size, Image.Resampling.LANCZOS)
        return _unit(np.asarray(larger))


class Finished(Model):
    """SR images that lie in a folder; ``files``: SET → HR name → SR file."""

    def __init__(self, name: str, files: Mapping[str, Mapping[str, Path]]) -> None:
        self.files = files
        self.digests = {
            (data, image): sha256_of(path)
            for data, images in files.items()
            for image, path in images.items()
        }
        told = "".join(f"{data}/{image} {own}\n" for (data, image), own in self.digests.items())
        super().__init__(name, sha256(told.encode("utf-8", "surrogateescape")).hexdigest())

    def key(self, data: DataSet, item: Item) -> str:
        """The file's."""
        return self.digests[data.name, item.name]

    def upscale(self, lr: Tensor, data: DataSet, items: Sequence[Item]) -> Tensor:
        """As above. Raises: DataError if a file cannot be read."""
        paths = (self.files[data.name][item.name] for item in items)
        return torch.stack([_unit(read_rgb8(path)) for path in paths]).to(lr.device)


class Network(Model):
    """A generator of ours or of others.

    ``tile``: LR pixels a side of the pieces of large images. None cuts only networks whose pieces
    equal the whole, and others where the whole does not fit the memory: ``approximate``.
    """

    whole_levels = False

    def __init__(
        self,
        name: str,
        file: Path,
        generator: Generator,
        *,
        tile: int | None,
        self_ensemble: bool,
        precision: str,
    ) -> None:
        self.file = file
        self.generator = generator
        self.tile, self.self_ensemble, self.precision = tile, self_ensemble, precision
        self.upscaler: Upscaler | None = None
        self.reach: Reach | None = None
        self.bytes_per_pixel: int | None = None
        super().__init__(name, sha256_of(self.file))

    def prepare(self, device: torch.device) -> None:
        """To where it computes."""
        self.upscaler = Upscaler(
            self.generator,
            device=device,
            tile=self.tile,
            self_ensemble=self.self_ensemble,
            precision=self.precision,
        )

    def release(self) -> None:
        """Back, so that the next has the memory."""
        self.generator.to("cpu")
        self.upscaler = None

    def upscale(self, lr: Tensor, data: DataSet, items: Sequence[Item]) -> Tensor:
        """As above. Raises: RuntimeError if the network cannot compute it."""
        assert self.upscaler is not None
        engine, side = self.upscaler.engine, max(lr.shape[-2:])
        assert isinstance(engine, Engine)
        if self.tile is None and side > _SMALL:
            if self.reach is None:
                self.reach = measure(self.generator)
            if self.reach.exact:
                engine.reach = self.reach  # it need not measure again
            else:
                engine.tile = 0 if self._fits(lr, engine) else None
        sr = self.upscaler.upscale_tensor(lr)
        self.approximate = 0 < (engine.tile or 0) < side and not engine.reach.exact
        return sr

    def _fits(self, lr: Tensor, engine: Engine) -> bool:
        if self.bytes_per_pixel is None:
            self.bytes_per_pixel = bytes_per_pixel(engine.forward)
        pixels = lr.shape[0] * lr.shape[-2] * lr.shape[-1]
        return self.bytes_per_pixel * pixels < _SHARE * available(engine.device)


def _unit(levels: np.ndarray) -> Tensor:
    """Shapes: uint8 (H, W, 3) -> float32 (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(levels)).permute(2, 0, 1).float().div_(255)
