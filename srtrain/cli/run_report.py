"""``report.html`` of a run: what its last validation measured and made, and how it got there."""

from __future__ import annotations

import logging
import shlex
from collections import defaultdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from srtrain.checks import counted
from srtrain.cli import announce
from srtrain.cli.evaluate.protocol import commit, versions
from srtrain.cli.process import short
from srtrain.files import read_json
from srtrain.metrics.image_metrics import SUMS, ImageMetrics
from srtrain.metrics.quality import levels
from srtrain.process_group import world_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from srtrain.cli.train import Run
    from srtrain.evaluation.report.page import FigureOf, Report, TableOf
    from srtrain.evaluation.results import Results
    from srtrain.evaluation.shown import Shown
    from srtrain.images.picture import Pixels
    from srtrain.training.run_folder import RunFolder
    from srtrain.training.supervised import SupervisedSR
    from srtrain.training.validation import Panel, Validation

BICUBIC, SR = "bicubic", "SR"
log = logging.getLogger("srtrain")


def write_run_report(run: Run, module: SupervisedSR, summary: Mapping[str, Any]) -> Path | None:
    """Write ``report.html``; returns its path, None where that failed, which is told.

    Nothing is evaluated for it. Its pictures are those that this process has validated: without
    any (a run that was finished before) an earlier report is left as it is.
    """
    path = run.folder.path / "report.html"
    if not module.validation.panels and path.exists():
        return path
    try:
        from srtrain.evaluation.report.page import page

        html = page(_report(run, module, summary))
        run.folder.write(path, html.encode("utf-8", "xmlcharrefreplace"))
    except Exception as error:  # a run that has trained for days has not failed for want of a page
        log.warning("report.html was not written: %s: %s", type(error).__name__, error)
        return None
    return path


def _report(run: Run, module: SupervisedSR, summary: Mapping[str, Any]) -> Report:
    from srtrain.evaluation.comparison import compare
    from srtrain.evaluation.report.page import Report

    validation = module.validation
    results = _results(validation, sha256=_sha256(run.folder))
    rows = run.folder.read_metrics()
    latest = {name: value for _, name, value in rows}
    return Report(
        title=f"{run.choices['experiment']} ×{validation.metrics.scale}",
        results=results,
        differences=compare(results),
        tables=[_losses(module, latest, summary)],
        figures=[*_planes(results), *_curves(rows)],
        gallery=[_shown(panel, results) for panel in validation.panels],
        configuration={SR: run.folder.config.read_text(encoding="utf-8")},
        environment=_environment(run, summary),
        notes=list(_notes(run, results, validation, summary)),
    )


def _results(validation: Validation, *, sha256: str) -> Results:
    """The means of all images; image by image what this process has measured.

    A run that was continued has the means of its baseline from the checkpoint: then the baseline
    of the pictures is measured again, image by image, without LPIPS.
    """
    from srtrain.evaluation.results import ModelResult, Results, SetResult

    baseline = {name: dict(images) for name, images in validation.bicubic_images.items()}
    metrics = ImageMetrics(scale=validation.metrics.scale)
    for panel in validation.panels:
        if panel.data not in validation.bicubic_images:
            found = metrics(panel.bicubic[None], panel.hr[None])
            row = {name: float(value) for name, value in found.items() if name not in SUMS}
            baseline.setdefault(panel.data, {})[panel.name] = row
    measured = {BICUBIC: (validation.bicubic, baseline), SR: (validation.val, validation.images)}
    models = [
        ModelResult(
            name,
            sha256 if name == SR else "",
            {data: SetResult(dict(row), images.get(data, {})) for data, row in means.items()},
        )
        for name, (means, images) in measured.items()
    ]
    return Results(models, dict(validation.metrics.protocol))


def _sha256(folder: RunFolder) -> str:
    """Of the checkpoint that was written last."""
    try:
        return str(read_json(folder.checkpoints / "last")["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _shown(panel: Panel, results: Results) -> Shown:
    from srtrain.evaluation.shown import Shown

    values = {
        model.name: model.data[panel.data].images[panel.name]
        for model in results.models
        if panel.data in model.data and panel.name in model.data[panel.data].images
    }
    lr, bicubic, sr, hr = map(_pixels, (panel.lr, panel.bicubic, panel.sr, panel.hr))
    return Shown(panel.data, panel.name, "", lr, hr, {BICUBIC: bicubic, SR: sr}, values)


def _pixels(image: Tensor) -> Pixels:
    """Shapes: (3, H, W) in [0, 1] -> uint8 (H, W, 3), rounded as where it is measured."""
    pixels: Pixels = levels(image).byte().permute(1, 2, 0).contiguous().numpy()
    return pixels


def _losses(
    module: SupervisedSR, latest: Mapping[str, float], summary: Mapping[str, Any]
) -> TableOf:
    """What each term counted in the end, as the terminal's table has it."""
    from srtrain.evaluation.report.page import TableOf

    ratios = summary["loss"].get("gradient", {})

    def logged(name: str, form: str) -> str:
        return form.format(latest[name]) if name in latest else "–"

    return TableOf(
        title="What each loss term counted",
        caption="Shares of the loss, and of its gradient at the network's output: the latter says "
        "who led. Gradient ÷ that of the pixel terms.",
        head=["term", "coefficient", "raw value", "share of loss", "of gradient", "÷ pixel's"],
        rows=[
            [
                name,
                f"{weight:g}",
                logged(f"train/{name}", "{:.6f}"),
                logged(f"train/share/{name}", "{:.1%}"),
                logged(f"train/gradient_share/{name}", "{:.1%}"),
                f"{ratios[name]:.2f}" if name in ratios else "–",
            ]
            for name, weight in module.loss.weights.items()
        ],
    )


def _planes(results: Results) -> Iterator[FigureOf]:
    """Bicubic and SR on the perception-distortion plane of each set, of the same images."""
    from srtrain.evaluation import plots
    from srtrain.evaluation.plane import plane_caption
    from srtrain.evaluation.report.page import FigureOf
    from srtrain.evaluation.results import ModelResult, Results, SetResult
    from srtrain.evaluation.tradeoff import points

    def alike(data: str, of: SetResult) -> SetResult:
        """By its means alone where the models have values of different images."""
        return SetResult(of.means, of.images if _on_some(results, data) is None else {})

    models = [
        ModelResult(model.name, "", {data: alike(data, of) for data, of in model.data.items()})
        for model in results.models
    ]
    for data in results.sets:
        found = points(Results(models), data)
        if len(found) > 1:
            caption = plane_caption(found[0].metric_name)
            figure = plots.svg(plots.plane(found))
            yield FigureOf(f"Perception and distortion, {data}", caption, figure)


def _on_some(results: Results, data: str) -> int | None:
    """How many images both models have values of; None where that is all of them."""
    of = [frozenset(model.data[data].images) for model in results.models if data in model.data]
    return len(frozenset.intersection(*of)) if len(set(of)) > 1 else None


def _curves(rows: Sequence[tuple[int, str, float]]) -> list[FigureOf]:
    from srtrain.evaluation import plots
    from srtrain.evaluation.report.page import FigureOf

    series: plots.Series = defaultdict(list)
    for step, name, value in rows:
        series[name].append((step, value))
    try:
        figure = plots.curves(series)
    except ValueError:  # nothing was logged: the run ended before that
        return []
    caption = "Figures of the validation images, and the loss terms before their weights."
    return [FigureOf("Curves", caption, plots.svg(figure))]


def _environment(run: Run, summary: Mapping[str, Any]) -> dict[str, str]:
    about = {
        "date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "command": shlex.join(["srtrain", *run.argv]),
        "run folder": str(short(run.folder.path)),
        "device": announce.devices(run.options),
        "steps": f"{summary['generator_steps']:,} of {run.options.max_steps:,}",
        "time": f"{summary['seconds']:,.0f} s",
        "commit": commit(),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }
    return {name: value for name, value in about.items() if value}


def _notes(
    run: Run, results: Results, validation: Validation, summary: Mapping[str, Any]
) -> Iterator[str]:
    """What must be known to read the figures."""
    none = "none of whose files is one of training"  # SRData has compared them
    yield f"{SR} was measured at step {validation.measured_at:,} on validation images, {none}."
    if said := announce.said_of_samples(summary):
        yield f"{said}."
    if begin := run.config.init_from.path:
        yield f"The training began with the weights of {begin}: what those have seen is not known."
    for data in results.sets:
        if count := _on_some(results, data):
            yield (
                f"{data}: the run was continued, so that {BICUBIC} has values of only the "
                f"{counted(count, 'image')} with a picture; {BICUBIC} and {SR} are compared on "
                "those, their means are of all images."
            )
    if not any(name.startswith("lpips") for row in validation.val.values() for name in row):
        yield "LPIPS was not measured: no net was chosen (metrics.lpips.net)."
    for term, features in summary["loss"].get("features", {}).items():
        yield f"The loss term {term} compares features {features}."
    for name, alarm in summary.get("alarms", {}).items():
        when = f"steps {alarm['step']:,} to {alarm['last_step']:,}"
        yield f"Alarm {name}, {when}: {alarm['says']}."
    if summary.get("skipped"):
        yield f"{summary['skipped']} steps were skipped: a gradient was not finite."
    if world_size() > 1:
        yield f"The pictures are those that the first of {world_size()} ranks has validated."
