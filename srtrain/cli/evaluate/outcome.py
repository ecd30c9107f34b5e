"""From measured images to ``results.json`` and ``images.csv``."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from srtrain.checks import counted
from srtrain.cli.evaluate.measuring import APPROXIMATE, LR_IS_BICUBIC, Measuring, by_its_name
from srtrain.evaluation.results import ModelResult, Results, SetResult
from srtrain.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from srtrain.cli.evaluate.work import Task
    from srtrain.evaluation.results import Values

Rows = dict[str, dict[str, dict[str, "Values"]]]
"""MODEL → SET → IMAGE → values."""


def rows_of(tasks: Sequence[Task], measured: Mapping[str, Values]) -> Rows:
    """What was measured, in the order of the tasks."""
    rows: Rows = {}
    for task in tasks:
        if task.key in measured:
            images = rows.setdefault(task.model.name, {}).setdefault(task.data.name, {})
            images[task.item.name] = measured[task.key]
    return rows


def common(rows: Rows) -> Rows:
    """Only images that all models have: means of different images say nothing of models.

    A model of which a set has no image at all takes none from the others.
    """
    shared: dict[str, set[str]] = {}
    for sets in rows.values():
        for data, images in sets.items():
            shared[data] = shared.get(data, set(images)) & set(images)
    kept = {
        model: {
            data: {name: row for name, row in images.items() if name in shared[data]}
            for data, images in sets.items()
            if shared[data]
        }
        for model, sets in rows.items()
    }
    return {model: sets for model, sets in kept.items() if sets}


def left_out(tasks: Sequence[Task], bad: Collection[str], rows: Rows) -> list[str]:
    """Sentences on what ``rows`` lack because of tasks whose keys are ``bad``."""
    failed = [task for task in tasks if task.key in bad]
    said: list[str] = []
    images = set()
    for task in failed:
        model, data = task.model.name, task.data.name
        if not any(data in sets for sets in rows.values()):
            said.append(f"{data} is left out: no image of it could be measured by all models")
        elif model not in rows:
            said.append(f"{model} is left out: none of its images could be measured")
        elif data not in rows[model]:
            said.append(f"{model} is left out on {data}: none of its images could be measured")
        else:
            images.add((data, task.item.name))
    if images:
        count = counted(len(images), "image")
        said.append(f"{count} left out of every model's means: all are of the same images")
    return list(dict.fromkeys(said))


def blended(rows: Rows) -> dict[str, str]:
    """MODEL → of how many images pieces were blended, where there are any."""
    said = {}
    for model, sets in rows.items():
        marks = [row[APPROXIMATE] > 0 for images in sets.values() for row in images.values()]
        if any(marks):
            of = "" if all(marks) else f"{sum(marks)} of {len(marks)} images "
            said[model] = f"{of}blended from tiles: approximate"
    return said


def results_of(
    rows: Rows,
    *,
    digests: Mapping[str, str],
    measuring: Measuring,
    protocol: Mapping[str, object],
) -> Results:
    """Means and values of every model, in the order of ``rows``."""
    models = []
    for model, sets in rows.items():
        found = {data: _set_result(images, measuring) for data, images in sets.items()}
        models.append(ModelResult(model, digests[model], found))
    return Results(models, dict(protocol))


def bicubic_lr(rows: Rows, data: str) -> tuple[int, int]:
    """Of how many images of a set LR is what bicubic makes of HR, and of how many there are."""
    images = next(sets[data] for sets in rows.values() if data in sets).values()
    return sum(bool(row[LR_IS_BICUBIC]) for row in images), len(images)


def write_csv(path: Path, results: Results) -> None:
    """``model,set,image`` and a column for each metric; not finite is written as Python does.

    Raises: OSError.
    """
    metrics = list(
        dict.fromkeys(
            metric
            for model in results.models
            for found in model.data.values()
            for row in found.images.values()
            for metric in row
        )
    )
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["model", "set", "image", *metrics])
    for model in results.models:
        for data, found in model.data.items():
            for image, row in found.images.items():
                writer.writerow([model.name, data, image, *(row.get(name, "") for name in metrics)])
    write_atomic(path, stream.getvalue().encode("utf-8", "backslashreplace"))


def _set_result(images: Mapping[str, Values], measuring: Measuring) -> SetResult:
    means = measuring.means(images.values())
    own = all(row[LR_IS_BICUBIC] for row in images.values())
    return SetResult(
        by_its_name(means, lr_is_bicubic=own),
        {name: by_its_name(row, lr_is_bicubic=own) for name, row in images.items()},
    )
