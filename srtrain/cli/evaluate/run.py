"""One evaluation from checked words to written results."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from srtrain.checks import counted
from srtrain.cli.evaluate.journal import Journal, key_of
from srtrain.cli.evaluate.kept import Kept
from srtrain.cli.evaluate.leaving import counting, leave_if_asked
from srtrain.cli.evaluate.measuring import Measuring, found_dists, found_lpips
from srtrain.cli.evaluate.opened import open_model
from srtrain.cli.evaluate.outcome import common, left_out, rows_of
from srtrain.cli.evaluate.place import Place
from srtrain.cli.evaluate.protocol import inference_of, versions
from srtrain.cli.evaluate.sampled import Asked, refuse_without_flow, tell_few_steps
from srtrain.cli.evaluate.saved import Saved
from srtrain.cli.evaluate.sets import large_enough
from srtrain.cli.evaluate.work import BATCH_PIXELS, Task, Work
from srtrain.cli.evaluate.workers import beside, end_with_parent, own_share
from srtrain.cli.evaluate.write import write_all
from srtrain.cli.quiet import make_console, quiet_libraries
from srtrain.errors import ConfigError, DataError
from srtrain.inference.forward import pick_device
from srtrain.metrics.image_metrics import smallest_side
from srtrain.metrics.quality import WINDOW
from srtrain.metrics.variants import Variants
from srtrain.ranks import launched

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from srtrain.cli.evaluate.models import Model
    from srtrain.cli.evaluate.sets import DataSet
    from srtrain.cli.evaluate.words import Named
    from srtrain.cli.evaluate.workers import Share

Finished = dict[str, dict[str, dict[str, "Path"]]]


@dataclass(frozen=True)
class Evaluation:
    """All that is measured, with what, and by how many processes.

    ``absent``: lines about metrics that cannot be had.
    """

    models: list[Model]
    named: Sequence[Named]
    sets: list[DataSet]
    measuring: Measuring
    tasks: list[Task]
    absent: list[str]
    ranks: int
    argv: Sequence[str]

    @property
    def digest(self) -> str:
        """Of everything that makes the figures what they are."""
        return key_of([(task.model.name, task.data.name, task.key) for task in self.tasks])


def run(
    options: argparse.Namespace,
    named: Sequence[Named],
    sets: Sequence[DataSet],
    finished: Finished,
    argv: Sequence[str],
) -> int:
    """Measure what is not measured yet; rank 0 writes the results. See ``main``."""
    quiet_libraries()
    end_with_parent()
    share = own_share(options.devices)
    device = _own_device(options.device, share)
    evaluation = _prepared(options, named, sets, finished, argv, device, share.total)
    place = Place(options.output)
    with ExitStack() as stack:
        if share.rank == 0:
            stack.enter_context(place.held(evaluation.digest, overwrite=options.overwrite))
        journal = stack.enter_context(Journal(place.progress, rank=share.rank))
        work = Work(
            evaluation.measuring,
            journal,
            device,
            batch_pixels=options.batch_pixels or BATCH_PIXELS.get(device.type, BATCH_PIXELS["cpu"]),
            kept=Kept() if share.rank == 0 else Kept(0),  # who draws
            saved=Saved(place.path) if options.save_images else None,
        )
        if share.rank:
            work.do(_missing(evaluation.tasks, work, share), on_done=lambda _: None)
            return 0
        if not launched() and work.saved is not None:
            work.saved.remove_temporaries(evaluation.tasks)
        stack.enter_context(counting(lambda: work.measured(evaluation.tasks)))
        _tell_before(evaluation, work)
        tell_few_steps(evaluation.models)
        with beside(argv, options.devices):
            _measure_all(evaluation.tasks, work, share)
        rows = common(rows_of(evaluation.tasks, journal.rows))
        less = left_out(evaluation.tasks, work.bad, rows)
        failed = _tell_failures(evaluation, work, less)
        if not any(rows.values()):
            what, fix = "no image could be measured by all models", "see the lines above"
            raise DataError(what, where=str(place.path), fix=fix)
        write_all(options, evaluation, rows, less, place, work, make_console(quiet=False))
    return 3 if failed else 0


def _prepared(
    options: argparse.Namespace,
    named: Sequence[Named],
    sets: Sequence[DataSet],
    finished: Finished,
    argv: Sequence[str],
    device: torch.device,
    ranks: int,
) -> Evaluation:
    scale: int = options.scale
    lpips, no_lpips = found_lpips(options.lpips, options.features)
    dists, no_dists = found_dists(options.dists)
    reflect = options.ssim == "reflect"
    borders = tuple(sorted(set(options.border)))
    variants = Variants(scale, borders, unrounded=options.unrounded, reflect=reflect)
    measuring = Measuring(scale=scale, variants=variants, lpips=lpips, dists=dists, device=device)
    smallest = max(
        smallest_side(scale=scale, lpips_net=lpips.net if lpips else None),
        dists.min_size if dists else 0,
    )
    border = max((0, *borders))
    bordered = WINDOW + 2 * border
    asked = Asked.of(options)
    measured = [large_enough(data, smallest, border=border, bordered=bordered) for data in sets]
    models = [
        open_model(
            each,
            finished.get(each.name, {}),
            scale=scale,
            trust=options.trust,
            tile=options.tile,
            self_ensemble=options.self_ensemble,
            precision=options.precision,
            asked=asked,
        )
        for each in named
    ]
    refuse_without_flow(asked, models)
    # What a row of the journal holds is a fact of its own: 2, since `approximate` is in it.
    facts = (2, measuring.protocol, inference_of(options, device), device.type, versions())
    tasks = [
        Task(model, data, item, key_of(model.key(data, item), item.digest, facts))
        for model in models
        for data in measured
        for item in data.items
    ]
    absent = [line for line in (no_lpips, no_dists) if line]
    return Evaluation(models, named, measured, measuring, tasks, absent, ranks, argv)


def _own_device(name: str, share: Share) -> torch.device:
    device = pick_device(name)
    if device.type != "cuda":
        return device
    here = share.local + 1 if launched() else share.total
    if device.index is not None:
        if here > 1:
            fix = "--device cuda: each process takes a GPU of its own"
            raise ConfigError("one GPU for several processes", where=f"--device {name}", fix=fix)
        return device
    if here > (count := torch.cuda.device_count()):
        what = f"{here} processes for {counted(count, 'GPU')}"
        raise ConfigError(what, where="command line", fix=f"{count} at most on this machine")
    own = torch.device("cuda", share.local)
    torch.cuda.set_device(own)
    return own


def _missing(tasks: Sequence[Task], work: Work, share: Share) -> list[Task]:
    """What nobody has measured yet, of the images that are this rank's."""
    own = (task for number, task in enumerate(tasks) if share.of(number))
    return [task for task in own if not work.is_done(task)]


def _measure_all(tasks: Sequence[Task], work: Work, share: Share) -> None:
    """Rank 0's own share, then from the end whatever the others have not done by then."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    said = TextColumn("{task.description}", markup=False)
    columns = (BarColumn(), MofNCompleteColumn(), Remaining(), said)
    # Into a file rich writes an empty line, and nothing else.
    console = Console(file=sys.stderr, quiet=not sys.stderr.isatty())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=len(tasks))

        def on_done(task: Task) -> None:
            leave_if_asked()
            if share.total > 1:
                work.journal.refresh()
            done = sum(each.key in work.journal.rows or each.key in work.bad for each in tasks)
            progress.update(bar, completed=done, description=f"{task.model.name} {task.data.name}")

        work.do(_missing(tasks, work, share), on_done=on_done)
        work.do_singly(_leftovers(tasks, work), on_done=on_done)


def _tell_before(evaluation: Evaluation, work: Work) -> None:
    """What lies there to use again, and which models are one: its file was given twice."""
    before = work.measured(evaluation.tasks)
    if not before.startswith("0 "):
        print(f"srtrain: note: {before} before", file=sys.stderr)
    names: dict[str, list[str]] = {}
    for model in evaluation.models:
        names.setdefault(model.sha256 or model.name, []).append(model.name)
    for alike in names.values():
        if len(alike) > 1:
            print(f"srtrain: note: the same model twice: {', '.join(alike)}", file=sys.stderr)


def _leftovers(tasks: Sequence[Task], work: Work) -> Iterator[Task]:
    """From the end: the others come from the beginning."""
    for task in reversed(tasks):
        if not work.is_done(task):
            work.journal.refresh()
            if not work.is_done(task):
                yield task


def _tell_failures(evaluation: Evaluation, work: Work, left_out: Sequence[str]) -> bool:
    """Every bad image, once, and what is left out; returns whether there was any."""
    reasons: Mapping[str, None] = dict.fromkeys(
        [
            *(reason for data in evaluation.sets for reason in data.bad.values()),
            *(reason for _, reason in work.bad.values()),
        ]
    )
    for reason in reasons:
        print(f"srtrain: failed: {reason}", file=sys.stderr)
    for line in left_out:
        print(f"srtrain: note: {line}", file=sys.stderr)
    return bool(reasons)
