"""The one figure and the one page of several answers from one checkpoint."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from srtrain.checks import counted
from srtrain.cli.evaluate.compared import differences_of
from srtrain.cli.evaluate.words import BICUBIC
from srtrain.cli.tradeoff.layers import (
    ERROR,
    HOTTEST,
    LOWER,
    OF_POINT,
    SHOWN,
    SPREAD,
    UPPER,
    WIDTH,
    looks,
    widest,
)
from srtrain.cli.tradeoff.planes import draw_planes
from srtrain.cli.tradeoff.samples import SEED, Sampled, place_of_figures
from srtrain.errors import StorageError
from srtrain.evaluation.results import Results, read_results
from srtrain.evaluation.tradeoff import Cloud, points
from srtrain.inference.upscaler import load_model

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence

    from srtrain.cli.tradeoff.arms import Arm
    from srtrain.evaluation.plots import Drawn
    from srtrain.evaluation.report.page import Report, RowOf

KINDS = {  # what each is, for people who meet it first
    "mse": "the mean of all plausible images",
    "pmrf": "that mean moved to the nearest image that looks like a photo",
    "posterior": "one of all plausible images, another for every seed",
    "patchgan": "what an adversary took for a photo",
    "quantile": "the median of every value, and the band around it",
}


def draw_and_write(
    options: argparse.Namespace,
    start: Arm,
    arms: Sequence[Arm],
    sampled: Mapping[str, Sampled],
    failed: Sequence[str],
    *,
    scale: int,
) -> int:
    """``plane.png``, ``plane.svg`` and ``report.html`` in the folder of the command.

    Raises: DataError where there is nothing to draw; StorageError if the disk refuses.
    """
    from srtrain.evaluation.report.page import write_report

    output = options.output
    results = read_results(output / "evaluation" / "results.json")
    further = read_results(place_of_figures(output) / "results.json") if sampled else None
    try:
        draw_planes(output, results, clouds=lambda data: clouds(results, further, data, sampled))
        device = options.device or "auto"
        models = {
            arm.name: load_model(arm.folder, device=device, trust=options.trust)
            for arm in (start, *arms)
        }
        shown = [*looks(options, results, further, models, sampled, scale=scale)]
        levels = {name: m.generator.head.level for name, m in models.items() if m.generator.head}
        report = _report(options, results, further, [start, *arms], sampled, failed)
        page = replace(report, gallery=shown, rows=[*rows(results, sampled, levels)])
        write_report(output / "report.html", page)
    except OSError as error:
        what = f"cannot write: {error.strerror or error}"
        raise StorageError(what, where=str(output), fix="another -o") from error
    print(f"{'report':<11} {output / 'report.html'}")
    return 0


def clouds(
    results: Results, further: Results | None, data: str, sampled: Mapping[str, Sampled]
) -> list[Cloud]:
    """The samples as points of the plane of ``data``: by its own metric, of the same images."""
    if further is None or data not in further.sets:
        return []
    own = {point.metric_name for point in points(results, data)}
    found = {point.model: point for point in points(further, data)}
    if {point.metric_name for point in found.values()} != own or _images(results, data) != _images(
        further, data
    ):
        return []
    return [
        Cloud(one.name, [found[one.title(k)] for k in range(1, one.count)], found[one.mean_name])
        for one in sampled.values()
    ]


def _images(results: Results, data: str) -> set[str]:
    return {image for m in results.models if data in m.data for image in m.data[data].images}


def _report(
    options: argparse.Namespace,
    results: Results,
    further: Results | None,
    arms: Sequence[Arm],
    sampled: Mapping[str, Sampled],
    failed: Sequence[str],
) -> Report:
    """All but the pictures."""
    from srtrain.evaluation.drawing import svg
    from srtrain.evaluation.report.page import FigureOf, Report

    drawn = [*_figures(results, further, sampled)]
    protocol = results.protocol
    versions = ", ".join(f"{name} {value}" for name, value in protocol["versions"].items())
    about = {name: str(protocol[name]) for name in ("date", "device", "commit") if protocol[name]}
    names = [arm.name for arm in arms]
    return Report(
        title=f"{counted(len(names) - 1, 'answer')} from one {names[0]} ×{protocol['scale']}",
        results=results,
        differences=differences_of(results, reference=names[0]),
        figures=[FigureOf(one.title, one.caption, svg(one.figure)) for one in drawn],
        configuration=_configuration(arms),
        environment={**about, "command": options.command, "versions": versions},
        notes=[*_notes(options, sampled, failed)],
    )


def _figures(
    results: Results, further: Results | None, sampled: Mapping[str, Sampled]
) -> Iterator[Drawn]:
    from srtrain.evaluation import plots
    from srtrain.evaluation.plane import plane_caption

    for data in results.sets:
        found = points(results, data)
        if len(found) > 1:
            beside = clouds(results, further, data, sampled)
            caption = plane_caption(found[0].metric_name, clouds=bool(beside))
            figure = plots.plane(found, clouds=beside)
            yield plots.Drawn("plane", f"Perception and distortion, {data}", caption, figure)


def rows(
    results: Results, sampled: Mapping[str, Sampled], levels: Mapping[str, float]
) -> Iterator[RowOf]:
    """Each answer; then of each flow its samples, of each band its bounds."""
    from srtrain.evaluation.report.page import RowOf

    names = [model.name for model in results.models if model.name != BICUBIC]
    answers = {"photo (HR)": "HR", BICUBIC: BICUBIC} | {name: name for name in names}
    said = "; ".join(f"{name}: {KINDS[name]}" for name in names if name in KINDS)
    yield RowOf("One answer of each", f"{said}." if said else "", answers)
    for name, one in sampled.items():
        tiles = {"sample 0": name}
        tiles |= {f"sample {k}": one.title(k) for k in range(1, min(SHOWN, one.count))}
        tiles |= {f"mean of {one.count}": one.mean_name, "spread": SPREAD.format(name)}
        tiles["error of the mean"] = ERROR.format(name)
        caption = (
            f"One photo, one network, other noise. Spread: standard deviation of {one.count}"
            " samples at each pixel; error: of their mean, against the photo; in gray levels."
        )
        yield RowOf(f"{name}, seed by seed", caption, tiles, f"{HOTTEST} gray levels")
    for name, level in levels.items():
        tiles = {"lower bound": LOWER.format(name), "answer": name}
        tiles |= {"upper bound": UPPER.format(name), "width": WIDTH.format(name)}
        tiles["error of the answer"] = OF_POINT.format(name)
        hottest = f"{widest(level):.0f} gray levels of width, {HOTTEST} of error"
        caption = f"Between the bounds {100 * level:g} % of the values are expected, one by one."
        yield RowOf(f"{name}, its band", caption, tiles, hottest)


def _configuration(arms: Sequence[Arm]) -> dict[str, str]:
    files = {arm.name: arm.folder / "config.yaml" for arm in arms}
    return {
        name: file.read_text(encoding="utf-8", errors="replace")
        for name, file in files.items()
        if file.is_file()
    }


def _notes(
    options: argparse.Namespace, sampled: Mapping[str, Sampled], failed: Sequence[str]
) -> Iterator[str]:
    given = options.mse_checkpoint
    yield f"All start from {'one mse, trained for them' if given is None else given}."
    for name, one in sampled.items():
        yield (
            f"{name}: the model's own figures are those of sample 0 of seed {SEED}; the mean is of "
            f"samples 0 to {one.count - 1} as they are written, of 8 bits."
        )
    for name in failed:
        yield f"{name} is left out: its training failed."
