"""``summary.json``: what a run has reached, rewritten whenever that changes."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Callback

from srtrain.files import read_json
from srtrain.networks.storage import checkpoint_name

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from srtrain.training.checkpointing import Checkpointing
    from srtrain.training.records import Records
    from srtrain.training.run_folder import RunFolder
    from srtrain.training.supervised import SupervisedSR


class Summary(Callback):
    """Keeps the run folder's ``summary.json`` true; ``seconds`` adds up over resumed runs."""

    def __init__(
        self, folder: RunFolder, records: Records, checkpointing: Checkpointing, *, continued: bool
    ) -> None:
        super().__init__()
        self.folder = folder
        self.records = records
        self.checkpointing = checkpointing
        earlier = self._earlier() if continued else {}
        self.seconds_before = float(earlier.get("seconds", 0.0))
        self._started = time.perf_counter()

    def _earlier(self) -> dict[str, Any]:
        """What an earlier process wrote, or nothing."""
        if not self.folder.summary.exists():
            return {}
        content: dict[str, Any] = read_json(self.folder.summary)
        return content

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """New figures."""
        self.write(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last step."""
        self.write(trainer, pl_module)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """What was reached before it broke."""
        if trainer.state.fn == "fit":
            self.write(trainer, pl_module)

    def write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the file; rank 0 alone."""
        if not trainer.is_global_zero:
            return
        module: SupervisedSR = pl_module  # type: ignore[assignment]
        validation, last = module.validation, self.checkpointing.last_step
        content = {
            "generator_steps": trainer.global_step,
            "discriminator_steps": 0,
            "checkpoint": None if last is None else f"checkpoints/{checkpoint_name(last)}",
            "best": self.checkpointing.best or None,
            "val": validation.val,
            "bicubic": validation.bicubic,
            "protocol": validation.metrics.protocol,
            "loss": {"weights": module.loss.weights, **self.records.shares},
            "seconds": round(self.seconds_before + time.perf_counter() - self._started, 1),
            "samples_per_second": round(self.records.samples_per_second, 2),
        }
        self.folder.write_summary(_json_numbers(content))


def _json_numbers(content: Any) -> Any:
    """Infinite PSNR (SR = HR) and NaN have no JSON number: null."""
    if isinstance(content, dict):
        return {key: _json_numbers(value) for key, value in content.items()}
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
