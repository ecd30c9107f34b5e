"""The Lightning Trainer as srtrain uses it: generator steps, no epochs, own files."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import Logger

from srtrain.errors import ConfigError
from srtrain.training.meeting import cluster_environment
from srtrain.training.peers import Steps, joined
from srtrain.training.strategy import FlatDDP

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from srtrain.training.checkpointing import OneFile

__all__ = [  # Lightning's own names: cli/ uses them from here
    "Callback",
    "Logger",
    "Trainer",
    "TrainerOptions",
    "make_trainer",
    "seed_networks",
]

SIGTERM_QUESTION = "_broadcast_sigterm_tensor"
SIGNAL_CONNECTOR = "_signal_connector"


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """What ``conf/trainer`` may set; steps are generator steps."""

    max_steps: int
    devices: int = 1
    num_nodes: int = 1
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    accumulate: int = 1
    strategy: Literal["single", "ddp"] = "single"
    val_every_n_steps: int = 5000
    log_every_n_steps: int = 100
    compile: bool = False
    timeout_s: int = 600
    progress: bool = True

    @property
    def uses_gpu(self) -> bool:
        """Whether a CUDA device will do the work.

        Raises: ConfigError when one is insisted on and there is none.
        """
        available = torch.cuda.is_available()
        if self.accelerator == "gpu" and not available:
            raise ConfigError("there is no GPU", where="trainer.accelerator=gpu", fix="cpu or auto")
        return available and self.accelerator != "cpu"

    @property
    def lightning_precision(self) -> Literal["bf16-mixed", "32-true"]:
        """bf16 where asked for, or where the hardware gains; CPUs without AMX lose by it."""
        gains = self.uses_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        wanted = self.precision == "bf16" or (self.precision == "auto" and gains)
        return "bf16-mixed" if wanted else "32-true"


def seed_networks(seed: int) -> None:
    """Fix what initialises the networks; everything about samples is keyed by ``srtrain.rng``."""
    seed_everything(seed, verbose=False)


def make_trainer(
    options: TrainerOptions,
    *,
    run_dir: Path,
    callbacks: Sequence[Callback],
    loggers: Sequence[Logger],
    checkpoint_io: OneFile,
) -> Trainer:
    """A Trainer with every automatic switched off that srtrain does itself."""
    peers = joined()
    if peers is not None:
        peers.flush = checkpoint_io.flush
        callbacks = [Steps(peers), *callbacks]
    trainer = Trainer(
        max_steps=options.max_steps,
        max_epochs=-1,
        accelerator="gpu" if options.uses_gpu else "cpu",
        benchmark=options.uses_gpu,  # patches have one shape: cuDNN's search pays once
        devices=options.devices,
        num_nodes=options.num_nodes,
        strategy=_strategy(options),
        precision=options.lightning_precision,
        check_val_every_n_epoch=None,
        val_check_interval=min(options.val_every_n_steps, options.max_steps),
        log_every_n_steps=options.log_every_n_steps,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        logger=list(loggers) or False,
        plugins=[checkpoint_io, cluster_environment()],
        default_root_dir=run_dir,
    )
    # Before every step Lightning waits for rank 0 to say whether it got a SIGTERM, and the device
    # runs dry; Interrupt asks without waiting.
    setattr(trainer.fit_loop.epoch_loop, SIGTERM_QUESTION, lambda: None)
    # Its SIGTERM handler broadcasts, from within whatever the other ranks are not waiting in.
    getattr(trainer, SIGNAL_CONNECTOR).register_signal_handlers = lambda: None
    return trainer


def _strategy(options: TrainerOptions) -> FlatDDP | str:
    if options.strategy == "single":
        return "auto"
    return FlatDDP(
        process_group_backend="nccl" if options.uses_gpu else "gloo",
        timeout=timedelta(seconds=options.timeout_s),
    )
