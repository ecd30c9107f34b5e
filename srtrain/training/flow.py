"""The step of a flow: a half-made image at a random moment, which way it should move, one MSE."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from srtrain.errors import ConfigError
from srtrain.losses.precision import Precision, narrowed
from srtrain.networks.flow import Flow
from srtrain.rng import generator as numbers
from srtrain.rng import noise
from srtrain.training.supervised import SupervisedSR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from srtrain.losses.weighted_sum import WeightedSum
    from srtrain.networks.generator import Generator
    from srtrain.training.examples import Augmentation, Example
    from srtrain.training.stepping import MakeOptimizer, MakeScheduler
    from srtrain.training.supervised import Answer
    from srtrain.training.validation import Validation


class FlowSR(SupervisedSR):
    """The supervised step, on velocities instead of images.

    ``generator.net`` is a ``Flow``: it says where images come from and what is told of them. Moment
    and noise of each row are drawn from (seed, step, position in the global batch); the moments of
    a global batch are spread evenly over [0, 1), one in each of its equal parts. Validation looks
    at sample 0 of seed 0, in all of ``generator.steps``.

    ``mean_precision``: of the frozen mean's convolutions in a step. ``auto`` is bfloat16 on CPUs
    that multiply matrices of it (half to a third of the time; the error is some -60 dB, that of
    noise of 0.001), elsewhere what the run has. Samples are made in the precision of the run.

    Raises: ConfigError for a generator that is no flow.
    """

    def __init__(
        self,
        *,
        generator: Generator,
        loss: WeightedSum,
        degradation: Callable[[Tensor, Tensor], Tensor],
        validation: Validation,
        optimizer: MakeOptimizer,
        scheduler: MakeScheduler,
        seed: int,
        target: Callable[[Tensor], Tensor] | None = None,
        augment: Augmentation | None = None,
        accumulate: int = 1,
        clip_norm: float | None = None,
        mean_precision: Precision = "auto",
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
        self.seed, self.mean_precision = seed, mean_precision
        flow_of(generator)

    @property
    def flow(self) -> Flow:
        """The flow in the generator; no module of its own, or a checkpoint would hold it twice."""
        return flow_of(self.generator)

    def answers(self, examples: Sequence[Example]) -> Iterator[Answer]:
        """Velocities and what they should be, one micro-batch after the other."""
        step, rank, ranks = self.global_step, self.global_rank, self.trainer.world_size
        times, samples = drawn(self.seed, step, examples, rank=rank, ranks=ranks)
        for example, t, own in zip(examples, times, samples, strict=True):
            hr, lr = example.target, example.lr
            field = unit_noise(hr, seed=self.seed, samples=own)
            with narrowed(lr.device, self.mean_precision):
                mean = self.flow.mean_of(lr)
            output, target = self.flow.learn(hr, lr, t=t, noise=field, mean=mean)
            yield output, target, None


def unit_noise(hr: Tensor, *, seed: int, samples: Tensor) -> Tensor:
    """Noise for each row of ``hr``, keyed by ``samples``; channels last, as networks are given it.

    Shapes: hr (B, C, H, W) -> (B, C, H, W).
    """
    _, channels, height, width = hr.shape
    shape = (height, width, channels)
    field = noise(shape, seed=seed, samples=samples, stage="flow", device=hr.device)
    return field.permute(0, 3, 1, 2)


def drawn(
    seed: int, step: int, examples: Sequence[Example], *, rank: int, ranks: int
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """For each micro-batch, moments (B,) on its device, and the numbers its noise is keyed by.

    Row j of rank r is row ``j · ranks + r`` of all, as ``EndlessBatches`` deals them. Of row p of N
    the moment lies in the p-th N-th of [0, 1), and the number is ``step · N + p``.
    """
    count, device = sum(len(example.hr) for example in examples), examples[0].hr.device
    places = np.arange(rank, count * ranks, ranks)
    within = numbers(seed, step, "flow time").random(count * ranks, dtype=np.float32)[places]
    t = torch.from_numpy(((places + within) / (count * ranks)).astype(np.float32))
    samples = torch.from_numpy(step * count * ranks + places)
    times = t.to(device, non_blocking=True)
    return times.chunk(len(examples)), samples.chunk(len(examples))


def flow_of(generator: Generator) -> Flow:
    """The flow in ``generator``.

    Raises: ConfigError where there is none.
    """
    if isinstance(generator.net, Flow):
        return generator.net
    what = f"model=flow learns velocities, {generator.architecture} predicts images"
    raise ConfigError(what, where="generator", fix="choose generator=flow | flow_lite")
