"""The training step, in the order of the data: batch → lr → sr → loss → gradients → step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from srtrain.batch import Batch, to_float
from srtrain.training.strategy import average_gradients

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lightning.pytorch.core.optimizer import LightningOptimizer
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from srtrain.losses.weighted_sum import WeightedSum
    from srtrain.networks.generator import Generator
    from srtrain.training.validation import Validation


class SupervisedSR(LightningModule):
    """``generator(lr)`` against ``hr`` under a weighted sum of losses.

    One loader batch is one generator step is one unit of ``global_step``: with ``accumulate`` the
    batch is only split. ``degradation(hr, sample)`` fills in a missing ``lr``, so one module serves
    paired, bicubic and blind training. ``step_values`` holds the last step's scalars on the
    device; who logs them decides when to fetch.
    """

    def __init__(
        self,
        *,
        generator: Generator,
        loss: WeightedSum,
        degradation: Callable[[Tensor, Tensor], Tensor],
        validation: Validation,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        scheduler: Callable[..., LRScheduler],
        accumulate: int = 1,
        clip_norm: float | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = generator.to(memory_format=torch.channels_last)
        self.loss = loss
        self.degradation = degradation
        self.validation = validation
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.accumulate = accumulate
        self.clip_norm = clip_norm
        self.step_values: dict[str, Tensor] = {}
        self.last_images: tuple[Tensor, Tensor] | None = None

    def forward(self, lr: Tensor) -> Tensor:
        """``generator(lr)``, nothing else."""
        sr: Tensor = self.generator(lr)
        return sr

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One step of the generator on one global batch."""
        hr, lr = self.images(batch)
        parts: dict[str, Tensor] = {}
        for hr_part, lr_part in zip(
            hr.chunk(self.accumulate), lr.chunk(self.accumulate), strict=True
        ):
            sr = self.generator(lr_part)
            total, raw = self.compare(sr, hr_part)
            self.manual_backward(total / self.accumulate)
            for name, value in {"loss": total.detach(), **raw}.items():
                parts[name] = parts.get(name, 0.0) + value / self.accumulate
        self.last_images = sr.detach(), hr_part
        parts["grad_norm"] = self.step_generator()
        self.step_values = parts

    def images(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The batch as floats in [0, 1], channels last; ``lr`` made here unless it was given."""
        hr = to_float(batch["hr"])
        lr = to_float(batch["lr"]) if "lr" in batch else self.degradation(hr, batch["sample"])
        layout = torch.channels_last
        return hr.contiguous(memory_format=layout), lr.contiguous(memory_format=layout)

    def compare(self, sr: Tensor, hr: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss and raw terms, in fp32 whatever the generator's precision."""
        with torch.autocast(sr.device.type, enabled=False):
            total, raw = self.loss(sr.float(), hr.float())
        return total, raw

    def step_generator(self) -> Tensor:
        """Average over ranks, clip, step, schedule; returns the gradient's norm before clipping."""
        optimizer: LightningOptimizer = self.optimizers()  # type: ignore[assignment]
        average_gradients(self.trainer.strategy, self.generator)
        limit = self.clip_norm if self.clip_norm is not None else float("inf")
        norm = nn.utils.clip_grad_norm_(self.generator.parameters(), limit)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.lr_schedulers().step()  # type: ignore[union-attr]
        return norm.detach()

    def loss_details(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Each weighted term's gradient norm at the output, and the robust terms' linear zones.

        Of the last step's own images: another forward in training mode would move the statistics
        of batch norm.
        """
        if self.last_images is None:
            raise RuntimeError("loss_details needs a training step first")
        sr, hr = self.last_images
        return self.loss.gradient_shares(sr.float(), hr), self.loss.linear_shares(sr.float(), hr)

    def on_validation_epoch_start(self) -> None:
        """Forget the images of the last validation."""
        self.validation.start(self.device)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Measure one image, in fp32 as `infer` computes it; reduced over ranks at the end."""
        hr, lr = self.images(batch)
        with torch.autocast(self.device.type, enabled=False):
            sr = self.generator(lr)
        self.validation.add(dataloader_idx, batch, sr=sr.float(), hr=hr, lr=lr)

    def on_validation_epoch_end(self) -> None:
        """Means per set, equal on every rank."""
        self.validation.finish(self.global_step)

    def configure_optimizers(self) -> Any:
        """The generator's optimizer and schedule, stepped by hand."""
        optimizer = self.make_optimizer(p for p in self.generator.parameters() if p.requires_grad)
        scheduler = self.make_scheduler(optimizer, max_steps=self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}
