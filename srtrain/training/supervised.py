"""The training step, in the order of the data: batch → lr → sr → loss → gradients → step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from srtrain.losses.precision import autocast_off
from srtrain.training.averaged import averaged_image
from srtrain.training.details import Last
from srtrain.training.examples import Augmentation, Example, Examples
from srtrain.training.stepping import add_share, evaluated, optimized, step_network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from srtrain.batch import Batch
    from srtrain.losses.weighted_sum import WeightedSum
    from srtrain.networks.generator import Generator
    from srtrain.training.stepping import MakeOptimizer, MakeScheduler
    from srtrain.training.validation import Validation

    Answer = tuple[Tensor, Tensor, Tensor | None]
    """Output, target, and the output of the averaged weights, where a term asks for it."""


class SupervisedSR(LightningModule):
    """``generator(lr)`` against ``target(hr)`` under a weighted sum of losses.

    One loader batch is one generator step is one unit of ``global_step``: with ``accumulate`` the
    batch is only split. ``degradation(hr, sample)`` fills in a missing ``lr``, so one module serves
    paired, bicubic and blind training; validation knows the plain ``hr`` alone. ``step_values``
    holds the last step's scalars on the device; who logs them decides when to fetch.
    """

    discriminator_steps = 0
    lr_factor = 1.0  # of every network's learning rate
    guarded = True  # False: `srtrain benchmark` measures what that costs
    cuda_graphs = False  # True: what a network gives is overwritten by the next step

    def __init__(
        self,
        *,
        generator: Generator,
        loss: WeightedSum,
        degradation: Callable[[Tensor, Tensor], Tensor],
        validation: Validation,
        optimizer: MakeOptimizer,
        scheduler: MakeScheduler,
        target: Callable[[Tensor], Tensor] | None = None,
        augment: Augmentation | None = None,
        accumulate: int = 1,
        clip_norm: float | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = generator.to(memory_format=torch.channels_last)
        self.loss = loss
        self.examples = Examples(
            degradation=degradation, target=target, augment=augment, accumulate=accumulate
        )
        self.validation = validation
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.clip_norm = clip_norm
        self.average: Mapping[str, Tensor] = {}  # of the generator's weights, where EMA keeps one
        self.step_values: dict[str, Tensor] = {}
        self.last: Last | None = None

    def forward(self, lr: Tensor) -> Tensor:
        """``generator(lr)``, nothing else."""
        sr: Tensor = self.generator(lr)
        return sr

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One step of the generator on one global batch."""
        self.train_generator(self.parts(batch))

    def parts(self, batch: Batch) -> list[Example]:
        """The micro-batches of this rank: a step begins."""
        if self.cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()
        return self.examples.parts(batch, step=self.global_step, first=self.global_rank)

    def train_generator(self, examples: Sequence[Example]) -> list[Tensor]:
        """One step on all micro-batches; returns the images made before it, detached."""
        made, values, count = [], dict[str, Tensor](), len(examples)
        for output, target, average in self.answers(examples):
            total, raw = self.compare(output, target, average)
            self.manual_backward(total / count if count > 1 else total)
            add_share(values, {"loss": total.detach(), **raw}, count)
            made.append(self.loss.point(output.detach()))
        shown = self.kept(output.detach().float())
        self.last = Last(shown, target, average, self.global_step)
        self.step_values = values | self.step_generator(values["loss"])
        return made

    def answers(self, examples: Sequence[Example]) -> Iterator[Answer]:
        """What the network gives and what it should be, one micro-batch after the other."""
        for example in examples:
            yield self.generator.raw(example.lr), example.target, self.averaged(example.lr)

    def kept(self, given: Tensor) -> Tensor:
        """What a network gave, to be looked at after the step."""
        return given.clone() if self.cuda_graphs else given

    def compare(
        self, output: Tensor, target: Tensor, average: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss and raw terms, in fp32 whatever the generator's precision."""
        with autocast_off(output.device):
            step = self.global_step
            total, raw = self.loss(output.float(), target.float(), step=step, average=average)
        return total, raw

    def averaged(self, lr: Tensor) -> Tensor | None:
        """The image of the averaged weights, where a term asks for it."""
        return averaged_image(self.generator, self.average, lr) if self.loss.needs_average else None

    def step_generator(self, loss: Tensor) -> dict[str, Tensor]:
        """Average over ranks, clip, step, schedule; returns what is to be told of that."""
        return step_network(self, self.generator, number=0, clip_norm=self.clip_norm, loss=loss)

    def loss_details(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Each weighted term's gradient norm at the output, and the robust terms' linear zones.

        Of the last step's own images, in evaluation mode: another forward in training mode would
        move the statistics of batch norm. A discriminator has taken its own step in between.
        """
        if self.last is None:
            raise RuntimeError("loss_details needs a training step first")
        with evaluated(self):
            return self.last.details(self.loss)

    def on_validation_epoch_start(self) -> None:
        """Forget the images of the last validation."""
        self.validation.start(self.device)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Measure images of one size; reduced over ranks at the end."""
        hr, lr = self.validated(dataloader_idx, batch)
        maps = self.validation.predict(self.generator, lr)
        sr = self.generator.point(maps)
        self.validation.add(dataloader_idx, batch, sr=sr, hr=hr, lr=lr, maps=maps)

    def validated(self, data: int, batch: Batch) -> tuple[Tensor, Tensor]:
        """``hr`` and ``lr`` of a batch of validation set ``data``; LR is kept, if there is room."""
        shown, kept = batch["hr"], self.validation.kept
        key = (data, shown.device, shown.shape, *batch["sample"].tolist())
        hr, lr = self.examples.pair(batch, lr=kept.get(key))
        kept.offer(key, lr)
        return hr, lr

    def on_validation_epoch_end(self) -> None:
        """Means per set, equal on every rank."""
        self.validation.finish(self.global_step)

    def configure_optimizers(self) -> Any:
        """Optimizer and schedule of each network, stepped by hand."""
        return (optimized(self, self.generator, self.make_optimizer, self.make_scheduler),)
