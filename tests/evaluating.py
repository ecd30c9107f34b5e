"""Evaluations of a tiny network on images drawn here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srtrain.cli.main import main
from srtrain.evaluation.results import Results, read_results
from tests.training import draw_images
from tests.upscaling import write_tiny

if TYPE_CHECKING:
    from pathlib import Path

QUIET = ("--lpips", "none", "--dists", "none", "--no-report")  # what takes longest


def make_run(folder: Path) -> Path:
    """A run folder with the checkpoint of a tiny x2 network."""
    (folder / "checkpoints").mkdir(parents=True)
    write_tiny(folder / "checkpoints")
    return folder


def make_sets(folder: Path) -> Path:
    """``folder/val``: three images of 40², two of 48², one of 50 x 50, all cut to even sides."""
    draw_images(folder / "val", count=3, size=40)
    draw_images(folder / "val", count=2, size=48, first=3)
    draw_images(folder / "val", count=1, size=51, first=5)
    return folder / "val"


def evaluate(*words: object, code: int = 0, report: bool = False) -> None:
    """``srtrain evaluate WORDS`` at scale 2 in this process; insists on the exit code."""
    quiet = QUIET[:-1] if report else QUIET
    assert main(["evaluate", "--scale", "2", *quiet, *map(str, words)]) == code


def results(folder: Path) -> Results:
    """What lies in OUT."""
    return read_results(folder / "results.json")
