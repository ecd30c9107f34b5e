"""`srtrain infer`'s engine, files in and files out, beside the bare forward over the same tiles."""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from PIL import Image

from srtrain.cli import build
from srtrain.cli.benchmark.options import positive
from srtrain.cli.benchmark.paired import in_turn
from srtrain.cli.benchmark.report import Arm, Report, Table
from srtrain.cli.heap import keep_freed_memory
from srtrain.config.preflight import prepare
from srtrain.data.leaves import dead_leaves
from srtrain.images import image_size, read_picture, to_pillow
from srtrain.inference.engine import Engine
from srtrain.inference.jobs import Job
from srtrain.inference.run import run
from srtrain.inference.upscaler import Upscaler, pick_device

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from srtrain.inference.tiling import Operation

    Arms = dict[str, Callable[[], None]]

BARE = "bare forward, tiles preloaded"
PLAIN = "the same, usual order in memory"
ENGINE = "srtrain infer: files to files"
IN_TURN = "one after the other, PNG by Pillow"
# Of seconds that pass, what the threads hide is gone; CPU-seconds count all of them.
CLOCKS = {"seconds": time.perf_counter, "CPU-s": time.process_time}


class Case(NamedTuple):
    """``number`` images of one size, in LR pixels."""

    number: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.number} of {self.width}x{self.height}"


CASES = [Case(100, 48, 48), Case(6, 128, 128), Case(2, 320, 240), Case(1, 600, 400)]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which networks, on what images."""
    parser.add_argument(
        "--generators", nargs="+", metavar="NAME", default=["compact", "edsr"], help="of generator="
    )
    parser.add_argument("--scale", type=positive, default=4)
    parser.add_argument(
        "--images",
        nargs="+",
        type=case,
        default=CASES,
        metavar="NxWxH",
        help="number and size of LR images",
    )
    parser.add_argument("--precision", default="auto", metavar="auto|fp32|bf16|fp16")


def measure(options: argparse.Namespace) -> Report:
    """Each network on each set of images: in seconds, and in CPU-seconds."""
    keep_freed_memory()  # as `srtrain infer`
    device = pick_device(options.device)
    tables: list[Table] = []
    for name in options.generators:
        words = ["experiment=mse", "budget=paper", f"scale={options.scale}", f"generator={name}"]
        torch.manual_seed(0)
        generator = build.make_generator(prepare(words).config)
        upscaler = Upscaler(generator, device=device, precision=options.precision)
        assert isinstance(upscaler.engine, Engine)  # flows have a suite of their own
        for images in options.images:
            with tempfile.TemporaryDirectory() as folder:
                jobs = draw(images, Path(folder))
                arms, note = _arms(upscaler, upscaler.engine.forward, jobs)
                title = f"{name}, {images}"
                tables += by_both_clocks(title, arms, note, jobs, device, options.rounds)
    about = {"scale": options.scale, "device": device, "precision": options.precision}
    return Report("Inference", about, tables)


def _arms(upscaler: Upscaler, forward: Operation, jobs: Sequence[Job]) -> tuple[Arms, str]:
    """And a note on the first, the bare one."""
    windows = _windows(upscaler, jobs)
    computed = sum(w.numel() // 3 for w in windows)
    given = sum(height * width for height, width in (image_size(job.source) for job in jobs))
    plain = copy.deepcopy(upscaler.generator).to(memory_format=torch.contiguous_format)
    arms: Arms = {
        BARE: partial(_bare, forward, windows),
        PLAIN: partial(_bare, plain, [window.contiguous() for window in windows]),
        ENGINE: partial(_engine, upscaler, jobs),
        IN_TURN: partial(_in_turn, upscaler, jobs),
    }
    note = f"{len(windows)} forward passes over {computed / given:.2f} times the pixels"
    return arms, note


def by_both_clocks(
    title: str, arms: Arms, note: str, jobs: Sequence[Job], device: torch.device, rounds: int
) -> list[Table]:
    """The arms in turns, beside the first of them, of which ``note`` tells.

    Each finds no file of ``jobs``, as `srtrain infer` does: to replace one costs more.
    """
    taken: dict[str, list[tuple[float, ...]]] = {name: [] for name in arms}
    base = next(iter(arms))

    def turn(name: str) -> float:
        for file in [file for job in jobs for file in job.files]:
            file.unlink(missing_ok=True)
        start = [now() for now in CLOCKS.values()]
        arms[name]()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken[name].append(
            tuple(now() - then for now, then in zip(CLOCKS.values(), start, strict=True))
        )
        return taken[name][-1][0]

    in_turn({name: partial(turn, name) for name in arms}, rounds)
    return [
        Table(
            title,
            f"{clock} a turn",
            [
                # The first turn of each is to warm up.
                Arm(name, [turn[k] for turn in turns[1:]], note if name == base else "")
                for name, turns in taken.items()
            ],
            base,
        )
        for k, clock in enumerate(CLOCKS)
    ]


def draw(case: Case, folder: Path) -> list[Job]:
    """PNGs of dead leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = []
    for number in range(case.number):
        leaves = dead_leaves(number, size=max(case.height, case.width), seed=0)
        source = folder / f"{number}.png"
        Image.fromarray(leaves[: case.height, : case.width]).save(source)
        jobs.append(Job(source, folder / "out" / source.name))
    return jobs


def _windows(upscaler: Upscaler, jobs: Sequence[Job]) -> list[Tensor]:
    """What the engine gives to the network for these jobs, in its order in memory."""
    found: list[Tensor] = []

    def note(_: object, inputs: tuple[Tensor, ...]) -> None:
        found.append(inputs[0].clone(memory_format=torch.preserve_format))

    _engine(upscaler, jobs)  # with what it measures once
    with upscaler.generator.register_forward_pre_hook(note):
        _engine(upscaler, jobs)
    return found


@torch.no_grad()
def _bare(forward: Callable[[Tensor], Tensor], windows: Sequence[Tensor]) -> None:
    for window in windows:
        forward(window)


def _engine(upscaler: Upscaler, jobs: Sequence[Job]) -> None:
    for outcome in run(upscaler, jobs):
        if outcome.failure is not None:
            raise RuntimeError(outcome.failure)


def _in_turn(upscaler: Upscaler, jobs: Sequence[Job]) -> None:
    for job in jobs:
        larger = upscaler.upscale_picture(read_picture(job.source))
        to_pillow(larger).save(job.target)


def case(text: str) -> Case:
    """``6x128x128``: six of 128 x 128."""
    try:
        number, width, height = map(positive, text.split("x"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not like 6x128x128") from error
    return Case(number, height, width)
