"""Exponential moving average of the generator, buffers included."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor, nn

    from srtrain.training.supervised import SupervisedSR


class EMA(Callback):
    """``average = d · average + (1 - d) · weights`` after every generator step.

    d grows as ``min(decay, (1 + n) / (10 + n))``, so that short runs are not dominated by their
    initial weights. Validation, pictures and the checkpoint's ``state_dict`` use the average;
    training never does. Lightning's own copies the whole module and counts optimizer steps.

    Source: Polyak & Juditsky 1992; the warm-up is TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, *, decay: float) -> None:
        super().__init__()
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay = {decay} must lie in [0, 1); 0.999 is usual")
        self.decay = decay
        self.num_updates = 0
        self.average: dict[str, Tensor] = {}
        self._raw: dict[str, Tensor] = {}
        self._floating: tuple[list[Tensor], list[Tensor]] = [], []
        self._counters: list[tuple[Tensor, Tensor]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with the weights as they are, unless a checkpoint brought an average."""
        live = _state(pl_module)
        if self.average:
            self.average = {k: v.to(live[k].device) for k, v in self.average.items()}
        else:
            self.average = {k: v.detach().clone() for k, v in live.items()}
        module: SupervisedSR = pl_module  # type: ignore[assignment]
        module.average = self.average  # a term of the loss may compare with its image
        # Views of the weights: optimizers write in place, so they need no second look-up.
        names = [name for name, value in live.items() if value.is_floating_point()]
        self._floating = [self.average[name] for name in names], [live[name] for name in names]
        rest = live.keys() - set(names)
        self._counters = [(self.average[name], live[name]) for name in rest]

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the average one step."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        averages, weights = self._floating
        torch._foreach_lerp_(averages, weights, 1.0 - decay)
        for kept, counter in self._counters:
            kept.copy_(counter)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the average in place of the weights."""
        if self.average and not self._raw:
            live = _state(pl_module)
            self._raw = {name: value.detach().clone() for name, value in live.items()}
            _overwrite(live, self.average)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the weights back."""
        if self._raw:
            _overwrite(_state(pl_module), self._raw)
            self._raw = {}

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Put the weights back also when validation is interrupted."""
        self.on_validation_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The average and its age, for resuming."""
        return {"average": dict(self.average), "num_updates": self.num_updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue an earlier average."""
        self.average = dict(state_dict["average"])
        self.num_updates = int(state_dict["num_updates"])


def _state(pl_module: LightningModule) -> dict[str, Tensor]:
    network: nn.Module = pl_module.generator.net  # type: ignore[assignment, union-attr]
    return network.state_dict()


@torch.no_grad()
def _overwrite(target: dict[str, Tensor], source: dict[str, Tensor]) -> None:
    for name, value in target.items():
        value.copy_(source[name])
