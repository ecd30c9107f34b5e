"""What validation gathers: per-image figures, the bicubic line, and the pictures' material."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch.distributed as dist
from torch import Tensor

from srtrain.errors import DivergedError
from srtrain.networks.heads import Band
from srtrain.process_group import world_size
from srtrain.training.guards import RollBack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch

    from srtrain.batch import Batch
    from srtrain.metrics.image_metrics import ImageMetrics
    from srtrain.training.bands import Bands

Item = TypeVar("Item")
Figures = dict[str, dict[str, float]]
Row = tuple[int, int, dict[str, Tensor]]  # set, sample, figures of this one image


class Panel(NamedTuple):
    """One validated image, on the CPU: (3, H, W) floats, ``lr`` (3, h, w), the calibrated band."""

    data: str
    name: str
    lr: Tensor
    bicubic: Tensor
    sr: Tensor
    hr: Tensor
    band: Band | None = None


class Validation:
    """Measures each validation image once per round; reduces over images and ranks.

    ``upscale(lr)`` gives the baseline. Its figures (``bicubic``) are measured once for each set
    and kept, its pictures are made for the first ``num_panels`` images of each set. ``bands``
    measures and calibrates those of a generator that predicts more than an image.
    """

    def __init__(
        self,
        *,
        metrics: ImageMetrics,
        upscale: Callable[[Tensor], Tensor],
        names: Sequence[str],
        num_panels: int = 5,
        bands: Bands | None = None,
    ) -> None:
        self.metrics = metrics
        self.upscale = upscale
        self.names = list(names)
        self.num_panels = num_panels
        self.bands = bands
        self.val: Figures = {}
        self.bicubic: Figures = {}
        self.new_bicubic: Figures = {}  # those of the last round
        self.panels: list[Panel] = []
        self.measured_at: int | None = None
        self._rows: list[Row] = []
        self._bicubic_rows: list[Row] = []
        self._maps: list[Tensor] = []  # of the panels, until the bands are calibrated
        self._broken: list[str] = []

    def start(self, device: torch.device) -> None:
        """Begin a round."""
        self.metrics.to(device)
        self._rows, self._bicubic_rows, self.panels, self._maps = [], [], [], []
        self._broken = []
        if self.bands is not None:
            self.bands.start()

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
        samples = [int(sample) for sample in batch["sample"]]
        try:
            self._rows += _rows(data, samples, self.metrics(sr, hr, lr))
        except DivergedError as error:  # for `finish`: other ranks have other images
            self._broken.append(f"{error.what} ({batch['name'][0]})")
            return
        shown = [b for b, sample in enumerate(samples) if sample < self.num_panels]
        if self.bands is not None and maps is not None:
            self.bands.add(data, samples, maps, hr)
            self._maps += [maps[b : b + 1].cpu() for b in shown]
        known = self.names[data] in self.bicubic
        if known and not shown:
            return
        bicubic = self.upscale(lr).clamp(0, 1)
        if not known:
            self._bicubic_rows += _rows(data, samples, self.metrics(bicubic, hr, lr))
        for b in shown:
            lr_b, bicubic_b, sr_b, hr_b = (
                image[b].float().cpu() for image in (lr, bicubic, sr.clamp(0, 1), hr)
            )
            name = batch["name"][b]
            self.panels.append(Panel(self.names[data], name, lr_b, bicubic_b, sr_b, hr_b))

    def finish(self, step: int) -> None:
        """Reduce over all images of all ranks; every rank ends with the same figures.

        Raises: RollBack, on every rank, if a pixel of any image was not finite.
        """
        broken = all_ranks(self._broken)
        if broken:
            raise RollBack(f"{broken[0]} at step {step}", term="sr", step=step)
        self.val = self._reduce(self._rows)
        if self.bands is not None:
            self._finish_bands(self.bands)
        # Every rank agrees on what is new, so every rank takes part in the gathering or none does.
        new = [name for name in self.names if name not in self.bicubic]
        self.new_bicubic = self._reduce(self._bicubic_rows) if new else {}
        self.bicubic |= self.new_bicubic
        self.measured_at = step

    def _finish_bands(self, bands: Bands) -> None:
        for name, figures in bands.finish(all_ranks(bands.rows), self.names).items():
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

    def _reduce(self, rows: list[Row]) -> Figures:
        """Means of the sets that have rows; an image that two ranks measured counts once."""
        once = {row[:2]: row[2] for row in all_ranks(rows)}
        sets = sorted({data for data, _ in once})
        return {
            self.names[data]: self.metrics.reduce(
                [figures for (of, _), figures in sorted(once.items(), key=_place) if of == data]
            )
            for data in sets
        }


def _place(item: tuple[tuple[int, int], object]) -> tuple[int, int]:
    return item[0]


def _rows(data: int, samples: list[int], figures: Mapping[str, Tensor]) -> list[Row]:
    columns = {name: values.cpu() for name, values in figures.items()}
    return [
        (data, sample, {name: values[b] for name, values in columns.items()})
        for b, sample in enumerate(samples)
    ]


def all_ranks(items: list[Item]) -> list[Item]:
    """The lists of all ranks, one after the other, on every rank."""
    ranks = world_size()
    if ranks == 1:
        return items
    gathered: list[Any] = [None] * ranks
    dist.all_gather_object(gathered, items)
    return [item for part in gathered for item in part]
