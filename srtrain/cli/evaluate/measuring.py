"""Every figure of a batch of SR images, and by which protocol."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from srtrain.cli.fetch_weights import WEIGHTS, torch_cache
from srtrain.degradation.resize import Bicubic
from srtrain.metrics import samples as of_samples
from srtrain.metrics.consistency import CONSISTENCY, OF_BICUBIC
from srtrain.metrics.image_metrics import FINITE, NOT_FINITE, SUMS, ImageMetrics
from srtrain.perception.dists import DISTS
from srtrain.perception.lpips import LPIPS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from srtrain.evaluation.results import Values
    from srtrain.metrics.variants import Variants

AUTO, NONE = "auto", "none"
NETS = ("alex", "squeeze", "vgg")  # in the order of how common their figures are
# Marks of an image beside its values: what must be known of it, also of one measured earlier.
LR_IS_BICUBIC, APPROXIMATE = MARKS = ("lr_is_bicubic", "approximate")


def found_lpips(net: str, features: Path | None) -> tuple[LPIPS | None, str]:
    """LPIPS as asked for, and a line for people where it is absent.

    ``auto`` takes the first net whose backbone lies in torch's cache.

    Raises: StorageError if a net was named whose backbone is missing or another's.
    """
    if net == NONE:
        return None, ""
    if net == AUTO:
        there = [each for each in NETS if _cached(f"lpips-{each}").is_file()]
        if not there:
            where = torch_cache()
            fix = "`srtrain fetch-weights lpips-alex`, or --lpips NET --features FILE"
            return None, f"LPIPS is absent: no backbone's weights in {where} · {fix}"
        net = there[0]
    return LPIPS(net, features, key="--features"), ""


def found_dists(choice: str) -> tuple[DISTS | None, str]:
    """DISTS as asked for: ``auto``, ``none`` or VGG16's file; and a line where it is absent.

    Raises: StorageError if a file was named that is missing or of another network.
    """
    if choice == NONE:
        return None, ""
    if choice == AUTO and not _cached("dists").is_file():
        fix = "`srtrain fetch-weights dists`, or --dists FILE"
        return None, f"DISTS is absent: no VGG16 weights in {torch_cache()} · {fix}"
    return DISTS(None if choice == AUTO else choice, key="--dists").eval(), ""


def _cached(name: str) -> Path:
    return torch_cache() / WEIGHTS[name].file


class Measuring:
    """The standard protocol and the variants asked for, on one device.

    ``lr_psnr`` goes by that name in ``means`` only where every LR image is what bicubic makes of
    its HR; else it says nothing of consistency, and is ``lr_psnr_bicubic``.
    """

    def __init__(
        self,
        *,
        scale: int,
        variants: Variants,
        lpips: LPIPS | None = None,
        dists: DISTS | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.bicubic = Bicubic(scale=scale)
        self.variants = variants
        metrics = ImageMetrics(scale=scale, lpips=lpips, dists=dists, downscale=self.lr_of)
        self.metrics = metrics.to(device)

    def lr_of(self, hr: Tensor) -> Tensor:
        """As MATLAB's files. Shapes: (B, 3, H, W) in [0, 1] -> (B, 3, H / scale, W / scale)."""
        lr: Tensor = self.bicubic(hr, None)
        return lr

    @torch.no_grad()
    def __call__(self, sr: Tensor, hr: Tensor, lr: Tensor, *, whole_levels: bool) -> list[Values]:
        """All values of each image, those that only ``means`` needs among them.

        Raises: ValueError if shapes do not fit, or an SR image is not finite.
        """
        found = self.metrics.measure(sr, hr, lr)
        found |= self.variants(sr, hr, whole_levels=whole_levels)
        made = self.lr_of(hr)
        found[LR_IS_BICUBIC] = (made == lr).flatten(1).all(dim=1).double()
        columns = {name: column.double().tolist() for name, column in found.items()}
        if not all(columns.pop(FINITE)):
            raise ValueError(NOT_FINITE)
        return [
            {name: column[index] for name, column in columns.items()} for index in range(len(sr))
        ]

    def honesty(self, samples: Tensor, hr: Tensor, mean: Tensor | None) -> Values:
        """What the samples of one image say; see ``metrics.samples``.

        Shapes: samples (N, 3, H, W) uint8, hr and mean (3, H, W) in [0, 1].
        """
        border, lpips = self.metrics.scale, self.metrics.lpips
        return of_samples.honesty(samples, hr, mean=mean, border=border, lpips=lpips)

    def means(self, rows: Iterable[Values]) -> Values:
        """Of a set; see ``ImageMetrics.reduce``; laws of samples from the sums over all images."""
        rows = list(rows)
        apart = {*of_samples.SUMS, *of_samples.LAWS}
        columns = [
            {name: _column(value) for name, value in row.items() if name not in apart}
            for row in rows
        ]
        means = {n: mean for n, mean in self.metrics.reduce(columns).items() if n not in MARKS}
        if all("samples" in row for row in rows):
            means |= of_samples.laws(of_samples.added(rows))
        return means

    @property
    def protocol(self) -> dict[str, object]:
        """As JSON: the metrics' own, and what each suffix means."""
        return {**self.metrics.protocol, "variants": self.variants.protocol}


def _column(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


def by_its_name(row: Mapping[str, float], *, lr_is_bicubic: bool) -> Values:
    """``row`` as people see it: without sums and marks, the LR's PSNR by its right name."""
    name = CONSISTENCY if lr_is_bicubic else OF_BICUBIC
    hidden = {*SUMS, *MARKS, *of_samples.SUMS}
    return {
        key.replace(CONSISTENCY, name, 1) if key.startswith(CONSISTENCY) else key: value
        for key, value in row.items()
        if key not in hidden
    }
