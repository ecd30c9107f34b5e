"""What networks draw while training (drop path, dropout), keyed by (seed, step, rank)."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback

from srtrain.rng import generator

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


BLOCK = 256  # steps: a generator of its own for each would take longer than all it draws


@lru_cache(maxsize=2)
def _seeds(seed: int, block: int, rank: int) -> list[int]:
    drawn: list[int] = (
        generator(seed, block, f"network/{rank}").integers(2**63 - 1, size=BLOCK).tolist()
    )
    return drawn


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
        """Seed the CPU's generator and this device's from the number of the step."""
        block, place = divmod(trainer.global_step, BLOCK)
        seed = _seeds(self.seed, block, trainer.global_rank)[place]
        # torch.manual_seed goes to every kind of device that there is, and where one is not in use
        # keeps the call with a formatted traceback, for ever: 0.36 ms and some 10 kB a step.
        torch.default_generator.manual_seed(seed)
        if pl_module.device.type == "cuda":
            torch.cuda.manual_seed(seed)
