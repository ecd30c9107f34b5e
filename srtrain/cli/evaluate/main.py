"""``srtrain evaluate MODEL… --scale N --data NAME=DIR … -o OUT``: measured, compared, shown."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from srtrain.cli.evaluate.finished import match_finished
from srtrain.cli.evaluate.leaving import until_stopped
from srtrain.cli.evaluate.options import parser
from srtrain.cli.evaluate.sets import open_sets
from srtrain.cli.evaluate.words import name_models
from srtrain.cli.evaluate.workers import is_worker
from srtrain.config.nearest import did_you_mean, nearest
from srtrain.errors import ConfigError
from srtrain.images import shown
from srtrain.ranks import launched

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from srtrain.cli.evaluate.sets import DataSet
    from srtrain.cli.evaluate.words import Named


def main(argv: list[str]) -> int:
    """Measure every model on every image; 3 if images were bad, each named on stderr, else 0.

    130 after Ctrl-C and 75 after another signal: the same command continues.
    """
    options = parser().parse_intermixed_args(argv)
    if is_worker():  # rank 0 ends it, without words
        return _evaluate(options, argv)
    return until_stopped(lambda: _evaluate(options, argv))


def _evaluate(options: argparse.Namespace, argv: list[str]) -> int:
    logging.basicConfig(format="srtrain: %(message)s", level=logging.WARNING)
    _refuse_combinations(options)
    sets = open_sets(options.data, scale=options.scale)
    named = name_models(
        options.model,
        sets=[data.name for data in sets],
        every_checkpoint=options.every_checkpoint,
        baseline=options.bicubic,
    )
    if options.reference not in {None, *(each.name for each in named)}:
        names = [each.name for each in named]
        fix = did_you_mean(nearest(options.reference, names), f"one of {', '.join(names)}")
        raise ConfigError(f"no model is called {options.reference}", where="--reference", fix=fix)
    _refuse_own_images(options.output, sets, named)
    finished = {
        each.name: {
            data.name: match_finished(each.place, data, scale=options.scale) for data in sets
        }
        for each in named
        if each.kind == "finished"
    }

    from srtrain.cli.evaluate.run import run  # torch, three seconds: refusals above are quick

    return run(options, named, sets, finished, argv)


def _refuse_own_images(output: Path, sets: Sequence[DataSet], named: Sequence[Named]) -> None:
    """What is written must not be taken for images to measure next time. Raises: ConfigError."""
    folders = [folder for data in sets for folder in data.folders]
    folders += [each.place for each in named if each.kind == "finished"]
    for folder in folders:
        if output.resolve().is_relative_to(folder.resolve()):
            what = f"OUT lies among the images of {shown(folder)}"
            raise ConfigError(what, where=shown(output), fix="another -o")


def _refuse_combinations(options: argparse.Namespace) -> None:
    """Raises: ConfigError."""
    if options.features is not None and options.lpips in {"auto", "none"}:
        fix = "--lpips squeeze|alex|vgg says of which net the file is"
        raise ConfigError("--features needs a net", where=shown(options.features), fix=fix)
    if options.devices > 1 and launched():
        fix = "leave --devices out: torchrun or srun has said how many"
        raise ConfigError("--devices among ranks", where=f"--devices {options.devices}", fix=fix)
    words = ("seed", "steps", "sampler", "project")
    given = [word for word in words if getattr(options, word) is not None]
    if given and options.samples is None:
        what, fix = "only of samples", "add --samples N (1: sample 0 alone)"
        raise ConfigError(what, where=", ".join(f"--{word}" for word in given), fix=fix)
    if options.samples is not None and options.self_ensemble:
        what, fix = "the mean over flips and turns is no sample", "leave one of them out"
        raise ConfigError(what, where="--samples --self-ensemble", fix=fix)
    if options.output.exists() and not options.output.is_dir():
        raise ConfigError("-o must be a folder", where=shown(options.output), fix="another -o")
