"""A progress line with ETA on a terminal; one line per validation elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from srtrain.training.records import Records
    from srtrain.training.validation import Validation


REFRESHED = 2  # times a second; between them nothing is told to the bar


class ProgressLine(Callback):
    """Step, loss, images per second, the last validation, elapsed and remaining time."""

    def __init__(self, records: Records, validation: Validation) -> None:
        super().__init__()
        self.records = records
        self.validation = validation
        self.console = Console(stderr=True)
        self._progress: Progress | None = None
        self._due = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar on rank 0."""
        if not (trainer.is_global_zero and self.console.is_terminal):
            return
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            console=self.console,
            refresh_per_second=REFRESHED,
        )
        self._progress.add_task("", total=trainer.max_steps, figures="")
        self._progress.update(self._progress.task_ids[0], completed=trainer.global_step)
        self._progress.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance; the figures are those already fetched, nothing is read from the device."""
        if self._progress is not None and time.monotonic() >= self._due:
            self._advance(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what validation found."""
        if not trainer.is_global_zero or trainer.global_step == 0:
            return
        figures = " · ".join(
            f"{name} {figures['psnr_y']:.2f} dB"
            + (
                f" ({figures['psnr_y'] - self.validation.bicubic[name]['psnr_y']:+.2f} on bicubic)"
                if name in self.validation.bicubic
                else ""
            )
            for name, figures in self.validation.val.items()
        )
        console = self._progress.console if self._progress is not None else self.console
        console.print(f"step {trainer.global_step:>6}/{trainer.max_steps} · {figures}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        if self._progress is not None:
            self._advance(trainer)
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Close the bar, so that the error stands on a line of its own."""
        self._close()

    def _advance(self, trainer: Trainer) -> None:
        self._due = time.monotonic() + 1 / REFRESHED
        if self._progress is not None:
            self._progress.update(
                self._progress.task_ids[0], completed=trainer.global_step, figures=self._figures()
            )

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _figures(self) -> str:
        latest = self.records.latest
        if "train/loss" not in latest:
            return ""
        speed = self.records.samples_per_second
        return f"loss {latest['train/loss']:.5f} · {speed:.1f} images/s"
