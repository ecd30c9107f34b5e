"""The main command: decide the run folder, build, fit, tell where everything is."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from srtrain.cli import announce, build, launch
from srtrain.cli.quiet import make_console, quiet_libraries
from srtrain.cli.resume import (
    checkpoint_to_resume,
    continue_command,
    identity,
    run_dir,
    step_to_resume,
)
from srtrain.config.resume import choices_line
from srtrain.errors import DivergedError, InterruptedRunError, PreemptedError
from srtrain.files import read_json
from srtrain.ranks import rank
from srtrain.training.checkpointing import Checkpointing, OneFile
from srtrain.training.curves import plot_curves
from srtrain.training.interrupt import Interrupt
from srtrain.training.keyed import KeyedSteps
from srtrain.training.loop import TrainerOptions, make_trainer, seed_networks
from srtrain.training.progress import ProgressLine
from srtrain.training.records import Records
from srtrain.training.run_folder import RunFolder
from srtrain.training.summary import Summary
from srtrain.training.wandb import Wandb

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from srtrain.data.datamodule import SRData
    from srtrain.training.loop import Callback, Trainer
    from srtrain.training.supervised import SupervisedSR


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training: what was asked for, where it lives, and who is told."""

    config: DictConfig
    options: TrainerOptions
    folder: RunFolder
    console: Console
    choices: Mapping[str, str]


def run(
    config: DictConfig, *, experiment: str, choices: Mapping[str, str], argv: Sequence[str]
) -> float | None:
    """One training; returns the mean Y-PSNR over the validation sets (what sweeps optimise)."""
    quiet_libraries()
    options: TrainerOptions = instantiate(config.trainer)
    folder = RunFolder(run_dir(config, experiment).absolute())
    if launch.must_launch(options):
        words = [word for word in argv if not word.startswith("run_dir=")]
        launch.launch(options, [*words, f"run_dir={folder.path}"])
        return None
    folder = RunFolder(launch.agree_on(folder.path, timeout_s=options.timeout_s))
    leader = rank() == 0
    if leader:
        folder.create()
    console = make_console(quiet=not leader)
    choices = {**choices, "experiment": experiment}
    asked = Run(config=config, options=options, folder=folder, console=console, choices=choices)
    try:
        with folder.locked() if leader else nullcontext():
            return _train(asked)
    except (DivergedError, PreemptedError, InterruptedRunError) as error:
        fix = f"continue with: {continue_command(folder)}"
        raise type(error)(error.what, where=error.where or str(folder.path), fix=fix) from error
    except Exception as error:
        vars(error)["run_dir"] = folder.path  # where cli/main.py leaves error.log
        raise


def _train(run: Run) -> float | None:
    """Build everything, then start, continue, or only report a finished run."""
    config, options = run.config, run.options
    checkpoint = checkpoint_to_resume(config, run.folder)
    seed_networks(config.seed)
    generator = build.make_generator(config)
    if checkpoint is None and config.init_from.path:
        run.console.print(build.load_initial_weights(config, generator))
    data = build.make_data(config, options)
    module = build.make_module(config, options, generator, data)
    own = identity(config, module, run.choices["experiment"])
    step = 0 if checkpoint is None else step_to_resume(checkpoint, own, force=config.force)
    if step >= options.max_steps:
        run.console.print(f"finished before: step {step} of {options.max_steps}")
        summary = read_json(run.folder.summary)
        announce.report(run.console, run.folder, module, summary)
        return None
    announce.header(run.console, config, options, module, run.choices)
    trainer = _trainer(run, module, OneFile(own), resumed=checkpoint is not None)
    if trainer.is_global_zero:
        head = choices_line(run.choices)
        run.folder.write_config(head + OmegaConf.to_yaml(config, resolve=True))
    if options.compile:
        generator.net.compile()
    if checkpoint is None:
        trainer.validate(module, datamodule=data, verbose=False)
    else:
        _continue(run, module, trainer, checkpoint, step)
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return _finish(run, module, data, trainer)


def _trainer(run: Run, module: SupervisedSR, files: OneFile, *, resumed: bool) -> Trainer:
    """The trainer; the order of callbacks is the order of events at the end of a batch."""
    config, folder = run.config, run.folder
    records = Records(folder, log_every_n_steps=run.options.log_every_n_steps)
    keep = config.checkpoint
    checkpointing = Checkpointing(
        folder,
        module.validation,
        every_n_steps=keep.every_n_steps,
        keep_last=keep.keep_last,
        monitor=keep.monitor,
        mode=keep.mode,
    )
    callbacks: list[Callback] = [
        KeyedSteps(seed=config.seed),
        *build.make_callbacks(config, folder),
        records,
    ]
    if run.options.progress:
        callbacks.append(ProgressLine(records, module.validation))
    callbacks += [
        checkpointing,
        Summary(folder, records, checkpointing, continued=resumed),
        Interrupt(checkpointing),
    ]
    loggers = build.make_loggers(config, folder) if rank() == 0 else []
    for logger in loggers:
        logger.log_hyperparams(build.plain(config))
    return make_trainer(
        run.options, run_dir=folder.path, callbacks=callbacks, loggers=loggers, checkpoint_io=files
    )


def _continue(
    run: Run, module: SupervisedSR, trainer: Trainer, checkpoint: Path, step: int
) -> None:
    """Say from where; forget the figures beyond it, they will be written again."""
    run.console.print(f"resumed from step {step} ({checkpoint.name})")
    if run.folder.summary.exists():
        module.validation.bicubic = read_json(run.folder.summary)["bicubic"]
    if trainer.is_global_zero:
        run.folder.cut_metrics(step)


def _finish(run: Run, module: SupervisedSR, data: SRData, trainer: Trainer) -> float | None:
    """Measure the last step unless that has been done, then report."""
    if module.validation.measured_at != run.options.max_steps:
        trainer.validate(module, datamodule=data, verbose=False)
    if trainer.is_global_zero:
        plot_curves(run.folder)
        summary = read_json(run.folder.summary)
        announce.report(run.console, run.folder, module, summary)
    for logger in trainer.loggers:
        if isinstance(logger, Wandb):
            logger.close()
    return module.validation.mean("psnr_y")
