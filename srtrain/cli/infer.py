"""``srtrain infer CKPT INPUT… -o OUT``: files, folders and globs, made larger."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from srtrain.images import shown
from srtrain.inference.run import Existing, Job, alone, plan, run

if TYPE_CHECKING:
    from srtrain.inference.upscaler import Upscaler


def main(argv: list[str]) -> int:
    """Upscale every input; 3 if some could not be read, each named on stderr, else 0."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(format="srtrain: %(message)s", level=logging.WARNING)
    existing: Existing = arguments.existing
    jobs = plan(arguments.input, arguments.output, existing=existing)

    from srtrain.inference.upscaler import Upscaler, pick_device
    from srtrain.networks.loading import load_generator

    device = pick_device(arguments.device)
    upscaler = Upscaler(
        load_generator(arguments.checkpoint, trust=arguments.trust),
        device=device,
        tile=arguments.tile,
        self_ensemble=arguments.self_ensemble,
    )
    started = time.monotonic()
    with alone(jobs, arguments.output, existing=existing):
        failed = _produce(upscaler, jobs)
    print(
        f"{len(jobs) - failed} images x{upscaler.scale} in {time.monotonic() - started:.1f} s"
        f" -> {shown(arguments.output)}" + (f", {failed} failed" if failed else "")
    )
    return 3 if failed else 0


def _produce(upscaler: Upscaler, jobs: list[Job]) -> int:
    """Runs the jobs below a progress bar; returns how many failed."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (BarColumn(), MofNCompleteColumn(), Remaining(), TextColumn("{task.description}"))
    failed = 0
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as progress:
        bar = progress.add_task("", total=len(jobs))
        tiles = 0

        def on_tile() -> None:
            nonlocal tiles
            tiles += 1
            progress.update(bar, description=f"{tiles} tiles")

        for outcome in run(upscaler, jobs, on_tile=on_tile):
            tiles = 0
            progress.update(bar, advance=1, description="")
            if outcome.failure is not None:
                failed += 1
                print(f"srtrain: failed: {outcome.failure}", file=sys.stderr)
            for note in outcome.notes:
                print(f"srtrain: note: {shown(outcome.job.source)}: {note}", file=sys.stderr)
    return failed


def _tile(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="srtrain infer",
        description="Upscale images with a trained network. Depth, gray, alpha, profile and names"
        " are kept, folders mirrored.",
        epilog="exit codes: 0 done, 2 nothing started (outputs exist …), 3 some images failed,"
        " 4 checkpoint or disk",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CKPT", help="file or run folder")
    parser.add_argument("input", nargs="+", metavar="INPUT", help="file, folder or 'glob/**/*.png'")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    parser.add_argument(
        "--tile",
        type=_tile,
        metavar="N",
        help="LR pixels a side of the pieces large images are computed in; the result is the"
        " same, the memory less (default: by device; 0: never cut)",
    )
    parser.add_argument("--device", default="auto", metavar="auto|cpu|cuda")
    parser.add_argument(
        "--self-ensemble",
        action="store_true",
        help="mean over 8 flips and turns: slower, a little better",
    )
    _add_existing(parser)
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PKG",
        help="a package whose networks the checkpoint may name (runs its code)",
    )
    parser.add_argument("--verbose", action="store_true", help="show tracebacks")
    return parser


def _add_existing(parser: argparse.ArgumentParser) -> None:
    made = parser.add_mutually_exclusive_group()
    made.add_argument(
        "--continue",
        dest="existing",
        action="store_const",
        const="keep",
        default="refuse",
        help="make only the outputs that do not exist: after a run that was stopped",
    )
    made.add_argument(
        "--overwrite",
        dest="existing",
        action="store_const",
        const="replace",
        help="replace existing outputs",
    )
