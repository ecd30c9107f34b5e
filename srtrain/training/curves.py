"""One picture of a run: the loss terms, and Y-PSNR over the bicubic line."""

from __future__ import annotations

import io
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from srtrain.training.run_folder import RunFolder

MANY = 60  # points; beyond, single batches hide the trend
WINDOW = 10

Series = dict[str, list[tuple[int, float]]]


def plot_curves(folder: RunFolder) -> Path | None:
    """Write ``curves.png`` from ``metrics.csv``; None when there is nothing to draw yet."""
    series: Series = defaultdict(list)
    for step, name, value in folder.read_metrics():
        series[name].append((step, value))
    losses = {name: points for name, points in series.items() if _is_loss(name)}
    if len(losses) == 2:  # the total, and the one term that it is
        losses.pop("train/loss", None)
    if not losses:
        return None
    # The object interface: no global state, no display needed.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _lines(left, losses, "raw loss terms")
    if any(value > 0 for points in losses.values() for _, value in points):
        left.set_yscale("log")
    _lines(right, {k: v for k, v in series.items() if k.endswith("/psnr_y")}, "Y-PSNR [dB]")
    path = folder.path / "curves.png"
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    folder.write(path, buffer.getvalue())
    return path


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _is_loss(name: str) -> bool:
    parts = name.split("/")
    others = {"learning_rate", "grad_norm", "samples_per_second"}
    return len(parts) == 2 and parts[0] == "train" and parts[1] not in others


def _lines(axes: Axes, series: Series, title: str) -> None:
    for name, points in sorted(series.items()):
        label = name.removeprefix("train/").removesuffix("/psnr_y")
        if name.startswith("bicubic/"):
            axes.axhline(points[-1][1], linestyle="--", color="0.5", label=label)
            continue
        steps, values = zip(*points, strict=True)
        if len(points) <= MANY:
            axes.plot(steps, values, marker=".", label=label)
            continue
        (raw,) = axes.plot(steps, values, alpha=0.25, linewidth=0.8)
        smooth = [_mean(values[max(0, i - WINDOW) : i + WINDOW + 1]) for i in range(len(values))]
        axes.plot(steps, smooth, color=raw.get_color(), label=f"{label}, running mean")
    axes.set_title(title)
    axes.set_xlabel("generator step")
    axes.grid(alpha=0.3)
    if series:
        axes.legend(fontsize=8)
