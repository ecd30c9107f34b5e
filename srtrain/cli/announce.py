"""What a run says before it starts and when it is done."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from srtrain.checks import counted
from srtrain.cli import table
from srtrain.cli.mean import origin
from srtrain.cli.process import short
from srtrain.losses.perceptual import Perceptual
from srtrain.losses.precision import narrows
from srtrain.networks.discriminators.unet import UNet
from srtrain.networks.flow import few_steps
from srtrain.training.adversarial import AdversarialSR
from srtrain.training.flow import FlowSR

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from omegaconf import DictConfig
    from rich.console import Console
    from torch import nn

    from srtrain.losses.precision import Precision
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
        *_flow(module, options, config),
        ("loss", " · ".join([losses, *_feature_notes(module).values(), *_narrow(module, options)])),
        (
            "steps",
            f"{options.max_steps:,} of {config.data.batch_size} patches: {images:,} images{pace}",
        ),
        ("device", devices(options)),
    ]
    table.places(console, rows)


def report(
    console: Console,
    folder: RunFolder,
    module: SupervisedSR,
    summary: Mapping[str, Any],
    *,
    page: Path | None,
) -> None:
    """The tables, and where everything lies; ``page`` is the report, if it could be written."""
    latest = {name: value for _, name, value in folder.read_metrics()}
    console.print()
    console.print(table.quality_table(summary["val"], summary["bicubic"]))
    if said := said_of_samples(summary):
        console.print(said, style="dim")
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
    sampled = "--samples 8 " if isinstance(module, FlowSR) else ""
    use = [str(short(Path(sys.executable))), "-m", "srtrain", "infer", str(short(checkpoint))]
    rows = [
        *([("report", short(page))] if page is not None else []),
        ("pictures", short(folder.samples)),
        ("curves", short(folder.path / "curves.png")),
        ("figures", short(folder.metrics)),
        ("table", short(folder.summary)),
        ("checkpoint", short(checkpoint)),
        ("use it", f"{shlex.join(use)} PHOTO… {sampled}-o OUT"),
    ]
    table.places(console, rows)


def said_of_samples(summary: Mapping[str, Any]) -> str:
    """What SR is, of a flow; nothing of others."""
    drawn = summary["protocol"].get("sampled")
    if not drawn:
        return ""
    return (
        f"SR is sample 0 of seed 0, by {counted(drawn['steps'], 'step')}: one plausible image of "
        "many; PSNR of an exact sample of the posterior lies 3.01 dB below the mean's"
    )


def _from(ramp: Ramp | None) -> str:
    """When a term begins to count and when it counts in full; nothing where it always does."""
    if ramp is None or not ramp.start + ramp.ramp:
        return ""
    full = f", full at {ramp.start + ramp.ramp:,}" if ramp.ramp else ""
    return f" (from step {ramp.start:,}{full})"


def _flow(
    module: SupervisedSR, options: TrainerOptions, config: DictConfig
) -> list[tuple[str, str]]:
    """Where a flow begins, what it is told, in how many steps, and whether these are too few."""
    if not isinstance(module, FlowSR):
        return []
    flow = module.flow
    told = {"none": "nothing", "lr": "LR", "mean": "the mean"}[flow.condition]
    around = {"mean": "the mean + ", "condition": f"{told} + ", "noise": ""}[flow.source]
    start = f"{around}{flow.sigma:g} noise" if around else "noise"
    known = f", told {told}" if flow.condition != "none" else ""
    how = f"{flow.steps} {'Heun' if flow.sampler == 'heun' else 'Euler'} steps"
    held = ", held to LR" if flow.project else ""
    computed = _narrow_mean(flow.mean, module.mean_precision, options)
    warning = few_steps(flow.steps, flow.sampler)
    said = [("flow", f"{start} → image{known}, {how}{held}{computed}"), *origin(config)]
    return said + ([("warning", warning)] if warning else [])


def _narrow_mean(mean: nn.Module | None, precision: Precision, options: TrainerOptions) -> str:
    """Said of a mean that is computed in less than the run's precision."""
    if mean is None or not narrows(_device(options), precision):
        return ""
    return ", mean in bf16"


def _degradation(module: SupervisedSR, choices: Mapping[str, str]) -> list[tuple[str, str]]:
    """How LR is made and what the losses compare with, where either is not the plain case."""
    target = module.examples.target
    if choices["degradation"] == "bicubic" and target is None:
        return []
    from srtrain.degradation.sharpen import USM  # with kornia, which plain runs do without

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


def devices(options: TrainerOptions) -> str:
    """How many of what kind, and by which precision."""
    how: str = options.lightning_precision
    if options.compile:
        how += ", compiled (the first steps take a minute or more)"
    if not options.uses_gpu:
        gains = options.precision == "auto" and narrows(_device(options), "auto")
        hint = "; trainer.precision=bf16 may be faster here" if gains else ""
        return f"{options.devices} × CPU, {how}{hint}"
    idle = torch.cuda.device_count() - options.devices
    rest = f", {idle} more stay idle (trainer=ddp trainer.devices=N)" if idle > 0 else ""
    name = torch.cuda.get_device_name()
    return f"{options.devices} × {name}, {how}{rest}"


def _narrow(module: SupervisedSR, options: TrainerOptions) -> Iterator[str]:
    """Which terms are computed in less than float32, where that is so."""
    for name, term in module.loss.terms.items():
        if isinstance(term, Perceptual) and narrows(_device(options), term.precision):
            yield f"{name} in bf16"


def _device(options: TrainerOptions) -> torch.device:
    return torch.device("cuda" if options.uses_gpu else "cpu")


def _feature_notes(module: SupervisedSR) -> dict[str, str]:
    return {
        name: f"features {term.features_name}"
        for name, term in module.loss.terms.items()
        if hasattr(term, "features_name")
    }
