"""The one line above everything: what was found, no stronger than the figures are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from srtrain.checks import counted
from srtrain.evaluation.comparison import FEWEST
from srtrain.evaluation.comparison_table import cells
from srtrain.evaluation.report.markup import best, minus, number
from srtrain.evaluation.titles import title

if TYPE_CHECKING:
    from collections.abc import Sequence

    from srtrain.evaluation.comparison import Difference
    from srtrain.evaluation.results import Results

PERCEPTION = ("lpips_", "dists")
UNITS = {"psnr_y": " dB", "psnr_rgb": " dB"}


def finding(results: Results, differences: Sequence[Difference]) -> str:
    """Of the largest data set: who is best by PSNR-Y, with what certainty, and by LPIPS or DISTS.

    Distortion and perception together: either alone is half a finding. Empty where nothing was
    measured.
    """
    data, metric = _leading(results)
    if not data:
        return ""
    said = [f"On {data}{_of_images(results, data)},", _ranking(results, data, metric)]
    said.append(_evidence(data, metric, differences, count=_count(results, data)))
    looks = next((m for m in results.metrics(data) if m.startswith(PERCEPTION)), "")
    if looks:
        said.append(f"By {title(looks).name}, {_ranking(results, data, looks, named=False)}")
    return " ".join(filter(None, said))


def highest(results: Results, models: Sequence[str]) -> str:
    """The best of these models on that data set; empty where nothing was measured."""
    data, metric = _leading(results)
    means = {name: of for name, of in _means(results, data, metric).items() if name in models}
    top = best(metric, means.values())
    return next((name for name, value in means.items() if value == top), "")


def _leading(results: Results) -> tuple[str, str]:
    """The data set of most images, and PSNR-Y or its first metric that has a better way."""
    for data in sorted(results.sets, key=lambda data: -_count(results, data)):
        known = ["psnr_y", *results.metrics(data)]
        for metric in known[0 if "psnr_y" in known[1:] else 1 :]:
            if title(metric).better:
                return data, metric
    return "", ""


def _count(results: Results, data: str) -> int:
    return max((len(m.data[data].images) for m in results.models if data in m.data), default=0)


def _of_images(results: Results, data: str) -> str:
    count = _count(results, data)
    return f" ({counted(count, 'image')})" if count else ""


def _means(results: Results, data: str, metric: str) -> dict[str, float]:
    return {
        model.name: model.data[data].means.get(metric, math.nan)
        for model in results.models
        if data in model.data
    }


def _ranking(results: Results, data: str, metric: str, *, named: bool = True) -> str:
    means = _means(results, data, metric)
    top = best(metric, means.values())
    if top is None:
        return ""
    first = next(name for name, value in means.items() if value == top)
    reached = f"{number(metric, top)}{UNITS.get(metric, '')}"
    reached += f" {title(metric).name}" if named else ""
    others = [f"{name} {number(metric, value)}" for name, value in means.items() if name != first]
    if len(others) > 3:
        others = [f"the best of {len(means)} models"]
    return f"{first} reaches {', '.join([reached, *others])}."


def _evidence(data: str, metric: str, differences: Sequence[Difference], *, count: int) -> str:
    """Of the pair that differs most for the better; of how many of ``count`` images, if not all."""
    found = [one for one in differences if (one.data, one.metric) == (data, metric)]
    if not found:
        return ""
    one = max(found, key=lambda other: other.mean * other.sign)
    paired = len(one.values)
    if paired < 2:
        return ""
    side = "above" if one.mean > 0 else "below"
    apart = f"{number(metric, abs(one.mean))}{UNITS.get(metric, '')} {side} {one.reference}"
    some = f", on {paired} of them" if paired < count else ""
    said = f"Image by image{some}, {one.model} lies {apart}{_interval(one)}"
    if one.verdict != "no evidence":
        return f"{said}."
    too_few = f"{counted(paired, 'image')} are too few for a verdict"
    return f"{said}: {too_few if paired < FEWEST else 'no evidence of a difference'}."


def _interval(of: Difference) -> str:
    """In brackets; empty where there is none."""
    if math.isnan(of.low):
        return ""
    low, high = (number(of.metric, end) for end in sorted(map(abs, (of.low, of.high))))
    if of.low * of.high < 0:  # on both sides of 0
        _, between, _, _ = cells(of)
        low, high = minus(between).split(" … ")
    return f" (95\N{NO-BREAK SPACE}% interval {low} to {high})"
