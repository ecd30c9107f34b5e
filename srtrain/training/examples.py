"""From a loader's batch to what a step learns from: floats, lr, augmentation, target, parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from srtrain.batch import Batch, to_float
from srtrain.rng import generator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Example(NamedTuple):
    """One micro-batch: ``generator(lr)`` is compared with ``target``, the truth is ``hr``."""

    lr: Tensor
    hr: Tensor
    target: Tensor


class Augmentation(Protocol):
    """Changes whole batches, keyed by the step and each row's position in the global batch."""

    def __call__(self, hr: Tensor, lr: Tensor, *, step: int, first: int) -> tuple[Tensor, Tensor]:
        """Other ``hr`` and ``lr`` of the same shapes."""


class Examples(nn.Module):
    """``degradation(hr, sample)`` if ``lr`` is missing, then ``augment``, then ``target(hr)``."""

    def __init__(
        self,
        *,
        degradation: Callable[[Tensor, Tensor], Tensor],
        target: Callable[[Tensor], Tensor] | None = None,
        augment: Augmentation | None = None,
        accumulate: int = 1,
    ) -> None:
        super().__init__()
        self.degradation = degradation
        self.target = target
        self.augment = augment
        self.accumulate = accumulate

    def pair(self, batch: Batch, *, lr: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``hr`` and ``lr`` as floats in [0, 1], channels last; for training and validation.

        ``lr``: as an earlier call made it of this batch.
        """
        hr = to_float(batch["hr"])
        if lr is None:
            lr = to_float(batch["lr"]) if "lr" in batch else self.degradation(hr, batch["sample"])
        layout = torch.channels_last
        return hr.contiguous(memory_format=layout), lr.contiguous(memory_format=layout)

    def parts(self, batch: Batch, *, step: int, first: int) -> list[Example]:
        """The batch in ``accumulate`` equal micro-batches; ``first``: this rank's first row."""
        hr, lr = self.pair(batch)
        if self.augment is not None:
            hr, lr = self.augment(hr, lr, step=step, first=first)
        target = hr if self.target is None else self.target(hr)
        if self.accumulate == 1:
            return [Example(lr, hr, target)]
        split = (image.chunk(self.accumulate) for image in (lr, hr, target))
        return [Example(*part) for part in zip(*split, strict=True)]


def mixes(
    seed: int, step: int, examples: Sequence[Example], *, rank: int, ranks: int
) -> Sequence[Tensor]:
    """(B, 1, 1, 1) in [0, 1) per micro-batch: this rank's rows of the global batch's draw.

    Row j of rank r is row ``j · ranks + r`` of all, as ``EndlessBatches`` deals them.
    """
    count, device = sum(len(example.hr) for example in examples), examples[0].hr.device
    drawn = generator(seed, step, "mix").random((count * ranks, 1, 1, 1), dtype=np.float32)
    own = torch.from_numpy(drawn[rank::ranks].copy()).to(device, non_blocking=True)
    return own.chunk(len(examples))
