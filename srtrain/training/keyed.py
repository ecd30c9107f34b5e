"""What networks draw while training (drop path, dropout), keyed by (seed, step, rank)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback

from srtrain.rng import generator

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class KeyedSteps(Callback):
    """Seeds torch before every step, so that a resumed run draws the masks it would have drawn.

    SwinIR, HAT, DAT and others drop paths by torch's global generator, whose state would
    otherwise be hidden history.
    """

    def __init__(self, *, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed from the number of the step."""
        stage = f"network/{trainer.global_rank}"
        torch.manual_seed(int(generator(self.seed, trainer.global_step, stage).integers(2**63 - 1)))
