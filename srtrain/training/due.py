"""A run that was stopped where validation was due, and before it, begins with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning.pytorch.callbacks import Callback

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from srtrain.training.validation import Validation


class DueValidation(Callback):
    """Validates before the first step of a resumed run if an uninterrupted one would have.

    To be the last of the callbacks: the others are ready then. Lightning itself goes on training.
    """

    def __init__(self, validation: Validation) -> None:
        super().__init__()
        self.validation = validation

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the loop that the step would have run, from its beginning."""
        step = trainer.global_step
        due = step > 0 and step % int(trainer.val_check_interval) == 0
        if not due or self.validation.measured_at == step:
            return
        loop = trainer.fit_loop.epoch_loop.val_loop
        loop.restarting = False
        trainer.validating = True
        loop.run()
        trainer.training = True
