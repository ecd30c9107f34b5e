"""What a run has reached: in every checkpoint, and for people in ``summary.json``."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Callback

from srtrain.errors import StorageError
from srtrain.networks.storage import checkpoint_name

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from lightning.pytorch import LightningModule, Trainer

    from srtrain.training.checkpointing import Checkpointing
    from srtrain.training.records import Records
    from srtrain.training.run_folder import RunFolder
    from srtrain.training.supervised import SupervisedSR


class Summary(Callback):
    """Keeps ``summary.json`` true; ``restore`` continues from what a checkpoint holds of it.

    ``seconds`` adds up over resumed runs; ``val_step`` is the step that ``val`` was measured at.
    """

    def __init__(
        self,
        folder: RunFolder,
        module: SupervisedSR,
        records: Records,
        checkpointing: Checkpointing,
    ) -> None:
        super().__init__()
        self.folder = folder
        self.module = module
        self.validation = module.validation
        self.records = records
        self.checkpointing = checkpointing
        self._seconds_before = 0.0
        self._started = time.perf_counter()
        self._trained = False

    def content(self, step: int) -> dict[str, Any]:
        """Everything reached by ``step``; a copy, as others write it while training goes on."""
        last = self.checkpointing.last_step
        content = {
            "generator_steps": step,
            "discriminator_steps": self.module.discriminator_steps,
            "checkpoint": None if last is None else f"checkpoints/{checkpoint_name(last)}",
            "best": self.checkpointing.best or None,
            **({"kept": kept} if len(kept := self.checkpointing.kept) > 1 else {}),
            "val": self.validation.val,
            "val_step": self.validation.measured_at,
            "bicubic": self.validation.bicubic,
            "protocol": self.validation.metrics.protocol,
            "loss": {
                "weights": self.module.loss.weights,
                "features": self._features(),
                **self.records.shares,
            },
            "alarms": self.records.alarms,
            "skipped": self.records.skipped,
            "seconds": round(self._seconds_before + time.perf_counter() - self._started, 1),
            "samples_per_second": round(self.records.samples_per_second, 2),
        }
        return deepcopy(content)

    def _features(self) -> dict[str, str]:
        """What the features of each perceptual term honestly are."""
        terms = self.module.loss.terms.items()
        return {name: str(t.features_name) for name, t in terms if hasattr(t, "features_name")}

    def restore(self, earlier: Mapping[str, Any], *, same_sets: Collection[str]) -> None:
        """Continue from the ``content`` that a checkpoint was saved with.

        Figures are kept for ``same_sets`` alone, the validation sets that hold what they held;
        the sets' mean, and what was best by it, only if they are all of them.
        """
        validation, checkpointing = self.validation, self.checkpointing
        self._seconds_before = float(earlier["seconds"])
        self.records.samples_per_second = float(earlier["samples_per_second"])
        about = {"weights", "features"}
        shares = {key: value for key, value in earlier["loss"].items() if key not in about}
        self.records.shares = shares
        self.records.alarms = dict(earlier.get("alarms", {}))
        self.records.skipped = int(earlier.get("skipped", 0))
        self.module.discriminator_steps = int(earlier["discriminator_steps"])
        step = int(earlier["generator_steps"])
        checkpointing.restore(step)
        kept = {name: row for name, row in earlier["bicubic"].items() if name in same_sets}
        validation.bicubic = kept
        if set(same_sets) != set(validation.names) or set(earlier["val"]) != set(same_sets):
            return
        validation.val, validation.measured_at = dict(earlier["val"]), earlier["val_step"]
        checkpointing.monitored()
        best = [earlier["best"]] if earlier["best"] else []
        checkpointing.restore(step, earlier.get("kept", best))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on an exception leaves something to tell."""
        self._trained = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """New figures."""
        self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last step."""
        self._write(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """What was reached before it broke; what broke is told, not that this cannot be written."""
        if trainer.state.fn == "fit" and self._trained:
            with suppress(StorageError):
                self._write(trainer)

    def write(self, step: int) -> dict[str, Any]:
        """Replace the file; returns what it holds."""
        content: dict[str, Any] = _json_numbers(self.content(step))
        self.folder.write_summary(content)
        return content

    def _write(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            self.write(trainer.global_step)


def _json_numbers(content: Any) -> Any:
    """Infinite PSNR (SR = HR) and NaN have no JSON number: null."""
    if isinstance(content, dict):
        return {key: _json_numbers(value) for key, value in content.items()}
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
