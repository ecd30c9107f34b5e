"""Everything that an evaluation leaves behind, and what it prints."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from srtrain.cli.evaluate.compared import (
    differences_of,
    draw_figures,
    figures_of,
    printed,
    write_comparison,
    write_page,
)
from srtrain.cli.evaluate.looks import looks, of_pictures
from srtrain.cli.evaluate.naming import Names
from srtrain.cli.evaluate.outcome import blended, results_of, write_csv
from srtrain.cli.evaluate.pictures import save_picture
from srtrain.cli.evaluate.place import cannot_write
from srtrain.cli.evaluate.protocol import lr_line, protocol_of
from srtrain.cli.evaluate.sampled import notes_of
from srtrain.cli.evaluate.sampled import protocol_of as protocol_of_samples
from srtrain.cli.evaluate.saved import Saved
from srtrain.cli.evaluate.tables import left_out_lines, set_tables
from srtrain.cli.evaluate.words import BICUBIC
from srtrain.cli.table import places

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from rich.console import Console

    from srtrain.cli.evaluate.outcome import Rows
    from srtrain.cli.evaluate.place import Place
    from srtrain.cli.evaluate.run import Evaluation
    from srtrain.cli.evaluate.work import Work
    from srtrain.evaluation.comparison import Difference
    from srtrain.evaluation.plots import Drawn
    from srtrain.evaluation.results import Results
    from srtrain.evaluation.shown import Shown

log = logging.getLogger("srtrain")


def write_all(
    options: argparse.Namespace,
    evaluation: Evaluation,
    rows: Rows,
    left_out: Sequence[str],
    place: Place,
    work: Work,
    console: Console,
) -> None:
    """Figures first, then pictures and the report. Raises: StorageError if the disk refuses."""
    results = _results(options, evaluation, rows, work)
    differences = differences_of(results, reference=options.reference)
    with _writing(place):
        place.begin(evaluation.digest)
        Saved(place.path).forget_others(evaluation.tasks)
        results.write(place.results)
        write_csv(place.values, results)
        write_comparison(place.path, differences)
    notes = [*_notes(results, evaluation, rows)]
    _print(results, differences, notes, console)
    with _writing(place):
        _illustrate(options, evaluation, results, differences, [*left_out, *notes], place, work)
    places(console, place.rooms)


def _illustrate(
    options: argparse.Namespace,
    evaluation: Evaluation,
    results: Results,
    differences: list[Difference],
    notes: list[str],
    place: Place,
    work: Work,
) -> None:
    """Pictures, figures, the page: each without those that fail, and nothing older beside them."""
    seen: list[Shown] = []
    drawn: list[Drawn] = []
    made: list[Path] = []
    with _spared(place.pictures):
        seen = [*looks(results, evaluation, work)]
        made += _pictures(place, seen)
    if options.report:
        with _spared(place.figures):
            drawn = [*figures_of(results, differences, evaluation)]
            made += draw_figures(place.figures, drawn)
    place.drawn(evaluation.digest, made)
    paged = False
    if options.report:
        with _spared(place.report):
            write_page(place.report, evaluation, results, differences, drawn, seen, notes)
            paged = True
    if not paged:
        place.report.unlink(missing_ok=True)


def _pictures(place: Place, seen: Sequence[Shown]) -> list[Path]:
    place.pictures.mkdir(exist_ok=True)
    names = Names()
    chosen = [each for each in seen if each.why]
    return [save_picture(place.pictures, each, baseline=BICUBIC, names=names) for each in chosen]


@contextmanager
def _spared(path: Path) -> Iterator[None]:
    """What fails here costs a warning: the figures are measured and written. Raises: OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        log.warning("%s: not written: %s: %s", path.name, type(error).__name__, error)


@contextmanager
def _writing(place: Place) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_write(place.path, error) from error


def _results(
    options: argparse.Namespace, evaluation: Evaluation, rows: Rows, work: Work
) -> Results:
    protocol = protocol_of(
        options,
        measuring=evaluation.measuring,
        sets=evaluation.sets,
        rows=rows,
        device=work.device,
        ranks=evaluation.ranks,
        argv=evaluation.argv,
    )
    protocol |= protocol_of_samples(evaluation.models, evaluation.measuring.metrics.lpips)
    digests = {model.name: model.sha256 for model in evaluation.models}
    return results_of(rows, digests=digests, measuring=evaluation.measuring, protocol=protocol)


def _print(
    results: Results, differences: list[Difference], notes: list[str], console: Console
) -> None:
    for data in results.sets:
        for table in set_tables(results, data, baseline=BICUBIC):
            console.print(table)
    compared = printed(differences)
    if compared is not None:
        console.print(compared)
    for line in notes:
        console.print(line, style="dim", markup=False, soft_wrap=True)


def _notes(results: Results, evaluation: Evaluation, rows: Rows) -> Iterator[str]:
    """What must be known to read the figures."""
    for data in results.sets:
        yield from left_out_lines(results, data)
    for each in evaluation.sets:
        if each.name in results.sets:
            yield f"{each.name}: LR {lr_line(each, rows)}"
    for model, said in blended(rows).items():
        yield f"{model}: {said}"
    yield from evaluation.absent
    yield from notes_of(results, evaluation.models)
    if (count := len(of_pictures(results))) < len(results.models):
        yield f"Pictures are of {count} of the {len(results.models)} models"
