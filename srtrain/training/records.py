"""Figures leave the device once per ``log_every_n_steps``: to disk, then to the loggers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback

from srtrain.errors import DivergedError
from srtrain.losses.weighted_sum import gradient_ratios, gradient_share

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    from srtrain.training.run_folder import RunFolder
    from srtrain.training.supervised import SupervisedSR
    from srtrain.training.validation import Figures

SHARES_EVERY = 10  # of the logged steps: a gradient share costs one more pass through the loss
DISCRIMINATOR = "discriminator"  # where it broke, if not in the generator


class Records(Callback):
    """Writes ``metrics.csv`` and every logger.

    Names: ``train/loss``, ``train/<term>`` (raw), ``train/share/<term>`` (weighted share of the
    total), ``train/gradient_ratio/<term>`` (norm of the weighted gradient at the output ÷ that of
    the pixel terms), ``train/gradient_share/<term>`` (÷ the sum over all terms),
    ``val/<set>/<metric>``, ``bicubic/<set>/<metric>``. Training figures are means over the steps
    since the last line that had them, and over the ranks. The time of validation is not counted in
    ``train/samples_per_second``.

    Raises: DivergedError when the mean loss is not finite, naming the first such term.
    """

    def __init__(self, folder: RunFolder, *, log_every_n_steps: int) -> None:
        super().__init__()
        self.folder = folder
        self.log_every_n_steps = log_every_n_steps
        self.latest: dict[str, float] = {}
        self.shares: dict[str, dict[str, float]] = {}
        self.alarms: dict[str, dict[str, Any]] = {}  # by name; whoever watches the figures adds
        self.samples_per_second = 0.0
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._since = 0.0
        self._validating_since = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._sums, self._counts, self._since = {}, {}, time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add this step's figures; every so often fetch and write their means."""
        module: SupervisedSR = pl_module  # type: ignore[assignment]
        self._add(module.step_values)
        step = trainer.global_step
        if step % self.log_every_n_steps and step != trainer.max_steps:
            return
        images = self._counts["loss"] * len(batch["sample"]) * trainer.world_size
        means = self._fetch(trainer)
        _refuse_non_finite(means, step)
        self.latest = {f"train/{name}": value for name, value in means.items()}
        self.latest |= self._shares(trainer, module, batch, means)
        now = time.perf_counter()
        self.samples_per_second = images / max(now - self._since, 1e-9)
        self.latest["train/samples_per_second"] = self.samples_per_second
        self.latest["train/learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        self.write(trainer, step, self.latest)
        self._since = time.perf_counter()

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

    def write(self, trainer: Trainer, step: int, metrics: dict[str, float]) -> None:
        """One row per figure on disk, one call per logger; rank 0 alone."""
        if not trainer.is_global_zero:
            return
        self.folder.append_metrics(step, metrics)
        for logger in trainer.loggers:
            logger.log_metrics({**metrics, "generator_step": step}, step=step)

    def _add(self, values: dict[str, Tensor]) -> None:
        """Each name is counted for itself: a term may begin between two lines."""
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def _fetch(self, trainer: Trainer) -> dict[str, float]:
        sums = self._sums.items()
        stacked = torch.stack([value.float() / self._counts[name] for name, value in sums])
        stacked = trainer.strategy.reduce(stacked, reduce_op="mean")
        means = dict(zip(self._sums, stacked.tolist(), strict=True))
        self._sums, self._counts = {}, {}
        return means

    def _shares(
        self, trainer: Trainer, module: SupervisedSR, batch: Any, means: dict[str, float]
    ) -> dict[str, float]:
        """Shares of the loss at every line; of the gradient, and linear zones, more rarely."""
        step = trainer.global_step
        share = module.loss.shares(means, step=step - 1)  # steps are counted from 0
        figures = {f"train/share/{name}": value for name, value in share.items()}
        interval = self.log_every_n_steps * SHARES_EVERY
        if step % interval == 0 or not self.shares or step == trainer.max_steps:
            norms, linear = module.loss_details()
            squares = {name: norm.square() for name, norm in norms.items()}
            norms = {name: mean.sqrt() for name, mean in _over_ranks(trainer, squares).items()}
            linear = _over_ranks(trainer, linear)
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


def _refuse_non_finite(means: dict[str, float], step: int) -> None:
    bad = [name for name, value in means.items() if not abs(value) < float("inf")]
    if bad:
        named = next((name for name in bad if name not in {"loss", "grad_norm"}), bad[0])
        where = named if named in {"loss", "grad_norm"} else f"loss.terms.{named}"
        judge = named == "adversarial" or named.startswith("d_")  # SR itself was finite
        rate = "discriminator_optimizer.lr" if judge else "optimizer.lr"
        clip = "model.discriminator_clip_norm" if judge else "model.clip_norm"
        raise DivergedError(
            f"`{named}` is not finite at step {step}",
            where=DISCRIMINATOR if judge else where,
            fix=f"lower {rate} or {clip}; the last checkpoint is intact",
        )
