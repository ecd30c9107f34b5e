"""Options that suites share."""

from __future__ import annotations

import argparse
from pathlib import Path


def positive(text: str) -> int:
    """A whole number from 1 on."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} must be at least 1")
    return value


def add_common(parser: argparse.ArgumentParser) -> None:
    """What every suite understands."""
    parser.add_argument("--rounds", metavar="N", type=positive, default=5, help="turns of each arm")
    parser.add_argument("--threads", metavar="N", type=positive, help="of torch")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")


def add_step(parser: argparse.ArgumentParser) -> None:
    """The sizes of a training step that is measured by itself, on one batch."""
    parser.add_argument("--generator", metavar="NAME", default="edsr", help="option of generator=")
    parser.add_argument("--scale", type=positive, default=4)
    parser.add_argument("--batch", metavar="N", type=positive, default=16)
    parser.add_argument("--lr-patch", metavar="P", type=positive, default=48, help="LR pixels")
    parser.add_argument(
        "--steps", metavar="N", type=positive, default=1, help="steps a turn; some 20 on a GPU"
    )


def sizes(options: argparse.Namespace) -> dict[str, object]:
    """What ``add_step`` was given, for the report."""
    names = ("generator", "scale", "batch", "lr_patch", "steps")
    return {name: getattr(options, name) for name in names}
