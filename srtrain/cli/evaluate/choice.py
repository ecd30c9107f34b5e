"""Which images are worth looking at, and why."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from srtrain.evaluation.titles import title

if TYPE_CHECKING:
    from collections.abc import Sequence

    from srtrain.evaluation.results import Results, SetResult

METRIC = "psnr_y"
DIFFERING = 2  # images where models differ most
ALL = 6  # a set of so few images is shown whole
MOST = 12


def choose(results: Results, data: str, *, baseline: str = "") -> dict[str, str]:
    """Image → why it is shown: worst, median and best of the first model, and where models differ.

    ``baseline`` is left out of the differences where two other models are there.
    """
    models = [model for model in results.models if data in model.data]
    first = models[0]
    values = _finite(first.data[data])
    ranked = sorted(values, key=values.__getitem__)
    why: dict[str, list[str]] = {}
    places = {"worst": 0, "median": len(ranked) // 2, "best": len(ranked) - 1}
    for word, place in places.items() if ranked else ():
        name = ranked[place]
        if word == "worst" or not any(said in why.get(name, []) for said in places):
            why.setdefault(name, []).append(word)
    others = [model for model in models if model.name != baseline]
    compared = others if len(others) > 1 else models
    columns = [_finite(model.data[data]) for model in compared]
    spread = {name: _spread([column.get(name) for column in columns]) for name in ranked}
    differing = sorted(spread, key=spread.__getitem__, reverse=True)[:DIFFERING]
    for name in differing if len(compared) > 1 else ():
        if spread[name] > 0:
            why.setdefault(name, []).append(f"models differ by {spread[name]:.2f} dB")
    return {name: _sentence(said, first.name, values.get(name)) for name, said in why.items()}


def gallery(chosen: dict[str, str], names: Sequence[str]) -> dict[str, str]:
    """The chosen ones, then others as far as there is room, in the order of the set."""
    most = len(names) if len(names) <= ALL else min(MOST, len(chosen))
    rest = [name for name in names if name not in chosen]
    return dict(list({**chosen, **dict.fromkeys(rest, "")}.items())[:most])


def _sentence(said: list[str], model: str, value: float | None) -> str:
    text = ", ".join(said)
    return text if value is None else f"{text} ({title(METRIC).name} of {model}: {value:.2f} dB)"


def _finite(found: SetResult) -> dict[str, float]:
    rows = {name: row.get(METRIC, math.nan) for name, row in found.images.items()}
    return {name: value for name, value in rows.items() if math.isfinite(value)}


def _spread(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return max(known) - min(known) if known else 0.0
