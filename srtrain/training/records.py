"""Figures leave the device once per ``log_every_n_steps``: to disk, then to the loggers."""

from __future__ import annotations

import math
import sys
import time
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch.callbacks import Callback

from srtrain.losses.weighted_sum import gradient_ratios, gradient_share
from srtrain.training.guards import SKIPPED, blamed, refuse_exploded
from srtrain.training.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    from srtrain.training.run_folder import RunFolder
    from srtrain.training.supervised import SupervisedSR
    from srtrain.training.validation import Figures

SHARES_EVERY = 10  # of the logged steps: a gradient share costs one more pass through the loss


class Records(Callback):
    """Writes ``metrics.csv`` and every logger.

    Names: ``train/loss``, ``train/<term>`` (raw), ``train/share/<term>`` (weighted share of the
    total), ``train/gradient_ratio/<term>`` (norm of the weighted gradient at the output ÷ that of
    the pixel terms), ``train/gradient_share/<term>`` (÷ the sum over all terms),
    ``val/<set>/<metric>``, ``bicubic/<set>/<metric>``. Training figures are means over the steps
    since the last line, and over the ranks; those steps are in every checkpoint, so that a line is
    the same whoever was killed before it. Steps that were refused are left out of the means, told
    on stderr and counted: ``train/skipped`` and, of the discriminator, ``train/d_skipped``, where
    there were any. A figure that was never finite has no row. What a clock says,
    ``train/samples_per_second``, goes to ``timing.csv`` and the loggers; the time of validation is
    not counted.

    Raises: RollBack where the discriminator has exploded.
    """

    def __init__(self, folder: RunFolder, *, log_every_n_steps: int) -> None:
        super().__init__()
        self.folder = folder
        self.log_every_n_steps = log_every_n_steps
        self.latest: dict[str, float] = {}
        self.shares: dict[str, dict[str, float]] = {}
        self.alarms: dict[str, dict[str, Any]] = {}  # by name; whoever watches the figures adds
        self.samples_per_second = 0.0
        self.skipped = 0  # steps in which a network's was refused
        self._rows = Rows()
        self._timed = 0  # steps since the clock was started
        self._since = 0.0
        self._validating_since = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._rows.to(pl_module.device)
        self._timed, self._since = 0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add this step's figures; every so often fetch and write their means."""
        module: SupervisedSR = pl_module  # type: ignore[assignment]
        self._rows.add(module.step_values)
        self._timed += 1
        step = trainer.global_step
        if step % self.log_every_n_steps and step != trainer.max_steps:
            return
        first = step - len(self._rows) + 1
        means = self._fetch(trainer, module, batch)
        refuse_exploded(means, first=first, step=step)
        self.latest = {f"train/{name}": value for name, value in means.items()}
        self.latest |= self._shares(trainer, module, means)
        self.latest["train/learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        self.write(trainer, step, self.latest, timing=self._pace(trainer, batch))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._validating_since = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the validation's figures, and the bicubic line beside them where it is new."""
        module: SupervisedSR = pl_module  # type: ignore[assignment]
        validation = module.validation
        figures = _flat("val", validation.val)
        figures |= _flat("bicubic", validation.new_bicubic)
        self.write(trainer, trainer.global_step, figures)
        self._since += time.perf_counter() - self._validating_since

    def write(
        self,
        trainer: Trainer,
        step: int,
        metrics: dict[str, float],
        *,
        timing: Mapping[str, float] | None = None,
    ) -> None:
        """One row per figure on disk, one call per logger; rank 0 alone."""
        if not trainer.is_global_zero:
            return
        self.folder.append_metrics(step, metrics)
        if timing:
            self.folder.append_timing(step, timing)
        for logger in trainer.loggers:
            logger.log_metrics({**metrics, **(timing or {}), "generator_step": step}, step=step)

    def state_dict(self) -> dict[str, Any]:
        """The steps since the last line, for resuming."""
        return self._rows.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the steps since an earlier line."""
        self._rows.load_state_dict(state_dict)

    def _fetch(self, trainer: Trainer, module: SupervisedSR, batch: Any) -> dict[str, float]:
        """The means over the steps that were taken; those that were not are told and counted."""
        reduce = trainer.strategy.reduce
        columns = self._rows.take(lambda rows: reduce(rows, reduce_op="mean"))
        counts = {name: columns.pop(name) > 0 for name in SKIPPED if name in columns}
        refused = np.any([np.zeros(len(columns["loss"]), bool), *counts.values()], axis=0)
        if refused.any():
            self.skipped += int(refused.sum())
            first = trainer.global_step - len(refused) + 1
            steps = [first + int(index) for index in np.flatnonzero(refused)]
            bad = {
                s: {n for n, c in columns.items() if not np.isfinite(c[s - first])} for s in steps
            }
            causes = [blamed(bad[s], module.loss.weights_at(s - 1)) for s in steps]
            if trainer.is_global_zero:
                samples = len(batch["sample"]) * trainer.world_size
                # Looked up now: while a progress bar is shown, this stream is led around it.
                sys.stderr.writelines(_told(steps, causes, samples=samples))
        taken = {name: c[~refused & np.isfinite(c)] for name, c in columns.items()}
        means = {name: float(values.mean()) for name, values in taken.items() if len(values)}
        return means | {name: float(of.sum()) for name, of in counts.items() if of.any()}

    def _pace(self, trainer: Trainer, batch: Any) -> dict[str, float]:
        """Images per second since the last line, over all ranks; starts the clock again."""
        now, images = time.perf_counter(), self._timed * len(batch["sample"]) * trainer.world_size
        self.samples_per_second = images / max(now - self._since, 1e-9)
        self._timed, self._since = 0, now
        return {"train/samples_per_second": self.samples_per_second}

    def _shares(
        self, trainer: Trainer, module: SupervisedSR, means: dict[str, float]
    ) -> dict[str, float]:
        """Shares of the loss at every line; of the gradient, and linear zones, more rarely."""
        step = trainer.global_step
        if not module.loss.weights_at(step - 1).keys() <= means.keys():
            return {}  # no step was taken since a term began
        share = module.loss.shares(means, step=step - 1)  # steps are counted from 0
        figures = {f"train/share/{name}": value for name, value in share.items()}
        interval = self.log_every_n_steps * SHARES_EVERY
        if step % interval == 0 or not self.shares or step == trainer.max_steps:
            norms, linear = module.loss_details()
            squares = {name: norm.square() for name, norm in norms.items()}
            norms = {name: mean.sqrt() for name, mean in _over_ranks(trainer, squares).items()}
            linear = _over_ranks(trainer, linear)
            if not all(math.isfinite(float(norm)) for norm in norms.values()):
                return figures  # of a step that was refused
            ratios = {name: float(ratio) for name, ratio in gradient_ratios(norms).items()}
            of_all = {name: float(part) for name, part in gradient_share(norms).items()}
            self.shares = {"loss": share, "gradient": ratios, "gradient_share": of_all}
            figures |= {f"train/gradient_ratio/{name}": value for name, value in ratios.items()}
            figures |= {f"train/gradient_share/{name}": value for name, value in of_all.items()}
            figures |= {f"train/linear_share/{name}": float(v) for name, v in linear.items()}
        return figures


def _over_ranks(trainer: Trainer, values: dict[str, Tensor]) -> dict[str, Tensor]:
    reduce = trainer.strategy.reduce
    return {name: reduce(value, reduce_op="mean") for name, value in values.items()}


def _flat(prefix: str, figures: Figures) -> dict[str, float]:
    return {
        f"{prefix}/{data}/{name}": value
        for data, values in figures.items()
        for name, value in values.items()
    }


def _told(steps: Sequence[int], causes: Sequence[str], *, samples: int) -> Iterator[str]:
    """One line for those in a row that have one cause."""
    numbered = enumerate(zip(steps, causes, strict=True))
    for (_, cause), group in groupby(numbered, key=lambda item: (item[1][0] - item[0], item[1][1])):
        own = [step for _, (step, _) in group]
        which = f"step {own[0]}" if len(own) == 1 else f"steps {own[0]}-{own[-1]}"
        seen = f"samples {(own[0] - 1) * samples}-{own[-1] * samples - 1}"
        yield f"srtrain: {which} skipped: `{cause}` is not finite · {seen}\n"
