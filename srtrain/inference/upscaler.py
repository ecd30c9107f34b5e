"""A trained network as something that takes an image and gives a larger one."""

from __future__ import annotations

import functools
import itertools
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from srtrain.batch import to_float
from srtrain.errors import ConfigError
from srtrain.images import Picture, from_pillow, from_tensor, to_pillow, to_tensor
from srtrain.inference.bounds import AnyImage, Bounds, check_unit_range, opened
from srtrain.inference.receptive import Reach, measure
from srtrain.inference.tiling import upscale_tiled
from srtrain.inference.transparency import fill_hidden
from srtrain.networks.loading import load_generator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from srtrain.networks.generator import Generator

_TILE = {"cpu": 256, "cuda": 512}  # EDSR x4 then needs about 0.5 and 2 GB

_SMALLEST_TILE = 16

_log = logging.getLogger(__name__)


class Upscaler:
    """A generator on a device, applied to images of any kind and size.

    ``tile``: LR pixels a side of the pieces in which large images are computed, without visible
    or measurable seams; None chooses by device, 0 never cuts. ``self_ensemble``: the mean over
    the 8 flips and turns of the image, 8 times slower and a little better (Timofte et al. 2016).
    """

    def __init__(
        self,
        generator: Generator,
        *,
        device: torch.device | str = "cpu",
        tile: int | None = None,
        self_ensemble: bool = False,
    ) -> None:
        self.device = torch.device(device)
        self.generator = generator.to(self.device).eval()
        self.scale = generator.scale
        self.tile = _TILE.get(self.device.type, 256) if tile is None else tile
        self.self_ensemble = self_ensemble

    @functools.cached_property
    def reach(self) -> Reach:
        """How far the generator looks, measured when a tile is first needed."""
        reach = measure(self.generator)
        if not reach.exact:
            _log.warning("the network looks at the whole image: tiles are blended, approximate")
        return reach

    def upscale(self, image: AnyImage) -> AnyImage:
        """An image ``scale`` times as large, of the kind and depth that was given.

        PIL: any mode (palette and CMYK come back as RGB; EXIF orientation is applied). Arrays:
        (H, W), (H, W, 1 | 3) or with alpha (H, W, 2 | 4), uint8, uint16, or float in [0, 1].
        Tensors: (C, H, W) or (B, C, H, W) with 1 or 3 channels, uint8 or float in [0, 1].

        Raises: TypeError, ValueError for anything else.
        """
        if isinstance(image, Tensor):
            return self._upscale_any_tensor(image)
        if isinstance(image, np.ndarray):
            return self._upscale_array(image)
        if isinstance(image, Image.Image):
            return to_pillow(self.upscale_picture(from_pillow(image)))
        raise TypeError(f"expected a PIL image, an array or a tensor, got {type(image).__name__}")

    def upscale_picture(
        self, picture: Picture, *, on_tile: Callable[[], None] | None = None
    ) -> Picture:
        """Colour and alpha each on their own; depth, gray and profile are kept."""
        pixels, alpha = picture.pixels, picture.alpha
        colour = to_tensor(pixels)[:, : 1 if pixels.shape[2] == 1 else 3]
        bits, larger_alpha = picture.bits, None
        if alpha is not None:
            seen = to_tensor(alpha)[:, :1]
            colour = fill_hidden(colour, seen)
            if alpha.min() == alpha.max():
                larger_alpha = alpha.repeat(self.scale, 0).repeat(self.scale, 1)
            else:
                larger_alpha = self._upscale_levels(seen, bits, on_tile)[..., 0]
        return replace(
            picture,
            pixels=self._upscale_levels(colour, bits, on_tile),
            alpha=larger_alpha,
        )

    @torch.no_grad()
    def _upscale_levels(
        self, lr: Tensor, bits: int, on_tile: Callable[[], None] | None
    ) -> np.ndarray[Any, Any]:
        """As ``upscale_tensor``, rounded tile by tile: floats of the whole would take 4 times more.

        Shapes: lr float (1, 1 | 3, h, w) -> uint8 or uint16 (H, W, 1 | 3).
        """
        if self.self_ensemble:
            return from_tensor(self.upscale_tensor(lr, on_tile=on_tile), bits=bits)
        gray = lr.shape[1] == 1

        def levels(sr: Tensor) -> Tensor:
            rounded = from_tensor(sr.mean(dim=1, keepdim=True) if gray else sr, bits=bits)
            return torch.from_numpy(rounded).permute(2, 0, 1)[None]

        sr = self._upscale_once(lr.expand(-1, 3, -1, -1), on_tile=on_tile, finish=levels)
        return np.ascontiguousarray(sr[0].permute(1, 2, 0).numpy())

    @torch.no_grad()
    def bands(self, image: AnyImage, *, level: float | None = None) -> Bounds[AnyImage]:
        """The images between which the truth lies in ``level`` of the values, of the kind given.

        ``level``: the model's own by default, for which it is calibrated. What the share means, and
        what it does not: ``srtrain.metrics.coverage``. With ``self_ensemble``, the band of the mean
        maps over flips and turns; the calibration is that of single passes.

        Takes what ``upscale`` takes, of three opaque colours: PIL images, arrays (H, W, 3), tensors
        (3, H, W) or (B, 3, H, W).

        Raises: ConfigError if the model predicts a single image; ValueError for other levels of a
            model of quantiles, and for gray and transparent images; TypeError for other kinds.
        """
        head = self.generator.head
        if head is None:
            raise ConfigError(
                "this model predicts one image and no band",
                fix="train experiment=quantile, gaussian_nll or laplace_nll",
            )
        lr, made = opened(image)
        headless = self.generator.headless()

        def mapped(view: Tensor) -> Tensor:
            return head.maps(self._upscale_once(view, generator=headless))

        maps = _over_flips_and_turns(lr, mapped) if self.self_ensemble else mapped(lr)
        lower, upper = (b.clamp(0, 1) for b in head.interval(maps, level))
        return Bounds(made(lower), made(upper))

    @torch.no_grad()
    def upscale_tensor(self, lr: Tensor, *, on_tile: Callable[[], None] | None = None) -> Tensor:
        """Shapes: lr float (B, 1 | 3, h, w) -> float32 (B, 1 | 3, H, W), clamped to [0, 1]."""
        gray = lr.shape[1] == 1
        colour = lr.float().expand(-1, 3, -1, -1)
        upscale = functools.partial(self._upscale_once, on_tile=on_tile)
        sr = _over_flips_and_turns(colour, upscale) if self.self_ensemble else upscale(colour)
        return (sr.mean(dim=1, keepdim=True) if gray else sr).clamp_(0, 1)

    def _upscale_once(
        self,
        lr: Tensor,
        *,
        generator: Generator | None = None,
        on_tile: Callable[[], None] | None = None,
        finish: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        generator = generator or self.generator
        longest = max(lr.shape[-2:])
        tile = longest if self.tile == 0 else min(self.tile, longest)
        while True:
            # Whole images need no halo, so a network that is never cut is never probed.
            reach = self.reach if tile < longest else Reach(0, self.generator.multiple_of)
            try:
                return upscale_tiled(
                    generator, lr, tile=tile, halo=reach, on_tile=on_tile, finish=finish
                )
            except RuntimeError as error:
                if not _is_out_of_memory(error) or tile <= _SMALLEST_TILE:
                    raise
            # Here, not in the handler: the exception holds what filled the memory.
            tile = self.tile = max(_SMALLEST_TILE, tile // 2)
            _log.warning("out of memory: continuing with tiles of %d pixels", tile)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _upscale_array(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        channels = 1 if array.ndim == 2 else array.shape[-1] if array.ndim == 3 else 0
        if channels not in (1, 2, 3, 4):
            raise ValueError(f"expected (H, W) or (H, W, 1 … 4), got {array.shape}")
        layers = array.reshape(*array.shape[:2], channels)
        colours = channels - (channels in (2, 4))
        if array.dtype in (np.uint8, np.uint16):
            alpha = layers[..., -1] if colours < channels else None
            larger = self.upscale_picture(Picture(layers[..., :colours], alpha))
            parts = [larger.pixels] + ([] if larger.alpha is None else [larger.alpha[..., None]])
            out = np.concatenate(parts, axis=2)
        else:
            check_unit_range(float(layers.min()), float(layers.max()), str(array.dtype))
            image = torch.from_numpy(layers.astype(np.float32)).permute(2, 0, 1)[None]
            sr = self._upscale_floats(image, colours)
            out = sr[0].permute(1, 2, 0).cpu().numpy().astype(array.dtype)
        return out[..., 0] if array.ndim == 2 else out

    def _upscale_floats(self, image: Tensor, colours: int) -> Tensor:
        """The first ``colours`` channels and, where there is one more, alpha."""
        colour, alpha = image[:, :colours], image[:, colours:]
        if alpha.shape[1] == 0:
            return self.upscale_tensor(colour)
        if alpha.min() == alpha.max():
            larger = alpha.repeat_interleave(self.scale, -1).repeat_interleave(self.scale, -2)
        else:
            larger = self.upscale_tensor(alpha)
        return torch.cat([self.upscale_tensor(fill_hidden(colour, alpha)), larger], dim=1)

    def _upscale_any_tensor(self, image: Tensor) -> Tensor:
        if image.ndim not in (3, 4) or image.shape[-3] not in (1, 3):
            raise ValueError(f"expected (C, H, W) or (B, C, H, W), C 1 or 3, got {image.shape}")
        batch = image if image.ndim == 4 else image[None]
        if image.dtype == torch.uint8:
            levels = self.upscale_tensor(to_float(batch)).mul_(255.0).add_(0.5).floor_()
            sr = levels.to(torch.uint8)
        else:
            check_unit_range(batch.min().item(), batch.max().item(), str(image.dtype))
            sr = self.upscale_tensor(batch).to(image.dtype)
        return sr if image.ndim == 4 else sr[0]


def load_model(path: str | Path, *, device: str = "auto", trust: Sequence[str] = ()) -> Upscaler:
    """The model in a checkpoint, a run folder or a community file, ready to ``upscale`` images.

    ``device``: "auto" takes the GPU if there is one. ``trust``: packages whose networks the file
    may name, beside srtrain and spandrel.

    Raises: StorageError if the file is damaged or unsafe, ConfigError without such a device.
    """
    return Upscaler(load_generator(Path(path), trust=trust), device=pick_device(device))


def pick_device(name: str) -> torch.device:
    """The device called ``name``; "auto" is the GPU if there is one, else the CPU.

    Raises: ConfigError if this machine does not have it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("no CUDA device here", where=f"device={name}", fix="use cpu or auto")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {name!r}", fix="use auto, cpu or cuda") from error


def _over_flips_and_turns(lr: Tensor, upscale: Callable[[Tensor], Tensor]) -> Tensor:
    total = lr.new_zeros(())
    for turns, mirrored in itertools.product(range(4), (False, True)):
        view = torch.rot90(lr.flip(-1) if mirrored else lr, turns, dims=(-2, -1))
        sr = torch.rot90(upscale(view), -turns, dims=(-2, -1))
        total = total + (sr.flip(-1) if mirrored else sr)
    return total / 8


def _is_out_of_memory(error: RuntimeError) -> bool:
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return "allocate memory" in str(error) or "out of memory" in str(error)
