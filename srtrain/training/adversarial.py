"""The adversarial step: the generator's, then the discriminator's on the images made before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from srtrain.losses.precision import autocast_off
from srtrain.networks.discriminators.spectral import advance
from srtrain.training.examples import mixes
from srtrain.training.honesty import honesty
from srtrain.training.stepping import add_share, frozen, optimized, step_network
from srtrain.training.supervised import SupervisedSR

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from srtrain.batch import Batch
    from srtrain.losses.adversarial import Objective
    from srtrain.losses.weighted_sum import WeightedSum
    from srtrain.networks.discriminator import Discriminator
    from srtrain.networks.generator import Generator
    from srtrain.training.examples import Augmentation, Example
    from srtrain.training.stepping import MakeOptimizer, MakeScheduler
    from srtrain.training.validation import Validation

MOMENTUM = 0.1  # of the accuracy's average: the last ten steps or so


class AdversarialSR(SupervisedSR):
    """The supervised step, then one of a discriminator that tells ``sr`` from what is ``real``.

    What the generator wants of the discriminator is the term ``adversarial`` of its ``loss``. Until
    ``warmup_share`` of the steps it learns from ``pixel*`` terms alone. The discriminator learns
    from step ``discriminator_start``, and is heard no earlier unless it came from a file; with
    ``adaptive`` it pauses (and waits for the device) while its average accuracy is above
    ``adaptive_above``. ``real`` images are the ``target``, or ``hr`` where that was sharpened.
    """

    accuracy: Tensor

    def __init__(
        self,
        *,
        generator: Generator,
        loss: WeightedSum,
        degradation: Callable[[Tensor, Tensor], Tensor],
        validation: Validation,
        optimizer: MakeOptimizer,
        scheduler: MakeScheduler,
        discriminator: Discriminator,
        objective: Objective,
        discriminator_optimizer: MakeOptimizer,
        downscale: Callable[[Tensor], Tensor],
        seed: int,
        target: Callable[[Tensor], Tensor] | None = None,
        augment: Augmentation | None = None,
        accumulate: int = 1,
        clip_norm: float | None = None,
        real: Literal["target", "hr"] = "target",
        warmup_share: float = 0.0,
        discriminator_start: int = 0,
        discriminator_clip_norm: float | None = None,
        adaptive: bool = False,
        adaptive_above: float = 0.95,
    ) -> None:
        super().__init__(
            generator=generator,
            loss=loss,
            degradation=degradation,
            validation=validation,
            optimizer=optimizer,
            scheduler=scheduler,
            target=target,
            augment=augment,
            accumulate=accumulate,
            clip_norm=clip_norm,
        )
        self.discriminator = discriminator.to(memory_format=torch.channels_last)
        self.objective = objective
        self.make_discriminator_optimizer = discriminator_optimizer
        self.downscale, self.told = downscale, validation.metrics.consistency
        self.seed, self.real = seed, real
        self.warmup_share, self.discriminator_start = warmup_share, discriminator_start
        self.discriminator_clip_norm = discriminator_clip_norm
        self.adaptive_above = adaptive_above if adaptive else None
        self.register_buffer("accuracy", torch.tensor(0.5))
        self.last_logits: tuple[Tensor, Tensor] | None = None  # real, fake

    def on_fit_start(self) -> None:
        """Now the number of steps is known, and with it when the generator hears what."""
        self.loss.pixels_first(round(self.warmup_share * self.trainer.max_steps))
        if not self.discriminator.trained:
            self.loss.not_before(self.discriminator_start, ["adversarial"])

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One step of the generator, then one of the discriminator, on one global batch."""
        examples, step, learns = self.parts(batch), self.global_step, self.learns()
        with frozen(self.discriminator):
            made = self.train_generator(examples)
        self.train_discriminator(made, examples, step=step, learns=learns)

    def learns(self) -> bool:
        """Whether the discriminator has begun, and does not win too often."""
        begun, above = self.global_step >= self.discriminator_start, self.adaptive_above
        return begun and (above is None or float(self.accuracy) <= above)

    def train_discriminator(
        self, made: Sequence[Tensor], examples: Sequence[Example], *, step: int, learns: bool
    ) -> None:
        """One step on all micro-batches, or a mere look at them; adds to ``step_values``."""
        values = dict[str, Tensor]()
        of_rank = {"rank": self.global_rank, "ranks": self.trainer.world_size}
        drawn = mixes(self.seed, step, examples, **of_rank)
        for sr, example, mix in zip(made, examples, drawn, strict=True):
            hr = example.target if self.real == "target" else example.hr
            with torch.set_grad_enabled(learns):
                fake, real = self.discriminator(sr), self.discriminator(hr)
                total = self.objective.discriminator(fake=fake, real=real)
            if learns:
                self.manual_backward((total + self.penalty(hr=hr, sr=sr, mix=mix)) / len(examples))
            right = self.objective.accuracy(fake=fake, real=real)
            self.last_logits = self.kept(real.detach()), self.kept(fake.detach())
            figures = {"d_loss": total.detach(), **honesty(sr, example, self.downscale, self.told)}
            figures |= zip(("d_accuracy_real", "d_accuracy_fake"), right, strict=True)
            add_share(values, figures, len(examples))
        limit, loss = self.discriminator_clip_norm, values["d_loss"]
        told = step_network(self, self.discriminator, number=1, clip_norm=limit, loss=loss)
        if learns:
            self.discriminator_steps += 1
            advance(self.discriminator)
        if self.adaptive_above is not None:
            seen = values["d_accuracy_real"].lerp(values["d_accuracy_fake"], 0.5)
            self.accuracy.lerp_(self.trainer.strategy.reduce(seen, reduce_op="mean"), MOMENTUM)
        self.step_values |= values | {f"d_{name}": value for name, value in told.items()}

    def penalty(self, *, hr: Tensor, sr: Tensor, mix: Tensor) -> Tensor | float:
        """What regularises the discriminator at this step of its own, in fp32."""
        judge, step = self.discriminator.net, self.discriminator_steps
        with autocast_off(hr.device):
            penalty = self.objective.penalty(judge, hr=hr, sr=sr, step=step, mix=mix)
        return 0.0 if penalty is None else penalty

    def configure_optimizers(self) -> Any:
        """Optimizer and schedule of each network, stepped by hand; the schedules are the same."""
        make, schedule = self.make_discriminator_optimizer, self.make_scheduler
        judge = optimized(self, self.discriminator, make, schedule)
        return (*super().configure_optimizers(), judge)
