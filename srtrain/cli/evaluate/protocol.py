"""By which rules, on which files and with which software the figures were made."""

from __future__ import annotations

import functools
import platform
import shlex
import subprocess
from datetime import UTC, datetime
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import srtrain
from srtrain.cli.evaluate.outcome import bicubic_lr, blended
from srtrain.cli.evaluate.sets import MADE
from srtrain.inference.forward import pick_precision

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from srtrain.cli.evaluate.measuring import Measuring
    from srtrain.cli.evaluate.outcome import Rows
    from srtrain.cli.evaluate.sets import DataSet

PACKAGES = ("torch", "torchmetrics", "spandrel", "pillow", "numpy")


def protocol_of(
    options: argparse.Namespace,
    *,
    measuring: Measuring,
    sets: Sequence[DataSet],
    rows: Rows,
    device: torch.device,
    ranks: int,
    argv: Sequence[str],
) -> dict[str, Any]:
    """As JSON. What must agree for figures to be compared, and who measured where, in one."""
    data = {each.name: _of_set(each, rows) for each in sets if _measured(rows, each.name)}
    return {
        **measuring.protocol,
        "inference": inference_of(options, device),
        "data": data,
        "models": blended(rows),
        "device": device_name(device),
        "devices": ranks,
        "versions": versions(),
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": shlex.join(["srtrain", "evaluate", *argv]),
    }


def inference_of(options: argparse.Namespace, device: torch.device) -> dict[str, object]:
    """What networks were told."""
    precision = str(pick_precision(options.precision, device)).removeprefix("torch.")
    return {
        "precision": precision,
        "self_ensemble": options.self_ensemble,
        "tile": "exact ones only, where large" if options.tile is None else options.tile,
    }


@functools.cache
def versions() -> dict[str, str]:
    """Of srtrain and of what computes."""
    found = {"srtrain": srtrain.__version__, "python": platform.python_version()}
    return found | {name: metadata.version(name) for name in PACKAGES}


def commit() -> str:
    """Of the checkout that srtrain runs from; empty outside of one."""
    root = Path(srtrain.__file__).parents[1]
    if not (root / ".git").exists():
        return ""
    said = [_git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain", "-uno")]
    return f"{said[0][:12]} with changes" if said[1] else said[0][:12]


def device_name(device: torch.device) -> str:
    """The GPU's name, or ``cpu``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _measured(rows: Rows, data: str) -> bool:
    return any(sets.get(data) for sets in rows.values())


def _of_set(data: DataSet, rows: Rows) -> dict[str, object]:
    images = next(sets[data.name] for sets in rows.values() if sets.get(data.name))
    told = "".join(f"{item.name} {item.digest}\n" for item in data.items if item.name in images)
    return {
        "images": len(images),
        "sha256": sha256(told.encode("utf-8", "surrogateescape")).hexdigest(),
        "lr": lr_line(data, rows),
    }


def lr_line(data: DataSet, rows: Rows) -> str:
    """Where the LR images come from, and whether they are what bicubic makes of HR."""
    if data.lr_from == MADE:
        return MADE
    same, count = bicubic_lr(rows, data.name)
    if same == count:
        return f"{data.lr_from}; all {count} equal MATLAB's bicubic of HR bit for bit"
    return f"{data.lr_from}; {count - same} of {count} are not MATLAB's bicubic of HR"
