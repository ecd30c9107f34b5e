"""Differences as a table in a terminal, as JSON rows and as CSV."""

from __future__ import annotations

import csv
import io
import math
from itertools import groupby
from typing import TYPE_CHECKING, Any

from srtrain.checks import counted
from srtrain.evaluation.comparison import CONFIDENCE, FEWEST, SPREAD
from srtrain.evaluation.titles import title

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from srtrain.evaluation.comparison import Difference

OF_SUMS = ("rtm", "law", "law_to_mean", "orthogonality", "cost_db")
COLUMNS = ("compared", "model", "reference", "count", "mean", "low", "high", "p", "verdict")
STYLES = {"better": "green", "worse": "red", "no evidence": "dim", "": "dim"}


def comparison_table(differences: Sequence[Difference]) -> Table:
    """Per data set and model a row for each metric; fits 80 columns.

    ``±`` is half the interval: about the smallest mean difference that these images can show.
    """
    from rich.markup import escape
    from rich.table import Table

    whole = Table.grid()
    whole.title, whole.title_justify = "Differences, image by image", "left"
    whole.caption = escape("\n".join(remarks(differences))) or None
    whole.caption_justify = "left"
    for _, rows in groupby(differences, key=lambda d: (d.data, d.model, d.reference)):
        whole.add_row(_of_one(list(rows)))
    return whole


def _of_one(differences: Sequence[Difference]) -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    first = differences[0]
    count = counted(max(len(d.values) for d in differences), "image")
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{escape(first.model)} - {escape(first.reference)} on {escape(first.data)}, {count}",
        title_style="bold",
        title_justify="left",
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("", min_width=16, overflow="fold")
    for name, width in (("mean", 8), ("95 % interval", 17), ("±", 7), ("p", 5)):
        table.add_column(name, justify="right", no_wrap=True, min_width=width)
    table.add_column("", no_wrap=True, min_width=11)
    for d in differences:
        table.add_row(escape(d.name), *cells(d), d.verdict, style=STYLES[d.verdict])
    return table


def cells(difference: Difference) -> tuple[str, str, str, str]:
    """Mean, interval, half of it and p, with the digits that the metric is written with."""
    signed = _signed(title(difference.metric).form)
    if math.isnan(difference.low):
        return signed.format(difference.mean), "–", "–", p_value(difference.p)
    between = f"{signed.format(difference.low)} … {signed.format(difference.high)}"
    half = signed.replace("+", "").format(difference.half_width)
    return signed.format(difference.mean), between, half, p_value(difference.p)


def p_value(p: float | None) -> str:
    """``.031``, ``<.001``, ``1``."""
    if p is None:
        return "–"
    return "<.001" if p < 0.0005 else f"{p:.3f}".removeprefix("0") if p < 0.9995 else "1"


def _signed(form: str) -> str:
    return form if "+" in form else form.replace("{:", "{:+")


def remarks(differences: Sequence[Difference]) -> list[str]:
    """What must be known to read the verdicts."""
    said = []
    fewest = min((len(d.values) for d in differences), default=FEWEST)
    if fewest < FEWEST:
        of = counted(fewest, "image")
        said.append(f"{of}: no verdict can be had below {FEWEST}, as p cannot reach .05")
    if fewest < SPREAD:
        said.append(f"no interval is told below {SPREAD} images: it would often miss the mean")
    count = sum(bool(d.sign) and len(d.values) >= FEWEST for d in differences)
    if count > 1 and any(d.verdict in {"better", "worse"} for d in differences):
        said.append(
            f"each of {count} verdicts stands for itself: between equal models chance makes up to"
            f" one in {round(1 / (1 - CONFIDENCE))} better or worse"
        )
    if any(d.distance for d in differences):
        said.append("|…|: distances to the best value are compared, less is better")
    found = {d.metric for d in differences}
    if summed := [title(name).name for name in OF_SUMS if name in found]:
        said.append(
            f"{', '.join(summed)}: the mean over images; of a set it is that of all its pixels"
            " together"
        )
    return said


def to_rows(differences: Sequence[Difference]) -> list[dict[str, Any]]:
    """As JSON: one object per difference, its values by image; what is not finite is null."""
    return [
        {
            "data": d.data,
            "metric": d.metric,
            "compared": d.name,
            "model": d.model,
            "reference": d.reference,
            "count": len(d.values),
            "mean": d.mean,
            "low": d.low if math.isfinite(d.low) else None,
            "high": d.high if math.isfinite(d.high) else None,
            "p": d.p,
            "verdict": d.verdict,
            "images": dict(zip(d.images, d.values, strict=True)),
        }
        for d in differences
    ]


def to_csv(differences: Sequence[Difference]) -> str:
    """One row per difference, without the images."""
    buffer = io.StringIO()
    names = ["data", "metric", *COLUMNS]
    writer = csv.DictWriter(buffer, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(to_rows(differences))
    return buffer.getvalue()
