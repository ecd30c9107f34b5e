"""Watches the game between generator and discriminator: pictures of logits, and alarms."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Callback

from srtrain.training.alarms import ACCURACIES, CONSISTENCIES, WATCHED, Window, symptoms
from srtrain.training.logit_picture import Moment, logit_picture, quantiles, thinned

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    from srtrain.training.adversarial import AdversarialSR
    from srtrain.training.alarms import Alarm
    from srtrain.training.records import Records
    from srtrain.training.run_folder import RunFolder

LONGEST = 512  # lines of the history; then every second one goes


class AdversaryWatch(Callback):
    """Says when the game is lost, and draws it: ``samples/logits.png``, histograms to W&B.

    It reads the means that ``records`` has fetched already, so it must come after it. A symptom
    must show in the mean over ``patience`` steps in which both networks learn from each other: not
    in a warm-up. It is told once, and again only when the run is twice as old; ``records.alarms``
    keeps each with its first and last step for ``summary.json``.
    """

    def __init__(self, folder: RunFolder, records: Records, *, patience: int) -> None:
        super().__init__()
        self.folder = folder
        self.records = records
        self.best_lr_psnr = float("-inf")
        self.history: list[Moment] = []
        self._window = Window(patience)
        self._line = records.latest
        self._step: int | None = None  # of the last line
        self._told: dict[str, int] = {}
        self._margins: tuple[Tensor, Tensor] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From this step on, or from where an earlier process left off."""
        self._line = self.records.latest
        if self._step is None:
            self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Where a line of figures was written: look at it, and at the logits of the last batch."""
        if self.records.latest is self._line:
            return
        module: AdversarialSR = pl_module  # type: ignore[assignment]
        self._line, step = self.records.latest, trainer.global_step
        figures = {name: self._line.get(f"train/{name}", math.nan) for name in WATCHED}
        told = (self._line.get(f"train/{name}", math.nan) for name in CONSISTENCIES)
        figures["lr_psnr"] = next((psnr for psnr in told if math.isfinite(psnr)), math.nan)
        if not all(math.isfinite(figure) for figure in figures.values()):
            return  # no step was taken since the line before
        steps, self._step = step - (self._step or 0), step
        if "train/adversarial" in self._line and module.discriminator_steps:
            self._window.add(steps, figures)
        else:
            self._window.clear()
        self._look(module, figures, step)
        means = self._window.means()
        if means is None:
            return
        settled = module.discriminator_steps >= 2 * self._window.steps
        for alarm in symptoms(means, best_lr_psnr=self.best_lr_psnr, settled=settled):
            self._raise(alarm, step, speak=trainer.is_global_zero)
        self.best_lr_psnr = max(self.best_lr_psnr, means["lr_psnr"])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the picture, the newest alone; the loggers keep the histograms."""
        if self._margins is None or not trainer.is_global_zero:
            return
        real, made = self._margins
        picture = logit_picture(self.history, real=real, made=made)
        self.folder.write(self.folder.samples / "logits.png", picture)
        for logger in trainer.loggers:
            log = getattr(logger, "log_histogram", None)  # Weights & Biases has it
            if log is not None:
                log("train/logits_real", real, step=trainer.global_step)
                log("train/logits_fake", made, step=trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """All that the next look depends on, for resuming."""
        return {
            "history": [[*m[:3], *m.real, *m.made] for m in self.history],
            "window": [[steps, dict(means)] for steps, means in self._window.lines],
            "best_lr_psnr": self.best_lr_psnr,
            "step": self._step,
            "told": dict(self._told),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue an earlier history; what was told is not told again."""
        self.history = [
            Moment(step, real, made, tuple(bands[:3]), tuple(bands[3:]))
            for step, real, made, *bands in state_dict["history"]
        ]
        for steps, means in state_dict["window"]:
            self._window.add(steps, means)
        self.best_lr_psnr = float(state_dict["best_lr_psnr"])
        self._step = state_dict.get("step")
        told = {name: alarm["last_step"] for name, alarm in self.records.alarms.items()}
        self._told = {name: int(step) for name, step in state_dict.get("told", told).items()}

    def _look(self, module: AdversarialSR, figures: dict[str, float], step: int) -> None:
        """Add to the history; on every rank, as a relativistic threshold is common to all."""
        if module.last_logits is None:
            return
        real, fake = module.last_logits
        margins = module.objective.margins(fake=fake.float(), real=real.float())
        if not all(bool(side.isfinite().all()) for side in margins):
            return  # of a step that was refused
        self._margins = thinned(margins[0]), thinned(margins[1])
        right_of_real, right_of_made = (figures[name] for name in ACCURACIES)
        moment = Moment(step, right_of_real, right_of_made, *quantiles(*self._margins))
        self.history.append(moment)
        if len(self.history) > LONGEST:
            self.history = self.history[::2]

    def _raise(self, alarm: Alarm, step: int, *, speak: bool) -> None:
        first = self.records.alarms.get(alarm.name, {}).get("step", step)
        kept = {"step": first, "last_step": step, "says": alarm.says}
        self.records.alarms[alarm.name] = kept
        if step < 2 * self._told.get(alarm.name, 0):
            return
        self._told[alarm.name] = step
        if speak:
            # Looked up now: while a progress bar is shown, this stream is led around it.
            sys.stderr.write(f"srtrain: alarm: {alarm.name} at step {step} · {alarm.says}\n")
