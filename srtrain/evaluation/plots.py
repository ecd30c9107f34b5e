"""Figures of an evaluation: the plane, two models image by image, the curves of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from srtrain.evaluation.comparison import EQUAL
from srtrain.evaluation.comparison_table import cells
from srtrain.evaluation.drawing import (
    BETTER,
    INK,
    PALETTE,
    WORSE,
    drawable,
    new_figure,
    png,
    svg,
)
from srtrain.evaluation.plane import is_close, plane, plane_caption
from srtrain.evaluation.tradeoff import points

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from srtrain.evaluation.comparison import Difference
    from srtrain.evaluation.results import Results

__all__ = ["Drawn", "bars", "curves", "figures", "plane", "png", "scatter", "svg"]

NAMED = 32  # bars that have room for a name
LONGEST = 22  # characters of an image's name
MOST_MODELS = 4  # that are drawn image by image against the reference
MANY, WINDOW = 60, 10  # points of a curve; beyond, single batches hide the trend

Series = dict[str, list[tuple[int, float]]]


ENLARGED = "Where there are several others, bicubic is left out here."


class Drawn(NamedTuple):
    """``name`` is one for a file."""

    name: str
    title: str
    caption: str
    figure: Figure


def figures(
    results: Results, differences: Sequence[Difference], paths: Sequence[Sequence[str]] = ()
) -> Iterator[Drawn]:
    """What there is to draw, one at a time: per data set the plane, then model by model.

    ``paths``: models that belong together in this order, such as the checkpoints of a run.
    """
    for data in results.sets:
        found = points(results, data)
        if len(found) > 1:
            caption = plane_caption(found[0].metric_name)
            name = f"plane_{data}"
            yield Drawn(name, f"Perception and distortion, {data}", caption, plane(found, paths))
            if is_close(found):
                enlarged = plane(found, paths, whole=False)
                yield Drawn(f"{name}_enlarged", "The same, enlarged", ENLARGED, enlarged)
        drawn = {"psnr_y", *(point.metric_name for point in found)}
        models = list(dict.fromkeys(d.model for d in differences if d.data == data))
        if len(models) > 1:  # bicubic beside networks: the table says enough
            models = [name for name in models if name != "bicubic"][:MOST_MODELS]
        for d in differences:
            if (d.data, d.metric in drawn, d.model in models) == (data, True, True):
                yield from _image_by_image(d)


def _image_by_image(d: Difference) -> Iterator[Drawn]:
    if len(d.values) < 3:
        return
    name = f"{d.data}_{d.metric}_{d.model}"
    mean, between, _, p = cells(d)
    within = f" (95 %: {between})" if np.isfinite(d.low) else ""
    said = f"Mean difference {mean}{within}, p {_with_sign(p)}: {d.verdict}."
    heading = f"{d.name} of {d.model} and {d.reference}, {d.data}"
    yield Drawn(f"scatter_{name}", heading, said, scatter(d))
    yield Drawn(f"bars_{name}", f"{heading}, by image", said, bars(d))


def _with_sign(p: str) -> str:
    return p if p.startswith("<") else f"= {p}"


def scatter(difference: Difference) -> Figure:
    """Each image at (reference, model), the diagonal, and on which side the model is better."""
    figure, axes = new_figure(4.6, 4.4)
    theirs = np.asarray(difference.references)
    ours = theirs + np.asarray(difference.values)
    low, high = min(theirs.min(), ours.min()), max(theirs.max(), ours.max())
    margin = 0.06 * (high - low) or 0.06 * abs(high) or 0.06
    ends = low - margin, high + margin
    axes.plot(ends, ends, color=INK, alpha=0.5, linewidth=1)
    axes.scatter(theirs, ours, c=_by_sign(difference), s=26, alpha=0.85, linewidths=0)
    axes.set_xlim(ends)
    axes.set_ylim(ends)
    axes.set_aspect("equal")
    axes.set_xlabel(f"{difference.name}, {_short(difference.reference)}")
    axes.set_ylabel(f"{difference.name}, {_short(difference.model)}")
    if difference.sign:
        better = f"{_short(difference.model)} is better: {difference.wins} of {len(ours)}"
        above = difference.sign > 0
        x, y, side = (0.03, 0.97, "left") if above else (0.97, 0.03, "right")
        align = {"ha": side, "va": "top" if above else "bottom"}
        axes.text(x, y, better, transform=axes.transAxes, color=BETTER, fontsize=9, **align)
    return figure


def bars(difference: Difference) -> Figure:
    """Each image's difference, sorted; the band is the interval of the mean."""
    order = np.argsort(difference.values)
    values = np.asarray(difference.values)[order]
    colours = [_by_sign(difference)[k] for k in order]
    named = len(values) <= NAMED
    figure, axes = new_figure(5.6, max(2.2, 0.9 + 0.2 * len(values)) if named else 4.2)
    if np.isfinite(difference.low):
        axes.axvspan(difference.low, difference.high, color=INK, alpha=0.12, linewidth=0)
    axes.barh(range(len(values)), values, color=colours, height=0.75 if named else 1.0)
    axes.axvline(0, color=INK, linewidth=0.9)
    axes.axvline(difference.mean, color=INK, linewidth=1.1, linestyle=(0, (4, 2)))
    names = [_short(difference.images[k]) for k in order]
    axes.set_yticks(range(len(values)) if named else [], names if named else [])
    axes.set_ylim(-0.6, len(values) - 0.4)
    axes.grid(visible=False, axis="y")
    better = {1: " · better →", -1: "", 0: ""}[difference.sign]
    worse = "← better · " if difference.sign < 0 else ""
    axes.set_xlabel(f"{worse}Δ {difference.name} to {_short(difference.reference)}{better}")
    if not named:
        axes.set_ylabel(f"{len(values)} images, sorted")
    mean, between, _, p = cells(difference)
    within = f" [{between}]" if np.isfinite(difference.low) else ""
    said = f"mean {mean}{within}, p {_with_sign(p)}"
    axes.set_title(said, fontsize=9, loc="left", color=INK)
    return figure


def _by_sign(difference: Difference) -> list[str]:
    def colour(value: float) -> str:
        gain = value * difference.sign
        return BETTER if gain > EQUAL else WORSE if gain < -EQUAL else PALETTE[-1]

    return [colour(value) for value in difference.values]


def _short(name: str) -> str:
    return drawable(name if len(name) <= LONGEST else f"{name[: LONGEST - 9]}…{name[-8:]}")


def curves(series: Series) -> Figure:
    """``metrics.csv`` of a run, by name: Y-PSNR of the validation sets above the raw loss terms.

    Raises: ValueError where neither was logged.
    """
    quality = {n: rows for n, rows in series.items() if n.endswith("/psnr_y")}
    losses = {n: rows for n, rows in series.items() if _is_loss(n, series)}
    if len(losses) == 2:  # the total, and the one term that it is
        losses.pop("train/loss", None)
    panels = [(rows, name) for rows, name in ((quality, QUALITY), (losses, LOSSES)) if rows]
    if not panels:
        raise ValueError("no metric of validation and no loss was logged")
    figure, axes = new_figure(5.6, 0.4 + 2.9 * len(panels), rows=len(panels))
    for panel, (rows, name) in zip(np.atleast_1d(axes), panels, strict=True):
        _lines(panel, rows)
        panel.set_title(name, loc="left", fontsize=10, color=INK)
        if name == LOSSES and all(value > 0 for points in rows.values() for _, value in points):
            panel.set_yscale("log")
    panel.set_xlabel("generator step")
    return figure


QUALITY, LOSSES = "PSNR-Y of the validation images [dB]", "raw loss terms"


def _is_loss(name: str, series: Series) -> bool:
    group, _, term = name.partition("/")
    return group == "train" and (term == "loss" or f"train/share/{term}" in series)


def _lines(axes: Axes, series: Series) -> None:
    for index, (name, rows) in enumerate(sorted(series.items())):
        colour = PALETTE[index % len(PALETTE)]
        label = drawable(name.removeprefix("train/").removeprefix("val/").removesuffix("/psnr_y"))
        if name.startswith("bicubic/"):
            label = f"{label.removeprefix('bicubic/')}, bicubic"
            axes.axhline(rows[-1][1], linestyle="--", color=PALETTE[-1], label=label)
            continue
        steps, values = (np.asarray(column) for column in zip(*rows, strict=True))
        if len(rows) <= MANY:
            axes.plot(steps, values, marker=".", color=colour, label=label)
            continue
        axes.plot(steps, values, alpha=0.3, linewidth=0.8, color=colour)
        axes.plot(steps, _running_mean(values), color=colour, label=f"{label}, running mean")
    legend = axes.legend(fontsize=8, frameon=False, labelcolor=INK)
    legend.set_in_layout(False)


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Over ``WINDOW`` values on either side, fewer at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    start, end = (index - WINDOW).clip(0), (index + WINDOW + 1).clip(max=len(values))
    mean: np.ndarray = (sums[end] - sums[start]) / (end - start)
    return mean
