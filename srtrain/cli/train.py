"""The main command: decide the run folder, build, fit, tell where everything is."""

from __future__ import annotations

import gc
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from srtrain.cli import announce, build, launch
from srtrain.cli.heap import collect, keep_freed_memory
from srtrain.cli.process import SIGNALS, continue_command
from srtrain.cli.quiet import make_console, quiet_libraries
from srtrain.cli.resume import (
    changes,
    checkpoint_to_resume,
    digests,
    identity,
    learning_rates,
    refuse_another,
    refuse_misfit,
    refuse_used,
    run_dir,
    same_sets,
)
from srtrain.cli.run_report import write_run_report
from srtrain.config.resume import choices_line
from srtrain.errors import DivergedError
from srtrain.networks.storage import checkpoint_name
from srtrain.process_group import barrier
from srtrain.ranks import launched, rank
from srtrain.training.afresh import adversary_afresh, moments_afresh
from srtrain.training.checkpointing import Checkpointing, OneFile
from srtrain.training.compiled import compile_step
from srtrain.training.curves import plot_curves
from srtrain.training.divergence import Divergence
from srtrain.training.due import DueValidation
from srtrain.training.guards import DISCRIMINATOR, Guard, RollBack
from srtrain.training.interrupt import Interrupt
from srtrain.training.keyed import KeyedSteps
from srtrain.training.loop import TrainerOptions, make_trainer, seed_networks
from srtrain.training.progress import ProgressLine
from srtrain.training.ranking import Ranking
from srtrain.training.reconfigure import Reconfigure
from srtrain.training.records import Records
from srtrain.training.run_folder import RunFolder
from srtrain.training.summary import Summary
from srtrain.training.wandb import close_runs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rich.console import Console

    from srtrain.data.datamodule import SRData
    from srtrain.networks.heads import Head
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
    argv: Sequence[str] = ()

    def say(self, line: str) -> None:
        """One line on the console."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The callbacks that hold what the run has reached."""

    records: Records
    checkpointing: Checkpointing
    summary: Summary


def run(
    config: DictConfig, *, experiment: str, choices: Mapping[str, str], argv: Sequence[str]
) -> float | None:
    """One training; returns the mean Y-PSNR over the validation sets (what sweeps optimise)."""
    quiet_libraries()
    keep_freed_memory()
    options: TrainerOptions = instantiate(config.trainer)
    if not launched():  # who launches ranks may hide from each all GPUs but its own
        options.refuse_missing_gpus()
    folder = RunFolder(run_dir(config, experiment).absolute())
    leader = rank() == 0
    out = make_console(quiet=not leader)
    chosen = {**choices, "experiment": experiment}
    try:
        if launch.must_launch(options):
            words = [word for word in argv if not word.startswith("run_dir=")]
            launch.launch(options, [*words, f"run_dir={folder.path}"])
            return None
        folder = RunFolder(launch.meet(folder.path, timeout_s=options.timeout_s, words=argv))
        if leader:
            folder.create()
        asked = Run(
            config=config, options=options, folder=folder, console=out, choices=chosen, argv=argv
        )
        with folder.locked() if leader else nullcontext():
            refuse_used(config, folder)
            return _train_through(asked)
    except DivergedError as error:  # the same steps would diverge again
        group = f"{DISCRIMINATOR}_optimizer" if error.where == DISCRIMINATOR else "optimizer"
        lower = Divergence(folder.path, learning_rates(config)).slower(f"{group}.lr")
        fix = f"continue with:\n{continue_command(folder.path)} {lower}"
        raise DivergedError(error.what, where=error.where or str(folder.path), fix=fix) from error
    except BaseException as error:
        vars(error)["run_dir"] = folder.path  # cli/process.py and cli/main.py name it
        raise


def _train_through(run: Run) -> float | None:
    """``_train``; where it diverges, again from the last checkpoint to be trusted, but slower.

    Raises: DivergedError when it was rolled back as often as may be.
    """
    before = Divergence(run.folder.path, learning_rates(run.config))
    if before.lr_factor != 1:
        run.say(f"learning rates × {before.lr_factor:g} {before.after}")
    while True:
        try:
            return _train(run)
        except RollBack as error:
            broke = error.with_traceback(None)  # frames would keep networks and moments alive
        _roll_back(run, broke)


def _roll_back(run: Run, broke: RollBack) -> None:
    divergence = Divergence(run.folder.path, learning_rates(run.config))
    if divergence.spent or not broke.step:
        after = f", {divergence.after}" if divergence.counted else ""
        raise DivergedError(f"{broke.what}{after}", where=broke.where)
    barrier()  # all have read what rank 0 is about to change
    if rank() == 0:
        to = divergence.roll_back(step=broke.step, limit=broke.limit, term=broke.term)["to"]
        slower = f"learning rates × {divergence.lr_factor:g}"
        run.say(f"diverged: {broke.what} · back to step {to}, {slower}")
    barrier()
    gc.collect()


def _train(run: Run) -> float | None:
    """Build everything, load what there is, train to ``max_steps``, measure that, report."""
    config, options = run.config, run.options
    found = checkpoint_to_resume(run.folder, say=run.say)
    seed_networks(config.seed)
    generator = build.make_generator(config, found[1] if found else None)
    discriminator = build.make_discriminator(config, options)
    if found is None and config.init_from.path:
        for line in build.load_initial_weights(config, generator, discriminator):
            run.console.print(line, markup=False)
    data = build.make_data(config, options)
    module = build.make_module(config, options, generator, discriminator, data)
    own = identity(config, module, run.choices["experiment"])
    parts = make_parts(run, module)
    summary = parts.summary
    step = -1 if found is None else _restore(run, found[1], own, data, summary)
    if step >= options.max_steps and module.validation.measured_at == step:
        return _report(run, module, summary, step)
    announce.header(run.console, config, options, module, run.choices)
    files = _files(own, data, parts, found, head=generator.head)
    path = found[0] if found else None
    del found  # OneFile gives the content away, once
    trainer = trainer_for(run, module, parts, files)
    if trainer.is_global_zero:
        run.folder.write_config(choices_line(run.choices) + OmegaConf.to_yaml(config, resolve=True))
        run.folder.cut_metrics(step, measured=module.validation.measured_at == step)
    if options.compile:
        compile_step(module, cuda_graphs=options.cuda_graphs)
    try:
        _fit(trainer, module, data, path)
        parts.checkpointing.flush(final=True)
    except RollBack:
        close_runs(trainer.loggers)  # what trains on logs by itself
        raise
    mean = _report(run, module, summary, trainer.global_step)
    close_runs(trainer.loggers)
    return mean


def _fit(trainer: Trainer, module: SupervisedSR, data: SRData, path: Path | None) -> None:
    """Train from the checkpoint at ``path`` to ``max_steps``; measure before and after."""
    collect()
    if path is None:
        trainer.validate(module, datamodule=data, verbose=False)
    trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
    if module.validation.measured_at != trainer.global_step:  # stopped or killed before that
        trainer.validate(module, datamodule=data, verbose=False)


def make_parts(run: Run, module: SupervisedSR) -> Parts:
    """What every run keeps, empty."""
    config, folder = run.config, run.folder
    records = Records(folder, log_every_n_steps=run.options.log_every_n_steps)
    keep = config.checkpoint
    checkpointing = Checkpointing(
        folder,
        module.validation,
        Ranking(
            monitor=keep.monitor,
            mode=keep.mode,
            keep=keep.keep_best,
            floor=build.plain(keep.floor),
        ),
        every_n_steps=keep.every_n_steps,
        keep_last=keep.keep_last,
        on_save_error=keep.on_save_error,
    )
    summary = Summary(folder, module, records, checkpointing)
    return Parts(records=records, checkpointing=checkpointing, summary=summary)


def _files(
    own: Mapping[str, Any],
    data: SRData,
    parts: Parts,
    found: tuple[Path, dict[str, Any]] | None,
    *,
    head: Head | None,
) -> OneFile:
    """Checkpoints that say what the run is, on which images, and what it has reached."""

    def about(step: int) -> dict[str, Any]:
        of = parts.summary.validation.measured_at  # bands may be of earlier weights
        measured = {} if head is None else {"calibration": {**head.calibration, "step": of}}
        return {**own, **measured, "data": digests(data), "reached": parts.summary.content(step)}

    return OneFile(about, parts.checkpointing, read=dict([found]) if found else None)


def _restore(
    run: Run, content: dict[str, Any], own: Mapping[str, Any], data: SRData, summary: Summary
) -> int:
    """Take over what the run had reached, unless that was another run; returns its step."""
    refuse_another(content, own, data, force=run.config.force, say=run.say)
    if content.get("discriminator") != own["discriminator"]:
        adversary_afresh(content, summary.module)
    refuse_misfit(content, summary.module)
    step, max_steps = int(content["step"]), run.options.max_steps
    if step < max_steps:
        run.say(f"resumed from step {step} ({checkpoint_name(step)})")
    else:
        run.say(f"finished before: step {step} of {max_steps}")
    before, now = content["config"], own["config"]
    if changed := changes(before, now):
        run.say(f"resumed with {' · '.join(changed)}")
    if before["trainer"]["max_steps"] != max_steps > step:
        run.say(f"scheduler {run.choices['scheduler']}: {max_steps} steps, as if from the first on")
    for group in moments_afresh(content, before, now):
        run.say(f"{group}: another one, its moments start afresh")
    summary.restore(content["reached"], same_sets=same_sets(content, own, data))
    return step


def trainer_for(run: Run, module: SupervisedSR, parts: Parts, files: OneFile) -> Trainer:
    """The trainer; the order of callbacks is the order of events at the end of a batch."""
    config, folder = run.config, run.folder
    callbacks: list[Callback] = [
        Reconfigure(run.say),
        KeyedSteps(seed=config.seed),
        Guard(folder, learning_rates(config)),
        parts.records,
        *build.make_callbacks(config, folder, parts.records),
    ]
    if run.options.progress:
        callbacks.append(ProgressLine(parts.records, module.validation))
    callbacks += [parts.checkpointing, parts.summary, Interrupt(parts.checkpointing, SIGNALS)]
    callbacks.append(DueValidation(module.validation))
    loggers = build.make_loggers(config, folder) if rank() == 0 else []
    for logger in loggers:
        logger.log_hyperparams(build.plain(config))
    return make_trainer(
        run.options, run_dir=folder.path, callbacks=callbacks, loggers=loggers, checkpoint_io=files
    )


def _report(run: Run, module: SupervisedSR, summary: Summary, step: int) -> float | None:
    """The curves, the page, the tables, and where everything lies; returns the mean Y-PSNR."""
    if rank() == 0:
        content = summary.write(step)
        plot_curves(run.folder)
        page = write_run_report(run, module, content)
        announce.report(run.console, run.folder, module, content, page=page)
    return module.validation.mean("psnr_y")
