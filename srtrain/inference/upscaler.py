"""A trained network as something that takes an image and gives a larger one."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from srtrain.errors import ConfigError
from srtrain.images import Picture, from_pillow, from_tensor, to_pillow
from srtrain.inference.bounds import AnyImage, Bounds
from srtrain.inference.bounds import opened as opened_rgb
from srtrain.inference.engine import Engine
from srtrain.inference.flips import over_flips_and_turns
from srtrain.inference.flow_engine import FlowEngine, make_engine, refuse
from srtrain.inference.forward import Forward, pick_device, pick_precision, to_unit
from srtrain.inference.kinds import check_array, opened, samples_of
from srtrain.inference.levels import levels_of, pixels_of, to_levels, writable
from srtrain.inference.sampling import Sampling
from srtrain.inference.transparency import fill_hidden
from srtrain.networks.loading import load_generator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from srtrain.images.picture import Pixels
    from srtrain.inference.receptive import Reach
    from srtrain.networks.generator import Generator

__all__ = ["Upscaler", "load_model", "pick_device"]


class Upscaler:
    """A generator on a device, applied to images of any kind and size.

    ``tile``: LR pixels a side of the pieces in which large images are computed, without visible
    or measurable seams; None chooses by the memory there is, 0 never cuts. ``self_ensemble``: the
    mean over the 8 flips and turns of the image, 8 times slower and a little better (Timofte et
    al. 2016). ``precision``: "fp32", "bf16" (about 2/255 from it at most), "fp16", or "auto": bf16
    on GPUs that have it. ``sampling``: of a flow, whose sample 0 ``upscale`` gives.

    Raises: ConfigError for ``self_ensemble`` of a flow, and ``sampling`` of what is none.
    """

    def __init__(
        self,
        generator: Generator,
        *,
        device: torch.device | str = "cpu",
        tile: int | None = None,
        self_ensemble: bool = False,
        precision: str = "auto",
        sampling: Sampling | None = None,
    ) -> None:
        refuse(generator, self_ensemble=self_ensemble, sampling=sampling)
        self.device = torch.device(device)
        self.generator = generator.to(self.device).eval()
        self.scale = generator.scale
        self.self_ensemble = self_ensemble
        self.engine = make_engine(
            self.generator,
            precision=pick_precision(precision, self.device),
            tile=tile,
            sampling=sampling,
        )

    @property
    def tile(self) -> int | None:
        """As given, or as chosen since."""
        return self.engine.tile

    @tile.setter
    def tile(self, tile: int | None) -> None:
        self.engine.tile = tile

    @property
    def reach(self) -> Reach:
        """How far the generator looks; of a flow, each of its velocities."""
        return self.engine.reach

    @property
    def flow(self) -> FlowEngine | None:
        """What gives samples, if the generator is a flow."""
        return self.engine if isinstance(self.engine, FlowEngine) else None

    @property
    def _cut(self) -> Engine:
        """What gives one image in strips: no flow does."""
        assert isinstance(self.engine, Engine)
        return self.engine

    def upscale(self, image: AnyImage) -> AnyImage:
        """An image ``scale`` times as large, of the kind and depth that was given.

        PIL: any mode (palette and CMYK come back as RGB; EXIF orientation is applied). Arrays:
        (H, W), (H, W, 1 | 3) or with alpha (H, W, 2 | 4), uint8, uint16, or float in [0, 1].
        Tensors: (C, H, W) or (B, C, H, W) with 1 or 3 channels, uint8 or float in [0, 1].

        Raises: TypeError for other kinds and types, ValueError for other shapes and values.
        """
        if isinstance(image, Image.Image):
            return to_pillow(self.upscale_picture(from_pillow(image)))
        if isinstance(image, np.ndarray):
            check_array(image)
            if image.dtype.kind == "u":
                return self._upscale_array(image)
        lr, made = opened(image, self.larger_alpha)
        return made(self.upscale_tensor(lr))

    def sample(
        self,
        image: AnyImage,
        n: int = 8,
        *,
        seed: int = 0,
        steps: int | None = None,
        sampler: Literal["euler", "heun"] | None = None,
        project: bool | None = None,
    ) -> list[AnyImage]:
        """``n`` plausible images instead of their mean, each as ``upscale`` would give it.

        Sample k of a seed is one and the same image whatever ``n``, the tiles, and what else is
        computed. What is None is as the model has it. Takes what ``upscale`` takes; of a batch,
        all images have the noise of their sample in common. Alpha is not sampled.

        Raises: ConfigError if the model is no flow, or ``n`` or ``steps`` below 1; TypeError,
            ValueError as ``upscale``; MemoryError where a single sample is beyond the memory.
        """
        asked = Sampling(n, seed, steps, sampler, project)
        refuse(self.generator, self_ensemble=self.self_ensemble, sampling=asked)
        assert self.flow is not None
        return list(samples_of(self.flow, image, asked, self.larger_alpha))

    def samples(self, lr: Tensor, *, on_tile: Callable[[], None] | None = None) -> Iterator[Tensor]:
        """As ``sample``, of a tensor, by ``sampling``, each as soon as it is made.

        Shapes: lr float (B, 1 | 3, h, w) -> float32 (B, 3, H, W) in [0, 1].
        Raises: ConfigError if the model is no flow.
        """
        refuse(self.generator, self_ensemble=self.self_ensemble, sampling=Sampling())
        assert self.flow is not None
        return self.flow.sample(lr, on_tile=on_tile)

    def upscale_picture(
        self, picture: Picture, *, on_tile: Callable[[], None] | None = None
    ) -> Picture:
        """Colour and alpha each on their own; depth, gray and profile are kept."""
        pixels, alpha, bits = picture.pixels, picture.alpha, picture.bits
        if alpha is None:
            return replace(picture, pixels=self._upscale_levels(levels_of(pixels), bits, on_tile))
        seen = to_unit(levels_of(alpha[..., None]))
        colour = fill_hidden(to_unit(levels_of(pixels)), seen)
        if self.flow is None and alpha.min() < alpha.max():
            larger = self._upscale_levels(seen, bits, on_tile)[..., 0]
        else:
            larger = from_tensor(self.larger_alpha(seen), bits=bits)[..., 0]
        return replace(picture, pixels=self._upscale_levels(colour, bits, on_tile), alpha=larger)

    def upscale_pictures(self, pictures: Sequence[Picture]) -> list[Picture]:
        """Opaque pictures of one size and kind, all at once."""
        stack = np.concatenate([writable(picture.pixels)[None] for picture in pictures])
        finish = partial(to_levels, bits=pictures[0].bits, gray=stack.shape[-1] == 1)
        sr = self.engine.whole(torch.from_numpy(stack).permute(0, 3, 1, 2), finish=finish)
        larger = sr.permute(0, 2, 3, 1).contiguous().numpy()
        return [replace(p, pixels=pixels) for p, pixels in zip(pictures, larger, strict=True)]

    def at_once(self, picture: Picture) -> int:
        """How many pictures like this one ``upscale_pictures`` should be given."""
        alone = self.self_ensemble or picture.alpha is not None
        return 1 if alone else self.engine.together(*picture.size)

    def streams(self, picture: Picture) -> bool:
        """Whether ``strips`` can make this picture."""
        return picture.alpha is None and not self.self_ensemble and self.flow is None

    def strips(
        self, picture: Picture, *, on_tile: Callable[[], None] | None = None
    ) -> Iterator[Pixels]:
        """The pixels of the larger picture from top to bottom, as soon as they are final.

        Where memory runs out this raises; ``retried`` does what it is given again.
        """
        finish = partial(to_levels, bits=picture.bits, gray=picture.pixels.shape[2] == 1)
        for strip in self._cut.strips(levels_of(picture.pixels), on_tile=on_tile, finish=finish):
            yield pixels_of(strip)

    def retried(self, work: Callable[[], None], picture: Picture) -> None:
        """``work()``, with smaller tiles each time that memory runs out over this picture."""
        self._cut.retried(work, levels_of(picture.pixels))

    @torch.no_grad()
    def _upscale_levels(self, lr: Tensor, bits: int, on_tile: Callable[[], None] | None) -> Pixels:
        """As ``upscale_tensor``, rounded tile by tile: floats of the whole would take 4 times more.

        Shapes: lr levels or float (1, 1 | 3, h, w) -> uint8 or uint16 (H, W, 1 | 3).
        """
        if self.self_ensemble:
            return from_tensor(self.upscale_tensor(to_unit(lr), on_tile=on_tile), bits=bits)
        finish = partial(to_levels, bits=bits, gray=lr.shape[1] == 1)
        return pixels_of(self.engine.whole(lr, on_tile=on_tile, finish=finish))

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
        lr, made = opened_rgb(image)
        engine = self._cut
        headless = Forward(self.generator.headless(), engine.forward.precision)

        def mapped(view: Tensor) -> Tensor:
            return head.maps(engine.whole(view, forward=headless))

        maps = over_flips_and_turns(lr, mapped) if self.self_ensemble else mapped(lr)
        lower, upper = (b.clamp(0, 1) for b in head.interval(maps, level))
        return Bounds(made(lower), made(upper))

    @torch.no_grad()
    def upscale_tensor(self, lr: Tensor, *, on_tile: Callable[[], None] | None = None) -> Tensor:
        """Shapes: lr float (B, 1 | 3, h, w) -> float32 (B, 1 | 3, H, W), clamped to [0, 1]."""
        gray = lr.shape[1] == 1
        colour = lr.float()
        upscale = partial(self.engine.whole, on_tile=on_tile)
        sr = over_flips_and_turns(colour, upscale) if self.self_ensemble else upscale(colour)
        return (sr.mean(dim=1, keepdim=True) if gray else sr).clamp_(0, 1)

    def _upscale_array(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Of uint8 or uint16."""
        layers = array if array.ndim == 3 else array[..., None]
        colours = layers.shape[2] - (layers.shape[2] in (2, 4))
        alpha = layers[..., -1] if colours < layers.shape[2] else None
        larger = self.upscale_picture(Picture(layers[..., :colours], alpha))
        parts = [larger.pixels] + ([] if larger.alpha is None else [larger.alpha[..., None]])
        out = np.concatenate(parts, axis=2)
        return out[..., 0] if array.ndim == 2 else out

    def larger_alpha(self, alpha: Tensor) -> Tensor:
        """Shapes: float (B, 1, h, w) -> (B, 1, H, W)."""
        if alpha.min() == alpha.max():
            return alpha.repeat_interleave(self.scale, -1).repeat_interleave(self.scale, -2)
        return self.upscale_tensor(alpha) if self.flow is None else self.flow.certain(alpha)


def load_model(path: str | Path, *, device: str = "auto", trust: Sequence[str] = ()) -> Upscaler:
    """The model in a checkpoint, a run folder or a community file, ready to ``upscale`` images.

    ``device``: "auto" takes the GPU if there is one. ``trust``: packages whose networks the file
    may name, beside srtrain and spandrel.

    Raises: StorageError if the file is damaged or unsafe, ConfigError without such a device.
    """
    return Upscaler(load_generator(Path(path), trust=trust), device=pick_device(device))
