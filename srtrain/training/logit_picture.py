"""One picture of the game: the logits now, the logits so far, and who is right how often."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, NamedTuple

import torch

from srtrain.training.alarms import WON

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from torch import Tensor

QUANTILES = (0.05, 0.5, 0.95)
USEFUL = (0.55, 0.95)  # accuracy of a discriminator that the generator can learn from
MOST = 1 << 16  # logits per picture: more change nothing one could see
BINS = 60
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
    for row, colour, name in ((real, REAL, "real"), (made, MADE, "made")):
        values = row.clamp(*span).cpu().numpy()
        axes.hist(values, bins=BINS, range=span, density=True, color=colour, alpha=0.55, label=name)
    axes.axvline(0, color="black", linewidth=1)
    axes.set_title(f"logits at step {step}")
    axes.set_xlabel("taken for made  < 0 <  taken for real")
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
    axes.axhspan(*USEFUL, color="0.9", label="useful")
    axes.axhline(WON, color="0.4", linestyle=":", linewidth=1)
    axes.plot(steps, [m.accuracy_real for m in history], color=REAL, marker=marker)
    axes.plot(steps, [m.accuracy_made for m in history], color=MADE, marker=marker)
    axes.set_ylim(0, 1.02)
    axes.set_title("D is right about")
    axes.set_xlabel("generator step")
    axes.legend(frameon=False, loc="lower right")
