"""Calibration: what bands hold of images that did not calibrate them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from srtrain.metrics.coverage import (
    POINTS,
    calibrated_offset,
    left_out_offsets,
    share_within,
    summary,
)
from srtrain.networks.heads import GaussianHead, Head, LaplaceHead, Quantiles
from srtrain.training.bands import Bands


def test_a_summary_is_the_distribution() -> None:
    values = torch.arange(2 * POINTS).flip(0).view(2, -1) / (2 * POINTS)
    found = summary(values)
    assert torch.equal(found, found.sort().values)
    assert float(found.mean()) == pytest.approx(0.5, abs=1e-3)
    for share in (0.1, 0.5, 0.95):
        assert share_within(found, share) == pytest.approx(share, abs=1e-3)
    assert summary(torch.tensor([3.0])).tolist() == [3.0] * POINTS


@pytest.mark.parametrize(
    ("images", "level", "expected"),
    [  # by hand: every image counts the same
        ([0.0, 1.0], 0.5, 0.0),
        ([0.0, 1.0], 0.6, 1.0),
        ([3.0, 1.0, 2.0, 4.0], 0.75, 3.0),
        ([3.0, 1.0, 2.0, 4.0], 0.9, 4.0),
    ],
)
def test_calibrated_offset(images: list[float], level: float, expected: float) -> None:
    flat = [summary(torch.tensor([value])) for value in images]
    assert calibrated_offset(flat, level) == expected


def test_no_image_calibrates_itself() -> None:
    flat = [summary(torch.tensor([value])) for value in (1.0, 2.0, 3.0)]
    assert left_out_offsets(flat, 0.9) == [3.0, 3.0, 2.0]
    assert left_out_offsets(flat[:1], 0.9) == []
    with pytest.raises(ValueError, match="at least one"):
        calibrated_offset([], 0.9)


def heteroscedastic(head: Head, *, seed: int, side: int = 48) -> tuple[Tensor, Tensor]:
    """Maps whose widths are right in proportion and too small by half, and a truth around them."""
    draw = torch.Generator().manual_seed(seed)
    scale = 0.01 + 0.1 * torch.rand((1, 3, side, side), generator=draw)
    noise = torch.randn(scale.shape, generator=draw)
    point = torch.rand(scale.shape, generator=draw)
    if isinstance(head, Quantiles):
        reach = 0.5 * 1.645 * scale
        return torch.cat([point - reach, point, point + reach], 1), point + scale * noise
    return torch.cat([point, 0.5 * scale], 1), point + scale * noise


@pytest.mark.parametrize("head", [Quantiles(), GaussianHead(), LaplaceHead()], ids=str)
@pytest.mark.parametrize("count", [2, 5, 20])
def test_calibrated_bands_hold_what_they_should(head: Head, count: int) -> None:
    bands = Bands(head)
    bands.start()
    for k in range(count):
        maps, hr = heteroscedastic(head, seed=k)
        bands.add(k % 2, [k], maps, hr)
    figures = bands.finish(bands.rows, ["even", "odd"])
    assert set(figures) == {"even", "odd"}
    for row in figures.values():
        assert abs(row["coverage_raw"] - 0.9) > 0.03
        assert row["coverage"] == pytest.approx(0.9, abs=0.012)
    assert head.calibration["images"] == count
    maps, hr = heteroscedastic(head, seed=1000)  # of its kind, never seen
    lower, upper = head.interval(maps)
    held = ((lower <= hr) & (hr <= upper)).float().mean()
    assert float(held) == pytest.approx(0.9, abs=0.012)


def test_widths_are_those_of_the_bands() -> None:
    for head in (Quantiles(), GaussianHead(), LaplaceHead()):
        bands = Bands(head)
        bands.start()
        for k in range(2):
            bands.add(0, [k], *heteroscedastic(head, seed=k))
        row = bands.finish(bands.rows, ["set"])["set"]
        maps = heteroscedastic(head, seed=0)[0]
        raw = head.nominal(maps, head.level)
        assert row["band_width_raw"] == pytest.approx(
            255 * float((raw[1] - raw[0]).mean()), rel=0.02
        )
        wide = head.interval(maps)
        assert row["band_width"] == pytest.approx(255 * float((wide[1] - wide[0]).mean()), rel=0.05)


def test_an_image_of_two_ranks_counts_once_and_one_alone_is_not_judged() -> None:
    bands = Bands(GaussianHead())
    bands.start()
    bands.add(0, [0], *heteroscedastic(bands.head, seed=0))
    row = bands.finish(bands.rows * 2, ["set"])["set"]
    assert set(row) == {"coverage_raw", "band_width_raw"}
    assert bands.head.calibration["images"] == 1


def test_what_five_images_guarantee_and_what_not() -> None:
    """Images whose noise differs: the bound level · K / (K + 1) holds, the level does not."""
    draw = torch.Generator().manual_seed(7)
    inside = []
    for _ in range(300):
        sizes = torch.rand(6, generator=draw).add(0.2)  # of the noise, one per image
        scores = [summary(size * torch.randn(400, generator=draw).abs()) for size in sizes]
        inside.append(share_within(scores[5], calibrated_offset(scores[:5], 0.9)))
    mean = sum(inside) / len(inside)
    assert 0.9 * 5 / 6 <= mean < 0.9
    assert min(inside) < 0.75
