"""What a run says before it starts and when it is done."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from srtrain.cli import table
from srtrain.cli.process import short
from srtrain.degradation.sharpen import USM
from srtrain.networks.discriminators.unet import UNet
from srtrain.training.adversarial import AdversarialSR

if TYPE_CHECKING:
    from collections.abc import Mapping

    from omegaconf import DictConfig
    from rich.console import Console

    from srtrain.losses.schedule import Ramp
    from srtrain.training.loop import TrainerOptions
    from srtrain.training.run_folder import RunFolder
    from srtrain.training.supervised import SupervisedSR


def header(
    console: Console,
    config: DictConfig,
    options: TrainerOptions,
    module: SupervisedSR,
    choices: Mapping[str, str],
) -> None:
    """What is about to happen, in a few lines."""
    count = sum(p.numel() for p in module.generator.parameters())
    schedules = module.loss.schedules
    losses = " + ".join(
        f"{weight:g} {name}{_from(schedules.get(name))}"
        for name, weight in module.loss.weights.items()
    )
    images = options.max_steps * config.data.batch_size
    pace = f", scheduler {choices['scheduler']}"
    rows = [
        ("experiment", f"{choices['experiment']} ×{config.scale}, budget {choices['budget']}"),
        ("generator", f"{choices['generator']}, {count:,} parameters"),
        *_degradation(module, choices),
        *_adversary(module, options, choices),
        ("loss", " · ".join([losses, *_feature_notes(module).values()])),
        (
            "steps",
            f"{options.max_steps:,} of {config.data.batch_size} patches: {images:,} images{pace}",
        ),
        ("device", _devices(options)),
    ]
    table.places(console, rows)


def report(
    console: Console, folder: RunFolder, module: SupervisedSR, summary: Mapping[str, Any]
) -> None:
    """The tables, and where everything lies."""
    latest = {name: value for _, name, value in folder.read_metrics()}
    console.print()
    console.print(table.quality_table(summary["val"], summary["bicubic"]))
    head = module.generator.head
    if head is not None and summary["val"]:
        console.print("\n".join(table.band_lines(summary["val"], head.calibration)), markup=False)
    if not any(name.startswith("lpips") for row in summary["val"].values() for name in row):
        hint = "srtrain fetch-weights lpips-squeeze, then metrics.lpips.net=squeeze"
        console.print(f"LPIPS was not measured: no net chosen ({hint})", style="dim")
    gradient = summary["loss"].get("gradient", {})
    weights = module.loss.weights
    console.print(table.loss_table(weights, latest, gradient, _feature_notes(module)))
    checkpoint = folder.path / (summary["checkpoint"] or "checkpoints")
    # The interpreter that trained: `srtrain` is on the path only where .venv is active.
    use = [str(short(Path(sys.executable))), "-m", "srtrain", "infer", str(short(checkpoint))]
    rows = [
        ("pictures", short(folder.samples)),
        ("curves", short(folder.path / "curves.png")),
        ("figures", short(folder.metrics)),
        ("table", short(folder.summary)),
        ("checkpoint", short(checkpoint)),
        ("use it", f"{shlex.join(use)} PHOTO… -o OUT"),
    ]
    table.places(console, rows)


def _from(ramp: Ramp | None) -> str:
    """When a term begins to count and when it counts in full; nothing where it always does."""
    if ramp is None or not ramp.start + ramp.ramp:
        return ""
    full = f", full at {ramp.start + ramp.ramp:,}" if ramp.ramp else ""
    return f" (from step {ramp.start:,}{full})"


def _degradation(module: SupervisedSR, choices: Mapping[str, str]) -> list[tuple[str, str]]:
    """How LR is made and what the losses compare with, where either is not the plain case."""
    target = module.examples.target
    if choices["degradation"] == "bicubic" and target is None:
        return []
    sharp = "sharpened" if isinstance(target, USM) else type(target).__name__
    said = [choices["degradation"], *([f"target {sharp}"] if target is not None else [])]
    return [("degradation", ", ".join(said))]


def _adversary(
    module: SupervisedSR, options: TrainerOptions, choices: Mapping[str, str]
) -> list[tuple[str, str]]:
    if not isinstance(module, AdversarialSR):
        return []
    judge = module.discriminator
    count = sum(p.numel() for p in judge.parameters())
    field = judge.receptive_field
    sees = "per pixel" if isinstance(judge.net, UNet) else f"{field}×{field}"
    norm = judge.spec["kwargs"].get("norm")
    warmup = round(module.warmup_share * options.max_steps)
    said = [
        f"{choices['discriminator']} {sees}",
        *([f"norm {norm}"] if norm else []),
        f"{count:,} parameters",
        choices["objective"],
        f"learns from step {module.discriminator_start}",
        *([f"heard after {warmup:,} steps of pixels alone"] if warmup else []),
        *([f"pauses above {module.adaptive_above:.0%} accuracy"] if module.adaptive_above else []),
    ]
    return [("adversary", ", ".join(said))]


def _devices(options: TrainerOptions) -> str:
    if not options.uses_gpu:
        return f"{options.devices} × CPU, {options.lightning_precision}"
    idle = torch.cuda.device_count() - options.devices
    rest = f", {idle} more stay idle (trainer=ddp trainer.devices=N)" if idle > 0 else ""
    name = torch.cuda.get_device_name()
    return f"{options.devices} × {name}, {options.lightning_precision}{rest}"


def _feature_notes(module: SupervisedSR) -> dict[str, str]:
    return {
        name: f"features {term.features_name}"
        for name, term in module.loss.terms.items()
        if hasattr(term, "features_name")
    }
