"""Models against each other: differences with intervals, figures, and the page of it all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srtrain.cli.evaluate.naming import Names
from srtrain.cli.evaluate.tables import ASIDE
from srtrain.cli.evaluate.words import BICUBIC
from srtrain.evaluation.comparison import compare
from srtrain.evaluation.comparison_table import comparison_table, to_csv, to_rows
from srtrain.evaluation.titles import TITLES
from srtrain.files import write_atomic, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from rich.table import Table

    from srtrain.cli.evaluate.run import Evaluation
    from srtrain.evaluation.comparison import Difference
    from srtrain.evaluation.plots import Drawn
    from srtrain.evaluation.results import Results
    from srtrain.evaluation.shown import Shown

FEW = 2  # pairs of models on a set whose differences are printed in every metric
LEADING = ("psnr_y", "lpips")


def differences_of(results: Results, *, reference: str | None) -> list[Difference]:
    """Of every model to the reference: if none is named, the first, or bicubic of just two."""
    names = [model.name for model in results.models]
    if reference not in names:  # none was named, or of that one no image could be measured
        reference = BICUBIC if len(names) == 2 and BICUBIC in names else None
    return compare(results, reference=reference)


def printed(differences: Sequence[Difference]) -> Table | None:
    """The standard metrics, or where there is much to print the leading ones; the rest is written.

    Bicubic is told of only where it is all that a model is compared with.
    """
    shown = [d for d in differences if d.metric in TITLES and d.metric not in ASIDE]
    shown = [d for d in shown if d.model != BICUBIC] or shown
    if len({(d.data, d.model) for d in shown}) > FEW:
        shown = [d for d in shown if d.metric.startswith(LEADING)]
    return comparison_table(shown) if shown else None


def write_comparison(folder: Path, differences: Sequence[Difference]) -> None:
    """``comparison.json`` with the images, ``comparison.csv`` without; none of one model alone.

    Raises: OSError.
    """
    if not differences:
        for name in ("comparison.json", "comparison.csv"):
            (folder / name).unlink(missing_ok=True)
        return
    write_json(folder / "comparison.json", to_rows(differences))
    write_atomic(folder / "comparison.csv", to_csv(differences).encode())


def figures_of(
    results: Results, differences: Sequence[Difference], evaluation: Evaluation
) -> Iterator[Drawn]:
    """Planes, scatters, bars; checkpoints of one run are joined in their order."""
    from srtrain.evaluation import plots

    runs: dict[Path, list[str]] = {}
    for named in evaluation.named:
        if named.run is not None:
            runs.setdefault(named.run, []).append(named.name)
    yield from plots.figures(results, differences, [own for own in runs.values() if len(own) > 1])


def draw_figures(folder: Path, drawn: Sequence[Drawn]) -> list[Path]:
    """Each as PNG; returns their paths. Raises: OSError."""
    from srtrain.evaluation.drawing import png

    folder.mkdir(exist_ok=True)
    made = []
    names = Names()
    for one in drawn:
        path = folder / f"{names.of(one.name)}.png"
        write_atomic(path, png(one.figure))
        made.append(path)
    return made


def write_page(
    path: Path,
    evaluation: Evaluation,
    results: Results,
    differences: list[Difference],
    drawn: Sequence[Drawn],
    gallery: list[Shown],
    notes: list[str],
) -> None:
    """``report.html``. Raises: OSError."""
    from srtrain.evaluation.drawing import svg
    from srtrain.evaluation.report.page import FigureOf, Report, write_report

    protocol = results.protocol
    names = ("date", "command", "device", "commit")
    environment = {name: str(protocol[name]) for name in names if protocol[name]}
    versions = protocol["versions"]
    environment["versions"] = ", ".join(f"{name} {value}" for name, value in versions.items())
    report = Report(
        title=f"{', '.join(results.sets)} ×{protocol['scale']}",
        results=results,
        differences=differences,
        figures=[FigureOf(one.title, one.caption, svg(one.figure)) for one in drawn],
        gallery=gallery,
        configuration=_configuration(evaluation),
        environment=environment,
        notes=notes,
    )
    write_report(path, report)


def _configuration(evaluation: Evaluation) -> dict[str, str]:
    """``config.yaml`` of the runs that models come from, or why it cannot be read."""
    found = {}
    for named in evaluation.named:
        file = named.run / "config.yaml" if named.run is not None else None
        if file is not None and file.is_file():
            try:
                found[named.name] = file.read_text(encoding="utf-8", errors="replace")
            except OSError as error:
                found[named.name] = f"cannot be read: {error.strerror or error}"
    return found
