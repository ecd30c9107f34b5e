"""What validation gathers: per-image figures, the bicubic line, and the pictures' material."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from srtrain.metrics.image_metrics import FINITE, NOT_FINITE, SUMS
from srtrain.networks.flow import Flow
from srtrain.networks.heads import Band
from srtrain.process_group import world_size
from srtrain.training.guards import RollBack
from srtrain.training.kept import Kept

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from srtrain.batch import Batch
    from srtrain.metrics.image_metrics import ImageMetrics
    from srtrain.networks.generator import Generator
    from srtrain.training.bands import Bands

    Predict = Callable[[Tensor], Tensor]

Item = TypeVar("Item")
Figures = dict[str, dict[str, float]]
ImageFigures = dict[str, Figures]
"""SET → IMAGE → METRIC → value."""
Found = list[tuple[tuple[int, int], tuple[str, Tensor]]]  # set, sample: name, figures of the image
KEPT = 2**28  # bytes: of LR x4, a hundred images of two megapixels
LARGE = 2**20  # LR pixels; beyond, a 64-channel network needs gigabytes for the whole image
LARGE_MADE = 2**21  # HR pixels of a flow, which works at that size: the whole takes 6 GB


class Panel(NamedTuple):
    """One validated image, on the CPU: (3, H, W) floats, ``lr`` (3, h, w), the calibrated band."""

    data: str
    name: str
    lr: Tensor
    bicubic: Tensor
    sr: Tensor
    hr: Tensor
    band: Band | None = None


class Measured:
    """Figures of images, kept where they were made until all of a round are fetched at once."""

    def __init__(self) -> None:
        self.places: list[tuple[int, int]] = []  # set, sample
        self.images: list[str] = []
        self.names: list[str] = []
        self._columns: list[Tensor] = []

    def add(self, data: int, batch: Batch, figures: Mapping[str, Tensor]) -> None:
        """One batch of one set."""
        self.places += [(data, int(sample)) for sample in batch["sample"]]
        self.images += batch["name"]
        self.names = list(figures)
        self._columns.append(torch.stack([*figures.values()]))

    def fetched(self) -> Found:
        """Which each image is, and its figures in the order of ``names``; float64 on the CPU."""
        if not self._columns:
            return []
        rows = zip(self.images, torch.cat(self._columns, dim=1).cpu().T, strict=True)
        return list(zip(self.places, rows, strict=True))


class Validation:
    """Measures each validation image once per round; reduces over images and ranks.

    ``upscale(lr)`` gives the baseline. Its figures (``bicubic``) are measured once for each set
    and kept, its pictures are made for the first ``num_panels`` images of each set. ``bands``
    measures and calibrates those of a generator that predicts more than an image. ``tiled`` makes
    what predicts images of more than ``LARGE`` LR pixels, of a flow ``LARGE_MADE`` HR pixels, anew
    in every round: how far a network looks may depend on its weights.

    Within a round nothing is fetched from the device, so that it never waits for the host.
    """

    def __init__(
        self,
        *,
        metrics: ImageMetrics,
        upscale: Callable[[Tensor], Tensor],
        names: Sequence[str],
        num_panels: int = 5,
        bands: Bands | None = None,
        tiled: Callable[[], Predict] | None = None,
    ) -> None:
        self.metrics = metrics
        self.upscale = upscale
        self.names = list(names)
        self.num_panels = num_panels
        self.bands = bands
        self.tiled = tiled
        self.val: Figures = {}
        self.bicubic: Figures = {}
        self.new_bicubic: Figures = {}  # those of the last round
        self.images: ImageFigures = {}  # of the last round
        self.bicubic_images: ImageFigures = {}  # of sets whose baseline this process measured
        self.panels: list[Panel] = []
        self.measured_at: int | None = None
        self._measured, self._baseline = Measured(), Measured()
        self._maps: list[Tensor] = []  # of the panels, until the bands are calibrated
        self._in_tiles: Predict | None = None
        self.kept = Kept(KEPT)

    def start(self, device: torch.device) -> None:
        """Begin a round."""
        self.metrics.to(device)
        self._measured, self._baseline, self.panels, self._maps = Measured(), Measured(), [], []
        self._in_tiles = None
        if self.bands is not None:
            self.bands.start()

    def predict(self, generator: Generator, lr: Tensor) -> Tensor:
        """``generator.raw(lr)`` in fp32, TF32 off as in `infer`; large images tile by tile."""
        with torch.autocast(lr.device.type, enabled=False), _no_tf32():
            if self.tiled is None or not _is_large(generator, lr):
                return generator.raw(lr).float()
            if self._in_tiles is None:
                self._in_tiles = self.tiled()
            return self._in_tiles(lr).float()

    def add(
        self,
        data: int,
        batch: Batch,
        *,
        sr: Tensor,
        hr: Tensor,
        lr: Tensor,
        maps: Tensor | None = None,
    ) -> None:
        """Measure one batch of one set; ``sr``, ``hr``, ``lr`` are float (B, 3, …) in [0, 1].

        ``maps``: all that the generator predicted, of which ``bands`` are made.
        """
        self._measured.add(data, batch, self.metrics.measure(sr, hr, lr))
        samples = [int(sample) for sample in batch["sample"]]
        shown = [b for b, sample in enumerate(samples) if sample < self.num_panels]
        if self.bands is not None and maps is not None:
            self.bands.add(data, samples, maps, hr)
            self._maps += [_to_host(maps[b : b + 1]) for b in shown]
        known = self.names[data] in self.bicubic
        if known and not shown:
            return
        bicubic = self.upscale(lr).clamp(0, 1)
        if not known:
            self._baseline.add(data, batch, self.metrics.measure(bicubic, hr, lr))
        for b in shown:
            lr_b, bicubic_b, sr_b, hr_b = (
                _to_host(image[b]) for image in (lr, bicubic, sr.clamp(0, 1), hr)
            )
            name = batch["name"][b]
            self.panels.append(Panel(self.names[data], name, lr_b, bicubic_b, sr_b, hr_b))

    def finish(self, step: int) -> None:
        """Reduce over all images of all ranks; every rank ends with the same figures.

        Raises: RollBack, on every rank, if a pixel of any image was not finite.
        """
        found = self._measured.fetched()  # with it, all that was on its way to the host is there
        self._refuse_broken(found, step)
        self.val, self.images = self._reduce(self._measured.names, found)
        if self.bands is not None:
            self._finish_bands(self.bands)
        # Every rank agrees on what is new, so every rank takes part in the gathering or none does.
        new = [name for name in self.names if name not in self.bicubic]
        baseline = self._baseline
        measured = self._reduce(baseline.names, baseline.fetched()) if new else ({}, {})
        self.new_bicubic = measured[0]
        self.bicubic |= self.new_bicubic
        self.bicubic_images |= measured[1]
        self.measured_at = step

    def _refuse_broken(self, found: Found, step: int) -> None:
        at = self._measured.names.index(FINITE)
        own = [f"{NOT_FINITE} ({name})" for _, (name, figures) in found if not figures[at]]
        broken = all_ranks(own)
        if broken:
            raise RollBack(f"{broken[0]} at step {step}", term="sr", step=step)

    def _finish_bands(self, bands: Bands) -> None:
        for name, figures in bands.finish(all_ranks(bands.fetched()), self.names).items():
            self.val[name] |= figures
        made = ((bound[0] for bound in bands.band(maps)) for maps in self._maps)
        self.panels = [
            panel._replace(band=Band(*bounds))
            for panel, bounds in zip(self.panels, made, strict=True)
        ]
        self._maps = []

    def mean(self, metric: str) -> float | None:
        """The mean of one metric over the sets; None where it was not measured."""
        values = [figures[metric] for figures in self.val.values() if metric in figures]
        return sum(values) / len(values) if values else None

    def _reduce(self, names: Sequence[str], found: Found) -> tuple[Figures, ImageFigures]:
        """Means of sets, and their images; an image that two ranks measured counts once."""
        once = dict(all_ranks(found))
        reduced: Figures = {}
        images: ImageFigures = {}
        for data, name in enumerate(self.names):
            own = [once[place] for place in sorted(once) if place[0] == data]
            if own:
                columns = torch.stack([row for _, row in own], dim=1)
                figures = dict(zip(names, columns, strict=True))
                del figures[FINITE]
                reduced[name] = self.metrics.reduce([figures])
                shown = [metric for metric in figures if metric not in SUMS]
                values = torch.stack([figures[metric] for metric in shown], dim=1).tolist()
                images[name] = {
                    image: dict(zip(shown, row, strict=True))
                    for (image, _), row in zip(own, values, strict=True)
                }
        return reduced, images


def _is_large(generator: Generator, lr: Tensor) -> bool:
    pixels = lr.shape[-2] * lr.shape[-1]
    if isinstance(generator.net, Flow):
        return pixels * generator.scale**2 > LARGE_MADE
    return pixels > LARGE


def _no_tf32() -> AbstractContextManager[None]:
    """Within, convolutions are not rounded to TF32's 10 bits: tiles equal the whole to 1e-5."""
    cudnn = torch.backends.cudnn
    return cudnn.flags(  # which resets what it is not given
        enabled=cudnn.enabled,
        benchmark=cudnn.benchmark,
        deterministic=cudnn.deterministic,
        allow_tf32=False,
    )


def _to_host(image: Tensor) -> Tensor:
    """Float32 on the CPU, on its way there at least: whoever looks at it has fetched figures."""
    return image.detach().float().to("cpu", non_blocking=True)


def all_ranks(items: list[Item]) -> list[Item]:
    """The lists of all ranks, one after the other, on every rank."""
    ranks = world_size()
    if ranks == 1:
        return items
    gathered: list[Any] = [None] * ranks
    dist.all_gather_object(gathered, items)
    return [item for part in gathered for item in part]
