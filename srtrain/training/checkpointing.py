"""When checkpoints are written, which stay, and how Lightning's state becomes our file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import CheckpointIO

from srtrain.errors import ConfigError, DivergedError, StorageError
from srtrain.networks.storage import by_step, checkpoint_name, read_checkpoint, write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lightning.pytorch import LightningModule, Trainer

    from srtrain.training.run_folder import RunFolder
    from srtrain.training.validation import Validation

TRAIN_STATE = "train_state"
NETWORK = "generator.net."


class OneFile(CheckpointIO):
    """Lightning's checkpoint dict ⇄ the file of ``srtrain.networks.storage``.

    ``about(step)`` is what the file must say about itself: ``generator``, ``scale``, ``version``,
    ``features``, ``config``… in plain JSON types. ``read`` holds files that have been read
    already: each is given away once.
    """

    def __init__(
        self,
        about: Callable[[int], Mapping[str, Any]],
        *,
        read: Mapping[Path, dict[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        self.about = about
        self._read = dict(read or {})

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write one self-describing file; ``state_dict`` is the EMA where there is one."""
        weights = {
            key.removeprefix(NETWORK): value
            for key, value in checkpoint["state_dict"].items()
            if key.startswith(NETWORK)
        }
        average = checkpoint.get("callbacks", {}).get("EMA", {}).get("average")
        step = int(checkpoint["global_step"])
        content = {
            **self.about(step),
            "step": step,
            "state_dict": average or weights,
            TRAIN_STATE: checkpoint,
        }
        write_checkpoint(Path(path), content)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Lightning's part of the file, read with ``weights_only=True`` always."""
        content = self._read.pop(Path(path), None) or read_checkpoint(Path(path))
        if TRAIN_STATE not in content:
            raise StorageError(
                "this file holds weights only, no training state",
                where=str(path),
                fix="start from it with init_from=FILE instead of resuming",
            )
        state: dict[str, Any] = content[TRAIN_STATE]
        return state

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete one file."""
        Path(path).unlink(missing_ok=True)


class Checkpointing(Callback):
    """Saves every ``every_n_steps`` and at the end; keeps the newest ``keep_last`` and the best.

    Where validation is due at the same step, as it is at the last one, it saves after it, so that
    the file counts as measured. Files are pruned only after a newer one is committed.

    Raises: ConfigError after the first validation if that did not measure ``monitor``.
    """

    def __init__(
        self,
        folder: RunFolder,
        validation: Validation,
        *,
        every_n_steps: int,
        keep_last: int,
        monitor: str,
        mode: str,
    ) -> None:
        super().__init__()
        if mode not in {"min", "max"}:
            raise ValueError(f"mode = {mode!r} must be 'min' or 'max'")
        self.folder = folder
        self.validation = validation
        self.every_n_steps = every_n_steps
        self.keep_last = max(1, keep_last)
        self.monitor = monitor
        self.sign = 1.0 if mode == "max" else -1.0
        self.best: dict[str, Any] = {}
        self.last_step: int | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save now unless validation comes first."""
        step = trainer.global_step
        if step == trainer.max_steps:
            trainer.should_stop = True  # Lightning validates before it stops
        elif step % self.every_n_steps == 0 and step % int(trainer.val_check_interval):
            self.save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what validation was due with, or what turned out the best so far."""
        step = trainer.global_step
        value = self.monitored()
        if step == 0:
            return
        due = step % self.every_n_steps == 0 or step >= trainer.max_steps
        better = value is not None and value == value and self._beats(value)
        if due or better:
            if better:
                self.best = {"metric": self.monitor, "step": step, "value": value}
                self.best["file"] = checkpoint_name(step)
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write the checkpoint of this step, the pointer, then prune."""
        step = trainer.global_step
        _refuse_non_finite(trainer)
        before, self.last_step = self.last_step, step  # the file names itself as the last
        try:
            trainer.save_checkpoint(self.folder.checkpoints / checkpoint_name(step))
        except BaseException:
            self.last_step = before
            raise
        if trainer.is_global_zero:
            self._prune()

    def monitored(self) -> float | None:
        """The last validation's mean of ``monitor``; None before any.

        Raises: ConfigError when there is no such metric, naming those that were measured.
        """
        value = self.validation.mean(self.monitor)
        measured = {name for figures in self.validation.val.values() for name in figures}
        if value is None and measured:
            raise ConfigError(
                f"nothing measures {self.monitor}",
                where="checkpoint.monitor",
                fix=f"choose one of {', '.join(sorted(measured))}",
            )
        return value

    def _beats(self, value: float) -> bool:
        return not self.best or self.sign * value > self.sign * self.best["value"]

    def _prune(self) -> None:
        files = by_step(self.folder.checkpoints)
        for path in files[: -self.keep_last]:
            if path.name != self.best.get("file"):
                path.unlink(missing_ok=True)


def _refuse_non_finite(trainer: Trainer) -> None:
    """A checkpoint of NaNs would replace the last good one."""
    weights = [p.detach() for p in trainer.lightning_module.parameters()]
    norms = torch._foreach_norm(weights)
    if not bool(torch.isfinite(torch.stack(norms)).all()):
        raise DivergedError(
            f"the weights are not finite at step {trainer.global_step}; nothing was saved",
            where="generator",
            fix="resume from the last checkpoint with a lower optimizer.lr",
        )
