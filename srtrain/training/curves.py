"""One picture of a run: the loss terms, and Y-PSNR over the bicubic line."""

from __future__ import annotations

import io
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from srtrain.training.run_folder import RunFolder

MANY = 60  # points; beyond, single batches hide the trend
WINDOW = 10

Series = dict[str, list[tuple[int, float]]]
Colour = tuple[float, float, float, float]


def plot_curves(folder: RunFolder) -> Path | None:
    """Write ``curves.png`` from ``metrics.csv``; None when there is nothing to draw yet.

    The terms of the loss and their sum on a logarithmic axis; where some fall below 0, as an
    adversary's may, those in a panel of their own.
    """
    series: Series = defaultdict(list)
    for step, name, value in folder.read_metrics():
        series[name].append((step, value))
    losses = {name: points for name, points in series.items() if _is_loss(name, series)}
    if len(losses) == 2:  # the total, and the one term that it is
        losses.pop("train/loss", None)
    if not losses:
        return None
    # The object interface: no global state, no display needed.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    signed = {k: points for k, points in losses.items() if any(value < 0 for _, value in points)}
    plain = {k: points for k, points in losses.items() if k not in signed}
    titled = [(plain, "raw loss terms"), (signed, "raw loss terms that fall below 0")]
    panels = [(terms, title) for terms, title in titled if terms]
    scores = {k: v for k, v in series.items() if k.endswith("/psnr_y")}
    figure = Figure(figsize=(5.5 * (len(panels) + 1), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels) + 1)
    for panel, (terms, title) in zip(axes[:-1], panels, strict=True):
        _lines(panel, terms, title, sorted(losses))
        if terms is plain and any(value > 0 for points in terms.values() for _, value in points):
            panel.set_yscale("log")
    _lines(axes[-1], scores, "Y-PSNR [dB]", sorted(scores))
    path = folder.path / "curves.png"
    buffer = io.BytesIO()
    figure.draw_without_rendering()  # lays it out; saving would do so again, twice
    figure.set_layout_engine("none")
    figure.savefig(buffer, format="png", dpi=120)
    folder.write(path, buffer.getvalue())
    return path


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _is_loss(name: str, known: Collection[str]) -> bool:
    """The total, and what has a share of it: no accuracy, drift or learning rate."""
    group, _, term = name.partition("/")
    return group == "train" and (term == "loss" or f"train/share/{term}" in known)


def _colours(names: Sequence[str]) -> dict[str, Colour]:
    """A colour for each name, none twice."""
    from matplotlib import colormaps

    count = len(names)
    if count <= 20:
        palette = colormaps["tab10" if count <= 10 else "tab20"]
        return {name: palette(index) for index, name in enumerate(names)}
    return {name: colormaps["turbo"](index / (count - 1)) for index, name in enumerate(names)}


def _lines(axes: Axes, series: Series, title: str, names: Sequence[str]) -> None:
    """Draw ``series``; ``names`` are all that share the colours, in their order."""
    colours = _colours(names)
    for name, points in sorted(series.items()):
        colour = colours[name]
        label = name.removeprefix("train/").removesuffix("/psnr_y")
        if name.startswith("bicubic/"):
            axes.axhline(points[-1][1], linestyle="--", color=colour, label=label)
            continue
        steps, values = zip(*points, strict=True)
        if len(points) <= MANY:
            axes.plot(steps, values, marker=".", color=colour, label=label)
            continue
        axes.plot(steps, values, alpha=0.25, linewidth=0.8, color=colour)
        smooth = [_mean(values[max(0, i - WINDOW) : i + WINDOW + 1]) for i in range(len(values))]
        axes.plot(steps, smooth, color=colour, label=f"{label}, running mean")
    axes.set_title(title)
    axes.set_xlabel("generator step")
    axes.grid(alpha=0.3)
    if series:  # below the axes, never on a line
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)
