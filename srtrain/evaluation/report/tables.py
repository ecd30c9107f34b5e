"""What was measured, as tables: the means of each set, and how models differ."""

from __future__ import annotations

import math
from itertools import groupby
from typing import TYPE_CHECKING

from srtrain.checks import counted
from srtrain.evaluation.comparison_table import cells, remarks
from srtrain.evaluation.report.markup import (
    arrow,
    best,
    folded,
    heading,
    minus,
    number,
    table,
    text,
)
from srtrain.evaluation.titles import OF_SAMPLES, ordered, title

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from srtrain.evaluation.comparison import Difference
    from srtrain.evaluation.results import Results, SetResult

LEFT_OUT = "_left_out"
VERDICTS = {"better": "▲", "worse": "▼", "no evidence": "≈", "": ""}
GLYPH = 120  # pixels across


def summary(results: Results) -> str:
    """A table for each set: models × metrics, the best of each column bold."""
    return "\n".join(_of_set(results, data) for data in results.sets)


def _of_set(results: Results, data: str) -> str:
    measured = [(model.name, model.data[data]) for model in results.models if data in model.data]
    found_of = results.metrics(data)
    metrics = ordered(name for name in found_of if not name.endswith(LEFT_OUT))
    bare = [name for name in metrics if name not in OF_SAMPLES]
    count = max(len(found.images) for _, found in measured)
    images = f' <span class="count">{counted(count, "image")}</span>' if count else ""
    shown = _means(measured, bare, f"Means of {data}")
    own = _of_samples(results, data, [name for name in metrics if name in OF_SAMPLES])
    return f"<h3>{text(data)}{images}</h3>\n{shown}{own}{_left_out(measured)}"


def _of_samples(results: Results, data: str, metrics: Sequence[str]) -> str:
    """Of the models that have samples, and what an exact sampler is expected to reach."""
    if not metrics:
        return ""
    found = [(model.name, model.data[data]) for model in results.models if data in model.data]
    flows = [(name, of) for name, of in found if any(metric in of.means for metric in metrics)]
    said = results.protocol.get("samples", {})
    shown = _means(flows, metrics, f"Samples of {data}", exact=said.get("expected", {}))
    drawn = f"{said.get('number', '?')} of seed {said.get('seed', '?')}"
    return f'\n<h4>Samples <span class="count">{text(drawn)}</span></h4>\n{shown}'


def _means(
    measured: Sequence[tuple[str, SetResult]],
    metrics: Sequence[str],
    label: str,
    *,
    exact: Mapping[str, float] | None = None,
) -> str:
    """``exact``: a row more, of what the models are held to."""
    bests = {
        metric: best(metric, [found.means.get(metric, math.nan) for _, found in measured])
        for metric in metrics
    }
    rows = [
        [folded(name), *(_cell(metric, found, bests[metric], len(measured)) for metric in metrics)]
        for name, found in measured
    ]
    if exact:
        values = (number(metric, exact.get(metric, math.nan)) for metric in metrics)
        rows.append(["<i>exact sampler</i>", *(f"<i>{value}</i>" for value in values)])
    return table(["model", *map(heading, metrics)], rows, label=label)


def _cell(metric: str, found: SetResult, top: float | None, models: int) -> str:
    written = number(metric, found.means.get(metric, math.nan))
    equal = models > 1 and top is not None and written == number(metric, top)
    return f"<b>{written}</b>" if equal else written


def _left_out(measured: Iterable[tuple[str, SetResult]]) -> str:
    """Images that a mean does without, because there its metric is infinite or undefined."""
    said = [
        f"{text(name)}: {text(title(metric.removesuffix(LEFT_OUT)).name)} without {count:.0f}"
        for name, found in measured
        for metric, count in found.means.items()
        if metric.endswith(LEFT_OUT)
    ]
    if not said:
        return ""
    why = "Images left out of a mean, infinite or undefined"
    return f'<p class="note">{why}: {"; ".join(said)}.</p>'


def legend(results: Results) -> str:
    """What each metric is, for those who meet it first, and cannot hover."""
    metrics = ordered(
        {name for data in results.sets for name in results.metrics(data) if title(name).about}
    )
    terms = "\n".join(
        f"<dt>{heading(name)}</dt><dd>{text(title(name).about)}</dd>"
        for name in metrics
        if not name.endswith(LEFT_OUT)
    )
    if not terms:
        return ""
    head = "<summary>What the columns mean</summary>"
    return f'<details>{head}<dl class="terms">{terms}</dl></details>'


def comparison(differences: Sequence[Difference]) -> str:
    """A table for each set and each pair of models: mean difference, interval, verdict."""
    groups = groupby(differences, key=lambda found: (found.data, found.model, found.reference))
    return "\n".join(_pair(*pair, list(found)) for pair, found in groups)


def _pair(data: str, model: str, reference: str, found: Sequence[Difference]) -> str:
    head = ["metric", "verdict", "mean difference", "95 % interval", "", "<i>p</i>", "images"]
    rows = []
    by_metric = {one.metric: one for one in found}
    for one in (by_metric[metric] for metric in ordered(by_metric)):
        mean, between, _, p = (text(minus(cell)) for cell in cells(one))
        figures = [mean, between, _glyph(one), p, str(len(one.values))]
        rows.append([_compared(one), _verdict(one), *figures])
    shown = table(head, rows, label=f"{model} against {reference} on {data}")
    names = f"{text(model)} <span class='dim'>against</span> {text(reference)}"
    said = "".join(f'<p class="note">{text(minus(line))}.</p>' for line in remarks(found))
    return f"<h3>{names} <span class='count'>{text(data)}</span></h3>\n{shown}{said}"


def _compared(found: Difference) -> str:
    if not found.distance:
        return heading(found.metric)
    about = f"{title(found.metric).about}: the distance to its best value"
    return f'<span title="{text(about)}">{text(minus(found.name))} {arrow("lower")}</span>'


def _verdict(found: Difference) -> str:
    sign = VERDICTS[found.verdict]
    if not sign:
        return '<span class="dim" title="neither way is better by itself">–</span>'
    kind = found.verdict.replace(" ", "-")
    hidden = f'<span aria-hidden="true">{sign}</span>'
    return f'<span class="verdict {kind}">{hidden} {found.verdict}</span>'


def _glyph(found: Difference) -> str:
    """Mean and interval about zero, each metric on its own scale."""
    ends = found.low, found.mean, found.high
    reach = max(map(abs, ends)) * 1.15
    if not math.isfinite(reach) or not reach:
        return ""
    low, mean, high = (GLYPH / 2 * (1 + end / reach) for end in ends)
    kind = found.verdict.replace(" ", "-") or "no-evidence"
    return (
        f'<svg class="glyph {kind}" width="{GLYPH}" height="16" aria-hidden="true">'
        f'<line class="zero" x1="{GLYPH / 2}" x2="{GLYPH / 2}" y1="0" y2="16"/>'
        f'<line class="span" x1="{low:.1f}" x2="{high:.1f}" y1="8" y2="8"/>'
        f'<circle cx="{mean:.1f}" cy="8" r="3.5"/></svg>'
    )
