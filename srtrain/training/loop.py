"""The Lightning Trainer as srtrain uses it: generator steps, no epochs, own files."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import Logger

from srtrain.errors import ConfigError
from srtrain.training.lean import Unmeasured, precision
from srtrain.training.meeting import cluster_environment
from srtrain.training.peers import Steps, joined
from srtrain.training.strategy import FlatDDP

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from srtrain.training.checkpointing import OneFile

__all__ = [  # Lightning's own names: cli/ uses them from here
    "Callback",
    "LightningModule",
    "Logger",
    "Trainer",
    "TrainerOptions",
    "make_trainer",
    "seed_networks",
]

# Lightning sets it. Adam asks at every step whether there is a GPU, and where there is none, that
# way looks for a library that is not there: 85 µs.
NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"
SIGTERM_QUESTION = "_broadcast_sigterm_tensor"
SIGNAL_CONNECTOR = "_signal_connector"
SIGNAL_HANDLERS = "register_signal_handlers"
STEP_ARGUMENTS = "_build_kwargs"

log = logging.getLogger(__name__)


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
    cuda_graphs: bool = False
    timeout_s: int = 600
    progress: bool = True

    @property
    def uses_gpu(self) -> bool:
        """Whether a CUDA device will do the work.

        Raises: ConfigError when one is insisted on, or needed, and there is none.
        """
        available = torch.cuda.is_available()
        if self.cuda_graphs and not available:
            where = "trainer.cuda_graphs"
            raise ConfigError("CUDA graphs need a GPU, there is none", where=where, fix="false")
        if self.accelerator == "gpu" and not available:
            fix = "cpu or auto, without trainer=node (on CPUs, several ranks are trainer=ddp)"
            raise ConfigError("there is no GPU", where="trainer.accelerator=gpu", fix=fix)
        return available and self.accelerator != "cpu"

    def refuse_missing_gpus(self) -> None:
        """Raises: ConfigError where this machine lacks the GPUs that the run wants of it."""
        here = torch.cuda.device_count()
        if self.uses_gpu and self.devices > here:
            what = f"{self.devices} GPUs are asked for, this machine has {here}"
            raise ConfigError(what, where="trainer.devices", fix=f"trainer.devices={here}")

    @property
    def lightning_precision(self) -> Literal["bf16-mixed", "32-true"]:
        """bf16 where asked for, and on GPUs that have it.

        Not on CPUs, though some gain by it: in fp32 ranks and micro-batches change nothing but
        the last digits, and that is what CPUs are used to check.
        """
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
    if not options.uses_gpu:
        os.environ[NVML] = "0"
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
        profiler=Unmeasured(),
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
        plugins=[
            checkpoint_io,
            cluster_environment(),
            precision(options.lightning_precision, "cuda" if options.uses_gpu else "cpu"),
        ],
        default_root_dir=run_dir,
    )
    _hold_back(trainer)
    return trainer


def _hold_back(trainer: Trainer) -> None:
    """What no option switches off."""
    steps = trainer.fit_loop.epoch_loop
    # Before every step Lightning waits for rank 0 to say whether it got a SIGTERM, and the device
    # runs dry; Interrupt asks without waiting.
    replaced(steps, SIGTERM_QUESTION, _nothing)
    # It reads the signature of training_step before every step anew: 60 µs.
    replaced(steps, STEP_ARGUMENTS, _step_arguments)
    # Its SIGTERM handler broadcasts, from within whatever the other ranks are not waiting in.
    replaced(getattr(trainer, SIGNAL_CONNECTOR, None), SIGNAL_HANDLERS, _nothing)


def replaced(owner: object, name: str, by: Callable[..., object]) -> None:
    """Lightning's private ``owner.name`` is ``by``, if it is still there and takes the same."""
    own = getattr(owner, name, None)
    if callable(own) and [*signature(own).parameters] == [*signature(by).parameters]:
        setattr(owner, name, by)
    else:
        what = "is not there" if own is None else "takes something else"
        log.debug("Lightning's own %s is left as it is: it %s", name, what)


def _nothing() -> None:
    """In place of what is left out."""


def _step_arguments(
    kwargs: OrderedDict[str, Any], batch: object, batch_idx: int
) -> OrderedDict[str, Any]:
    kwargs.update(batch=batch, batch_idx=batch_idx)
    return kwargs


def _strategy(options: TrainerOptions) -> FlatDDP | str:
    if options.strategy == "single" or options.devices * options.num_nodes == 1:
        return "auto"
    return FlatDDP(
        process_group_backend="nccl" if options.uses_gpu else "gloo",
        timeout=timedelta(seconds=options.timeout_s),
    )
