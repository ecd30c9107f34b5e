"""Bands of a validation round: what they hold, how wide they are, and their calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from srtrain.metrics.coverage import calibrated_offset, left_out_offsets, share_within, summary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from srtrain.networks.heads import Band, Head

GRAY_LEVELS = 255


class Held(NamedTuple):
    """Distributions over the values of one image: scores, and both bounds' nominal distances."""

    score: Tensor
    below: Tensor
    above: Tensor


Row = tuple[int, int, Held]  # set, sample, this one image


class Bands:
    """``coverage_raw band_width_raw`` as trained, ``coverage band_width`` calibrated.

    The calibrated figures of an image are those of the offset that all *other* images of the round
    give, over all sets and ranks: no image measures its own calibration, and with a single image
    they are absent. The head keeps the offset of all images together, for images to come. Means
    over the images of each set; widths in gray levels, of bands not cut to [0, 1].
    """

    def __init__(self, head: Head) -> None:
        self.head = head
        self.rows: list[Row] = []

    def start(self) -> None:
        """Begin a round."""
        self.rows = []

    def add(self, data: int, samples: Sequence[int], maps: Tensor, hr: Tensor) -> None:
        """Measure one batch of one set; nothing is fetched from the device.

        Shapes: maps (B, 3K, H, W), hr (B, 3, H, W).
        """
        head = self.head
        scores, point = head.score(maps, hr), head.point(maps)
        lower, upper = head.nominal(maps, head.level)
        for b, sample in enumerate(samples):
            of_image = (scores[b], point[b] - lower[b], upper[b] - point[b])
            self.rows.append((data, sample, Held(*map(summary, of_image))))

    def fetched(self) -> list[Row]:
        """All rows on the CPU, by one copy."""
        if not self.rows:
            return []
        held = torch.stack([torch.stack(row[2]) for row in self.rows]).cpu()
        return [(*row[:2], Held(*own)) for row, own in zip(self.rows, held, strict=True)]

    def band(self, maps: Tensor) -> Band:
        """The calibrated band."""
        return self.head.interval(maps)

    def finish(self, rows: Sequence[Row], names: Sequence[str]) -> dict[str, dict[str, float]]:
        """Calibrate the head on the ``rows`` of all ranks; figures per set."""
        once = {row[:2]: row[2] for row in rows}
        places = sorted(once)
        images = [once[place] for place in places]
        scores, level = [image.score for image in images], self.head.level
        if images:
            self.head.calibrate(offset=calibrated_offset(scores, level), images=len(images))
        left_out = left_out_offsets(scores, level)
        sets: dict[str, list[dict[str, float]]] = {}
        for k, (image, (data, _)) in enumerate(zip(images, places, strict=True)):
            offset = left_out[k] if left_out else None
            sets.setdefault(names[data], []).append(self._figures(image, offset))
        return {name: _means(figures) for name, figures in sets.items()}

    def _figures(self, image: Held, offset: float | None) -> dict[str, float]:
        found = {
            "coverage_raw": share_within(image.score, 0.0),
            "band_width_raw": self._width(image, 0.0),
        }
        if offset is not None:
            found["coverage"] = share_within(image.score, offset)
            found["band_width"] = self._width(image, offset)
        return found

    def _width(self, image: Held, offset: float) -> float:
        halves = (self.head.stretched(half, offset).mean() for half in (image.below, image.above))
        return GRAY_LEVELS * float(sum(halves))


def _means(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
