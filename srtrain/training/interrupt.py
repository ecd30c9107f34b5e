"""Ctrl-C, SIGTERM and Slurm's SIGUSR1: finish the step, save, leave with a code that says so."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Callback

from srtrain.errors import InterruptedRunError, PreemptedError, SrtrainError

if TYPE_CHECKING:
    from types import FrameType

    from lightning.pytorch import LightningModule, Trainer

    from srtrain.training.checkpointing import Checkpointing

LEAVE: dict[int, type[SrtrainError]] = {
    signal.SIGINT: InterruptedRunError,
    signal.SIGTERM: PreemptedError,
    signal.SIGUSR1: PreemptedError,
}


class Interrupt(Callback):
    """A signal only sets a flag; the end of the batch saves and leaves by an own exception.

    Installed in ``on_train_start``, after Lightning's own handlers, for single processes. A second
    signal during the save is ignored, so that the save is finished.
    """

    def __init__(self, checkpointing: Checkpointing) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self._received: int | None = None
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals."""
        if trainer.world_size == 1:
            self._previous = {number: signal.signal(number, self._note) for number in LEAVE}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and leave if a signal came."""
        if self._received is None:
            return
        step = trainer.global_step
        if self.checkpointing.last_step != step:
            self.checkpointing.save(trainer)
        raise LEAVE[self._received](f"stopped by a signal, saved step {step}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back."""
        self._restore()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Give the signals back."""
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = number

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
