"""What an evaluation prints: a table for each set, the best of each column bold."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

from srtrain.checks import counted
from srtrain.evaluation.titles import OF_SAMPLES, TITLES, title
from srtrain.metrics.image_metrics import LEFT_OUT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from srtrain.evaluation.results import ModelResult, Results

ASIDE = frozenset({"ssim_rgb", "bias"})  # in results.json alone: a terminal has 80 columns
_OF_SAMPLES = frozenset(OF_SAMPLES)
SHORT = {"psnr_rgb": "RGB", "lr_psnr": "LR-PSNR"}


def set_tables(results: Results, data: str, *, baseline: str) -> Iterator[Table]:
    """The standard protocol's table of one set, and one of its variants if there are any."""
    models = [model for model in results.models if data in model.data]
    metrics = [name for name in results.metrics(data) if not name.endswith(LEFT_OUT)]
    standard = [name for name in TITLES if name in metrics and name not in ASIDE | _OF_SAMPLES]
    variants = [name for name in metrics if name not in TITLES]
    count = max(len(model.data[data].images) for model in models)
    heading = f"{data} ×{results.protocol['scale']}, {counted(count, 'image')}"
    yield _table(models, data, standard, heading, baseline)
    if any(name in OF_SAMPLES for name in metrics):
        yield from _of_samples(results, data)
    if variants:
        yield _variants(models, data, variants, heading)


def best_of(metric: str, values: Sequence[float]) -> set[int]:
    """Which are best as they are written; none where neither way is better."""
    better, form = title(metric).better, title(metric).form
    targets = {"near 0": 0.0, "near 1": 1.0}
    if not better or len(values) < 2:
        return set()
    ranks = [
        -value if better == "higher" else abs(value - targets.get(better, 0.0)) for value in values
    ]
    known = [index for index, rank in enumerate(ranks) if not math.isnan(rank)]
    if not known:
        return set()
    top = form.format(values[min(known, key=ranks.__getitem__)])
    return {index for index in known if form.format(values[index]) == top}


def left_out_lines(results: Results, data: str) -> Iterator[str]:
    """Which means do without which images."""
    for model in results.models:
        means = model.data[data].means if data in model.data else {}
        for name, count in means.items():
            if name.endswith(LEFT_OUT):
                metric = title(name.removesuffix(LEFT_OUT)).name
                said = f"{counted(int(count), 'image')} where it is infinite or undefined"
                yield f"{data}, {model.name}: the mean {metric} leaves out {said}"


def _table(
    models: Sequence[ModelResult], data: str, metrics: Sequence[str], heading: str, baseline: str
) -> Table:
    table = _empty(heading)
    table.add_column("model", overflow="fold")
    for metric in metrics:
        table.add_column(SHORT.get(metric, title(metric).name), justify="right", no_wrap=True)
    columns = []
    for metric in metrics:
        values = [model.data[data].means.get(metric, math.nan) for model in models]
        best = best_of(metric, values)
        cells = [_cell(metric, value) for value in values]
        columns.append([f"[bold]{c}[/bold]" if i in best else c for i, c in enumerate(cells)])
    for index, model in enumerate(models):
        style = "dim" if model.name == baseline and len(models) > 1 else ""
        table.add_row(escape(model.name), *(column[index] for column in columns), style=style)
    return table


def _of_samples(results: Results, data: str) -> Iterator[Table]:
    """How samples differ; and what of that an exact sampler of the posterior is expected to reach.

    Two tables: a terminal has 80 columns.
    """
    said = results.protocol["samples"]
    exact = {name: value for name, value in said["expected"].items() if name in OF_SAMPLES}
    found = {model.name: model.data[data].means for model in results.models if data in model.data}
    flows = {name: means for name, means in found.items() if not _OF_SAMPLES.isdisjoint(means)}
    drawn = f"{counted(said['number'], 'sample')} of seed {said['seed']}"
    for laws, what in ((False, drawn), (True, "laws of samples")):
        names = [name for name in OF_SAMPLES if (name in exact) is laws]
        metrics = [name for name in names if any(name in means for means in flows.values())]
        if not metrics:
            continue
        table = _empty(f"{data}: {what}")
        table.add_column("model", overflow="fold")
        for metric in metrics:
            table.add_column(title(metric).name, justify="right", no_wrap=True)
        for name, means in {**flows, **({"exact": exact} if laws else {})}.items():
            cells = [_cell(metric, means.get(metric, math.nan)) for metric in metrics]
            table.add_row(escape(name), *cells, style="dim" if means is exact else "")
        yield table


def _variants(
    models: Sequence[ModelResult], data: str, metrics: Sequence[str], heading: str
) -> Table:
    """A row for each model and rule; the rule is the metric's suffix."""
    table = _empty(f"{heading}: by other rules")
    rules = list(dict.fromkeys(_split(metric)[1] for metric in metrics))
    columns = [name for name in TITLES if any(_split(metric)[0] == name for metric in metrics)]
    table.add_column("model", overflow="fold")
    table.add_column("rule", no_wrap=True)
    for name in columns:
        table.add_column(SHORT.get(name, title(name).name), justify="right", no_wrap=True)
    for model in models:
        means = model.data[data].means
        for rule in rules:
            row = [means.get(f"{name}_{rule}", math.nan) for name in columns]
            if not all(math.isnan(value) for value in row):
                cells = [_cell(name, value) for name, value in zip(columns, row, strict=True)]
                table.add_row(escape(model.name), rule, *cells)
    return table


def _split(metric: str) -> tuple[str, str]:
    name = max((name for name in TITLES if metric.startswith(f"{name}_")), key=len, default=metric)
    return name, metric[len(name) + 1 :]


def _empty(heading: str) -> Table:
    return Table(
        box=box.SIMPLE_HEAD,
        title=escape(heading),
        title_justify="left",
        pad_edge=False,
        collapse_padding=True,
    )


def _cell(metric: str, value: float) -> str:
    return "-" if math.isnan(value) else title(metric).form.format(value)
