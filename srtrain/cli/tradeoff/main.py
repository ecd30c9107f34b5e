"""``srtrain tradeoff``: from one start a sweep over a loss weight, or one answer of each kind."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from srtrain.cli.arguments import Arguments
from srtrain.errors import ConfigError

if TYPE_CHECKING:
    import argparse

KEY = "loss.weights.perceptual"
VALUES = ("0", "0.0033", "0.0099", "0.033", "0.1")
STEPS = 100
ANSWERS = ("pmrf", "posterior", "patchgan", "quantile")
SAMPLES = 8
_OF_A_SWEEP, _OF_ANSWERS = ("key", "values"), ("mse_checkpoint", "samples", "sample_steps")


def main(argv: list[str]) -> int:
    """Train what is not trained yet, evaluate all, draw; the first exit code that is not 0.

    A training that fails is left out, which is said; its exit code comes last.
    """
    options = parser().parse_intermixed_args(argv)
    options.command = shlex.join(["srtrain", "tradeoff", *argv])
    options.data = options.data or ["demo"]
    _refuse_halves(options)
    if options.answers is None:
        from srtrain.cli.tradeoff.sweep import sweep

        options.key = options.key or KEY
        options.values = options.values or list(VALUES)
        options.steps = STEPS if options.steps is None else options.steps
        options.output = options.output or Path("outputs/tradeoff")
        return sweep(options)
    from srtrain.cli.tradeoff.answers import answer

    options.samples = SAMPLES if options.samples is None else options.samples
    options.output = options.output or Path("outputs/answers")
    return answer(options)


def _refuse_halves(options: argparse.Namespace) -> None:
    """Raises: ConfigError for options of a sweep and of answers together."""
    others = _OF_ANSWERS if options.answers is None else _OF_A_SWEEP
    for name in others:
        if getattr(options, name) is not None:
            option = f"--{name.replace('_', '-')}"
            wanted = "--answers A,B…" if options.answers is None else "no --answers"
            raise ConfigError(f"{option} needs {wanted}", where=option, fix="leave one out")
    if options.samples is not None and options.samples < 2:
        fix = f"2 or more; {SAMPLES} is usual"
        raise ConfigError("one sample varies in nothing", where="--samples", fix=fix)
    if options.sample_steps is not None and options.sample_steps < 1:
        fix = "1 or more; 15 to 25 are usual"
        raise ConfigError("no steps make no sample", where="--sample-steps", fix=fix)


def _listed(text: str) -> list[str]:
    return [value.strip() for value in text.split(",")]


def parser() -> Arguments:
    """All options; the defaults of a sweep and of answers are put in later."""
    made = Arguments(
        prog="srtrain tradeoff",
        description="Train a start (experiment=mse), from it once for each value of a loss weight,"
        " evaluate all, and draw perception against distortion. With --answers, train those"
        " experiments from it instead, and show beside each other what each makes of the same"
        " photos. What was trained is not trained again: the same command continues.",
        epilog=f"By default {len(VALUES)} values of {KEY}, {STEPS} steps each, at budget=demo:"
        f" minutes on two cores; --answers {','.join(ANSWERS)}: about 20. An answer that fails is"
        " named, the others go on. Exit codes are those of trainings and of srtrain evaluate.",
    )
    made.add_argument(
        "words",
        nargs="*",
        metavar="KEY=VALUE",
        help="for all trainings: scale=2 seed=3 …; of answers also NAME:KEY=VALUE, for one of them"
        " (pmrf:generator.steps=10). generator=… is not for flows, which have their own",
    )
    made.add_argument(
        "-o", "--output", type=Path, help="(outputs/tradeoff; with --answers outputs/answers)"
    )
    made.add_argument("--key", help=f"what is swept ({KEY})")
    made.add_argument("--values", type=_listed, metavar="A,B…", help=f"({','.join(VALUES)})")
    made.add_argument(
        "--steps", type=int, help=f"of each value ({STEPS}), or answer (the budget's own)"
    )
    made.add_argument(
        "--start-steps", type=int, metavar="N", help="of the start (the budget's own)"
    )
    _add_answers(made.add_argument_group("one checkpoint, several answers"))
    _add_measures(made.add_argument_group("what is evaluated, as in srtrain evaluate"))
    return made


def _add_answers(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--answers", type=_listed, metavar="A,B…", help=f"experiments: {','.join(ANSWERS)}"
    )
    group.add_argument(
        "--mse-checkpoint", type=Path, metavar="RUN", help="the start (default: it is trained)"
    )
    group.add_argument(
        "--samples", type=int, metavar="N", help=f"of each flow, for spread and mean ({SAMPLES})"
    )
    group.add_argument(
        "--sample-steps", type=int, metavar="K", help="of each sample (each flow's own)"
    )


def _add_measures(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--data", action="append", metavar="[NAME=]DIR", help="repeatable (demo)")
    group.add_argument("--lpips", metavar="auto|squeeze|alex|vgg|none")
    group.add_argument("--features", type=Path, metavar="FILE")
    group.add_argument("--dists", metavar="auto|none|FILE")
    group.add_argument("--device", metavar="auto|cpu|cuda")
