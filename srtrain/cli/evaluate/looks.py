"""The images to look at, as every model made them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srtrain.cli.evaluate.choice import choose, gallery
from srtrain.cli.evaluate.words import BICUBIC
from srtrain.cli.evaluate.work import Pixels
from srtrain.evaluation.shown import Shown
from srtrain.images import to_uint8

if TYPE_CHECKING:
    from collections.abc import Iterator

    from srtrain.cli.evaluate.run import Evaluation
    from srtrain.cli.evaluate.work import Task, Work
    from srtrain.evaluation.results import Results

MODELS = 12  # in pictures and report


def of_pictures(results: Results) -> list[str]:
    """The models that are shown: of very many the first, and bicubic."""
    names = [model.name for model in results.models]
    if len(names) <= MODELS:
        return names
    return [name for name in names if name != BICUBIC][: MODELS - 1] + [BICUBIC][: BICUBIC in names]


def looks(results: Results, evaluation: Evaluation, work: Work) -> Iterator[Shown]:
    """The images to look at; those of a picture have a ``why``."""
    for data in results.sets:
        images = next(m.data[data].images for m in results.models if data in m.data)
        chosen = gallery(choose(results, data, baseline=BICUBIC), list(images))
        measured = {model.name for model in results.models if data in model.data}
        models = measured.intersection(of_pictures(results))
        own = [task for task in evaluation.tasks if task.data.name == data]
        tasks = [task for task in own if task.model.name in models]
        _make_again([task for task in tasks if task.item.name in chosen], work)
        for name, why in chosen.items():
            yield _one(results, [task for task in tasks if task.item.name == name], why, work)


def _make_again(tasks: list[Task], work: Work) -> None:
    """SR images that were measured by another process, earlier, or did not fit the memory."""
    for model in {id(task.model): task.model for task in tasks}.values():
        missing = [t for t in tasks if t.model is model and work.kept.get(t.key) is None]
        if not missing:
            continue
        model.prepare(work.device)
        try:
            for task in missing:
                _, lr = work.images([Pixels(task.item)])
                sr = model.upscale(lr, task.data, [task.item])
                work.kept.add(task.key, to_uint8(sr[0]), beyond=True)
        finally:
            model.release()


def _one(results: Results, tasks: list[Task], why: str, work: Work) -> Shown:
    first = tasks[0]
    hr, lr = work.images([Pixels(first.item)])
    made = {task.model.name: work.kept.get(task.key) for task in tasks}
    found = {model.name: model.data.get(first.data.name) for model in results.models}
    values = {name: of.images for name, of in found.items() if of is not None}
    return Shown(
        data=first.data.name,
        name=first.item.name,
        why=why,
        lr=to_uint8(lr[0]),
        hr=to_uint8(hr[0]),
        sr={name: sr for name, sr in made.items() if sr is not None},
        values={name: values[name][first.item.name] for name in made},
    )
