"""``srtrain infer CKPT INPUT… -o OUT``: files, folders and globs, made larger."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from srtrain.checks import counted
from srtrain.cli.arguments import Arguments
from srtrain.cli.asked_samples import add_sampling, asked, refuse_projection
from srtrain.cli.heap import keep_freed_memory
from srtrain.cli.spread_picture import spread_picture
from srtrain.errors import ConfigError
from srtrain.images import shown
from srtrain.inference.jobs import Existing, Job, alone, plan
from srtrain.inference.run import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from srtrain.inference.flow_engine import FlowEngine
    from srtrain.inference.upscaler import Upscaler


def main(argv: list[str]) -> int:
    """Upscale every input; 3 if some could not be read, each named on stderr, else 0."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(format="srtrain: %(message)s", level=logging.WARNING)
    keep_freed_memory()
    existing: Existing = arguments.existing
    asked(arguments)  # refused before anything is planned for it
    samples = arguments.samples or 0
    if arguments.spread_values and samples < 2:
        raise ConfigError(
            "--spread-values needs --samples of 2 or more",
            where="srtrain infer",
            fix="add --samples 8",
        )
    planned = partial(
        plan,
        arguments.input,
        arguments.output,
        samples=samples,
        values=arguments.spread_values,
    )
    jobs = planned(existing=existing)
    if existing == "keep" and (there := len(planned(existing="replace")) - len(jobs)):
        print(f"srtrain: note: {there} made before are kept, whatever they were made with")
    upscaler = _upscaler(arguments)
    if upscaler.flow is not None:
        _tell_few_steps(upscaler.flow)
    started = time.monotonic()
    with _told_how_to_go_on(), alone(jobs, arguments.output, existing=existing):
        failed = _produce(upscaler, jobs)
    each = f", {counted(samples, 'sample')} each," * bool(samples)
    print(
        f"{counted(len(jobs) - failed, 'image')} x{upscaler.scale}{each}"
        f" in {time.monotonic() - started:.1f} s"
        f" -> {_place(jobs, arguments.output)}" + (f", {failed} failed" if failed else "")
    )
    return 3 if failed else 0


def _upscaler(arguments: argparse.Namespace) -> Upscaler:
    """Raises: StorageError, ConfigError as ``load_model``; ConfigError for samples of no flow."""
    from srtrain.inference.upscaler import Upscaler, pick_device
    from srtrain.networks.loading import load

    device = pick_device(arguments.device)
    loaded = load(arguments.checkpoint, trust=arguments.trust)
    sampling = asked(arguments)
    refuse_projection(sampling, loaded.about)
    return Upscaler(
        loaded.generator,
        device=device,
        tile=arguments.tile,
        self_ensemble=arguments.self_ensemble,
        precision=arguments.precision,
        sampling=sampling,
    )


def _tell_few_steps(flow: FlowEngine) -> None:
    from srtrain.networks.flow import few_steps

    asked, own = flow.sampling, flow.flow
    said = few_steps(asked.steps or own.steps, asked.sampler or own.sampler)
    if said:
        print(f"srtrain: note: {said}", file=sys.stderr)


def _produce(upscaler: Upscaler, jobs: list[Job]) -> int:
    """Runs the jobs below a progress bar; returns how many failed."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    from srtrain.inference.run_samples import run_samples

    columns = (BarColumn(), MofNCompleteColumn(), Remaining(), TextColumn("{task.description}"))
    failed = 0
    console = Console(file=sys.stderr)
    shows = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not shows) as progress:
        bar = progress.add_task("", total=len(jobs))
        tiles = 0

        def on_tile() -> None:
            nonlocal tiles
            tiles += 1
            progress.update(bar, description=f"{tiles} tiles")

        outcomes = (
            run_samples(upscaler, jobs, draw=spread_picture, on_tile=on_tile)
            if jobs and jobs[0].samples
            else run(upscaler, jobs, on_tile=on_tile)
        )
        for outcome in outcomes:
            tiles = 0
            progress.update(bar, advance=1, description="")
            if outcome.failure is not None:
                failed += 1
                print(f"srtrain: failed: {outcome.failure}", file=sys.stderr)
            for note in outcome.notes:
                print(f"srtrain: note: {shown(outcome.job.source)}: {note}", file=sys.stderr)
    return failed


def _place(jobs: list[Job], output: Path) -> str:
    """The folder; of one image whose file was named that file, or the first and last of several."""
    if len(jobs) != 1 or jobs[0].target != output:
        return shown(output)
    files = [shown(file) for file in jobs[0].files]
    return files[0] if len(files) == 1 else f"{files[0]} … {files[-1]}"


@contextmanager
def _told_how_to_go_on() -> Iterator[None]:
    """Who interrupts is told of ``--continue``."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note("with --continue the same command makes the others")
        raise


def _tile(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = Arguments(
        prog="srtrain infer",
        description="Upscale images with a trained network. Depth, gray, alpha, profile and names"
        " are kept, folders mirrored.",
        epilog="exit codes: 0 done, 2 nothing started (outputs exist …), 3 some images failed,"
        " 4 checkpoint or disk",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CKPT", help="file or run folder")
    parser.add_argument("input", nargs="+", metavar="INPUT", help="file, folder or 'glob/**/*.png'")
    about = "folder; or, of one INPUT, an image file (its samples: OUT_sample0 …)"
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help=about)
    parser.add_argument(
        "--tile",
        type=_tile,
        metavar="N",
        help="LR pixels a side of the pieces large images are computed in (default: by the free"
        " memory, halved when that runs out; 0: never cut); the result is the same, but for"
        " networks that look at the whole image: there pieces are blended, approximate",
    )
    add_sampling(parser)
    _add_computation(parser)
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


def _add_computation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", metavar="auto|cpu|cuda")
    parser.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "fp32", "bf16", "fp16"),
        help="of the computation; auto: bf16 on GPUs that have it (results differ by up to"
        " about 2/255), fp32 elsewhere",
    )
    parser.add_argument(
        "--self-ensemble",
        action="store_true",
        help="mean over 8 flips and turns: slower, a little better",
    )


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
