"""One picture of the game: the logits now, the logits so far, and who is right how often."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from srtrain.training.alarms import WON

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from torch import Tensor

QUANTILES = (0.05, 0.5, 0.95)
USEFUL = (0.55, 0.95)  # accuracy of a discriminator that the generator can learn from
MOST = 1 << 16  # logits per picture: more change nothing one could see
FEWEST_BINS, MOST_BINS = 16, 60
REAL, MADE = "#0072b2", "#d55e00"  # blue and vermilion of Okabe & Ito: told apart by everyone


class Moment(NamedTuple):
    """One line of the history; quantiles are of logits above their threshold."""

    step: int
    accuracy_real: float
    accuracy_made: float
    real: tuple[float, ...]
    made: tuple[float, ...]


def thinned(logits: Tensor) -> Tensor:
    """At most ``2 · MOST`` of them, evenly spaced, as a float row."""
    row = logits.detach().float().flatten()
    return row[:: max(1, len(row) // MOST)]


def quantiles(real: Tensor, made: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """``QUANTILES`` of both, fetched together."""
    levels = real.new_tensor(QUANTILES)
    low, high = torch.stack([torch.quantile(row, levels) for row in (real, made)]).tolist()
    return tuple(low), tuple(high)


def logit_picture(history: Sequence[Moment], *, real: Tensor, made: Tensor) -> bytes:
    """A PNG: histograms of ``real`` and ``made`` logits, their quantiles and accuracies by step."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    now, logits, right = figure.subplots(1, 3)
    _histogram(now, real, made, step=history[-1].step)
    _bands(logits, history)
    _accuracies(right, history)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _histogram(axes: Axes, real: Tensor, made: Tensor, *, step: int) -> None:
    both = torch.cat([real, made])
    low, high = (float(torch.quantile(both, level)) for level in (0.001, 0.999))
    margin = max(0.05 * (high - low), 1e-3)
    span = low - margin, high + margin
    bins = min(MOST_BINS, max(FEWEST_BINS, math.isqrt(len(real))))
    for row, colour, name in ((real, REAL, "real"), (made, MADE, "made")):
        heights, edges = np.histogram(row.cpu().numpy(), bins=bins, range=span)
        axes.stairs(heights, edges, fill=True, color=colour, alpha=0.3)
        axes.stairs(heights, edges, color=colour, linewidth=1.5, label=name)
    axes.axvline(0, color="black", linewidth=1)
    axes.set_title(f"logits of one batch, step {step}")
    axes.set_xlabel("← taken for made       taken for real →")
    axes.locator_params(axis="x", nbins=6)
    axes.set_yticks([])
    axes.legend(frameon=False)


def _bands(axes: Axes, history: Sequence[Moment]) -> None:
    steps = [moment.step for moment in history]
    marker = "." if len(steps) == 1 else None
    rows = {"real": [m.real for m in history], "made": [m.made for m in history]}
    for (name, row), colour in zip(rows.items(), (REAL, MADE), strict=True):
        low, middle, high = zip(*row, strict=True)
        axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(steps, middle, color=colour, marker=marker, label=name)
    axes.axhline(0, color="black", linewidth=1)
    axes.set_title("logits: median, 5 % to 95 %")
    axes.set_xlabel("generator step")


def _accuracies(axes: Axes, history: Sequence[Moment]) -> None:
    steps = [moment.step for moment in history]
    marker = "." if len(steps) == 1 else None
    axes.axhspan(*USEFUL, color="0.9", label=".55 to .95")
    axes.axhline(WON, color="0.4", linestyle=":", linewidth=1)
    rows = {"real": [m.accuracy_real for m in history], "made": [m.accuracy_made for m in history]}
    rows["both"] = [sum(pair) / 2 for pair in zip(rows["real"], rows["made"], strict=True)]
    for (name, row), colour in zip(rows.items(), (REAL, MADE, "black"), strict=True):
        axes.plot(steps, row, color=colour, marker=marker, label=name)
    axes.set_ylim(0, 1.02)
    axes.set_title("share of logits that are right")
    axes.set_xlabel("generator step")
    axes.legend(frameon=False, loc="lower right", ncols=2)
