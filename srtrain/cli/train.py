"""The main command: decide the run folder, build, check, fit, tell where everything is."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

import srtrain
from srtrain.cli import build, launch, table
from srtrain.cli.quiet import quiet_libraries
from srtrain.errors import ConfigError, SrtrainError
from srtrain.files import read_json
from srtrain.networks.storage import newest_valid, read_checkpoint
from srtrain.training.checkpointing import Checkpointing, OneFile
from srtrain.training.curves import plot_curves
from srtrain.training.interrupt import Interrupt
from srtrain.training.loop import Trainer, TrainerOptions, make_trainer, seed_networks
from srtrain.training.progress import ProgressLine
from srtrain.training.records import Records
from srtrain.training.run_folder import RunFolder
from srtrain.training.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from srtrain.training.supervised import SupervisedSR


def run(
    config: DictConfig, *, experiment: str, choices: Mapping[str, str], argv: Sequence[str]
) -> float | None:
    """One training; returns the mean Y-PSNR over the validation sets (what sweeps optimise)."""
    quiet_libraries()
    options: TrainerOptions = instantiate(config.trainer)
    folder = RunFolder(_run_dir(config, experiment).absolute())
    if launch.must_launch(options):
        words = [word for word in argv if not word.startswith("run_dir=")]
        launch.launch(options, [*words, f"run_dir={folder.path}"])
        return None
    leader = launch.rank() == 0
    console = Console(stderr=False, quiet=not leader, highlight=False)
    if leader:
        folder.create()
        folder.lock()
    try:
        return _train(config, options, folder, console, experiment=experiment, choices=choices)
    except SrtrainError as error:
        if error.exit_code in {5, 75, 130} and not error.fix:
            error = type(error)(error.what, fix=f"continue: {continue_command(folder)}")
        raise error


def continue_command(folder: RunFolder) -> str:
    """The command that continues this run."""
    try:
        path = folder.path.relative_to(Path.cwd())
    except ValueError:
        path = folder.path
    return f"python -m srtrain resume={path}"


def _train(
    config: DictConfig,
    options: TrainerOptions,
    folder: RunFolder,
    console: Console,
    *,
    experiment: str,
    choices: Mapping[str, str],
) -> float | None:
    checkpoint = _to_resume(config, folder)
    seed_networks(config.seed)
    generator = build.make_generator(config)
    transfer = None if checkpoint else build.load_initial_weights(config, generator)
    cache = Path(config.paths.cache) if config.paths.cache else None
    data = build.make_data(config, options, cache)
    module = build.make_module(config, options, generator, data)
    identity = _identity(config, module, experiment)
    if checkpoint is not None:
        content = read_checkpoint(checkpoint)
        _refuse_other(content, identity, config)
        if content["step"] >= options.max_steps:
            console.print(f"finished: step {content['step']} of {options.max_steps}")
            _report(console, folder, module, read_json(folder.summary))
            return module.validation.mean("psnr_y")
        module.validation.bicubic = read_json(folder.summary)["bicubic"]
    trainer, parts = _assemble(config, options, folder, module, identity, checkpoint is not None)
    if trainer.is_global_zero:
        folder.write_config(OmegaConf.to_yaml(config, resolve=True))
    _header(console, config, options, folder, module, experiment, choices)
    if transfer:
        console.print(transfer)
    if options.compile:
        generator.net.compile()
    if checkpoint is None:
        trainer.validate(module, datamodule=data, verbose=False)
    else:
        step = read_checkpoint(checkpoint)["step"]
        console.print(f"resumed from step {step} ({checkpoint.name})")
        if trainer.is_global_zero:
            folder.cut_metrics(step)
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    if module.validation.measured_at != trainer.global_step:
        trainer.validate(module, datamodule=data, verbose=False)
    if trainer.is_global_zero:
        parts["summary"].write(trainer, module)
        plot_curves(folder)
        _report(console, folder, module, read_json(folder.summary))
    for logger in trainer.loggers:
        logger.finalize("success")
    return module.validation.mean("psnr_y")


def _assemble(
    config: DictConfig,
    options: TrainerOptions,
    folder: RunFolder,
    module: SupervisedSR,
    identity: dict[str, Any],
    resumed: bool,
) -> tuple[Trainer, dict[str, Any]]:
    """The trainer; the order of callbacks is the order of events at the end of a batch."""
    records = Records(folder, log_every_n_steps=options.log_every_n_steps)
    keep = config.checkpoint
    checkpointing = Checkpointing(
        folder,
        module.validation,
        every_n_steps=keep.every_n_steps,
        keep_last=keep.keep_last,
        monitor=keep.monitor,
        mode=keep.mode,
    )
    summary = Summary(folder, records, checkpointing, resumed)
    callbacks = [
        *build.make_callbacks(config, folder),
        records,
        *([ProgressLine(records, module.validation)] if options.progress else []),
        checkpointing,
        summary,
        Interrupt(checkpointing),
    ]
    loggers = build.make_loggers(config, folder) if launch.rank() == 0 else []
    for logger in loggers:
        logger.log_hyperparams(build.plain(config))
    trainer = make_trainer(
        options,
        run_dir=folder.path,
        callbacks=callbacks,
        loggers=loggers,
        checkpoint_io=OneFile(identity),
    )
    return trainer, {"summary": summary}


def _run_dir(config: DictConfig, experiment: str) -> Path:
    if config.resume not in {"auto", "never"}:
        return Path(config.resume)
    if config.run_dir:
        return Path(config.run_dir)
    job = os.environ.get("SLURM_JOB_ID")
    if job:
        task = os.environ.get("SLURM_ARRAY_TASK_ID")
        job = os.environ.get("SLURM_ARRAY_JOB_ID", job)
        name = f"slurm-{job}" + (f"_{task}" if task else "")
    else:
        name = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return Path(config.paths.outputs) / experiment / name


def _to_resume(config: DictConfig, folder: RunFolder) -> Path | None:
    found = newest_valid(folder.path)
    if found is not None and config.resume == "never":
        raise ConfigError(
            f"the run folder already holds {found.name}",
            where=str(folder.path),
            fix="choose another run_dir, or resume=auto to continue it",
        )
    return found


def _identity(config: DictConfig, module: SupervisedSR, experiment: str) -> dict[str, Any]:
    """What every checkpoint says about itself, beside its weights."""
    features = {
        name: {"name": term.features_name, "sha256": term.features_sha256}
        for name, term in module.loss.terms.items()
        if hasattr(term, "features_sha256")
    }
    return {
        "generator": dict(module.generator.spec),
        "scale": int(config.scale),
        "features": features,
        "experiment": experiment,
        "version": srtrain.__version__,
        "protocol": module.validation.metrics.protocol,
        "config": build.plain(config),
    }


def _refuse_other(content: dict[str, Any], identity: dict[str, Any], config: DictConfig) -> None:
    """Continuing with another network, scale or features would not be the same run."""
    if config.force:
        return
    for key in ("scale", "generator", "features"):
        if content.get(key) != identity[key]:
            raise ConfigError(
                f"this run was made with {key} {content.get(key)}, now it is {identity[key]}",
                where=key,
                fix="use another run_dir, or force=true",
            )


def _header(
    console: Console,
    config: DictConfig,
    options: TrainerOptions,
    folder: RunFolder,
    module: SupervisedSR,
    experiment: str,
    choices: Mapping[str, str],
) -> None:
    """What is about to happen, in a few lines."""
    import torch

    count = sum(p.numel() for p in module.generator.parameters())
    images = options.max_steps * config.data.batch_size
    device = torch.cuda.get_device_name() if options.uses_gpu else "CPU"
    idle = torch.cuda.device_count() - options.devices if options.uses_gpu else 0
    losses = " + ".join(f"{weight:g} {name}" for name, weight in module.loss.weights.items())
    rows = [
        ("experiment", f"{experiment} ×{config.scale}, budget {choices.get('budget')}"),
        ("generator", f"{choices.get('generator')}, {count:,} parameters"),
        ("loss", losses + "".join(f" · {note}" for note in _notes(module).values())),
        ("steps", f"{options.max_steps:,} of {config.data.batch_size} patches: {images:,} images"),
        (
            "device",
            f"{options.devices} × {device}, {options.lightning_precision}"
            + (f", {idle} more stay idle (trainer=ddp trainer.devices=N)" if idle > 0 else ""),
        ),
        ("run folder", folder.path),
    ]
    console.print(table.places(rows))


def _notes(module: SupervisedSR) -> dict[str, str]:
    return {
        name: f"features {term.features_name}"
        for name, term in module.loss.terms.items()
        if hasattr(term, "features_name")
    }


def _report(
    console: Console, folder: RunFolder, module: SupervisedSR, summary: dict[str, Any]
) -> None:
    """The table, and where everything lies."""
    rows = {step_name: value for _, step_name, value in folder.read_metrics()}
    console.print()
    console.print(table.quality_table(summary["val"], summary["bicubic"]))
    if not any(name.startswith("lpips") for row in summary["val"].values() for name in row):
        console.print(
            "LPIPS was not measured: no weights "
            "(srtrain fetch-weights lpips-squeeze, then metrics.lpips.net=squeeze)",
            style="dim",
        )
    shares = {"gradient": summary.get("loss", {}).get("gradient", {})}
    console.print(table.loss_table(module.loss.weights, rows, shares, _notes(module)))
    checkpoint = folder.path / (summary["checkpoint"] or "checkpoints")
    console.print(
        table.places(
            [
                ("pictures", folder.samples),
                ("curves", folder.path / "curves.png"),
                ("figures", folder.metrics),
                ("table", folder.summary),
                ("checkpoint", checkpoint),
                ("use it", f"python scripts/infer.py {_short(checkpoint)} PHOTO… -o OUT"),
            ]
        )
    )


def _short(path: Path) -> Path:
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path
