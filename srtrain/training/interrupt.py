"""Ctrl-C, SIGTERM, SIGUSR1, SIGHUP during training: finish the step, save, leave."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback

from srtrain.errors import DistributedError, Stopped
from srtrain.training.ema import EMA

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from srtrain.training.checkpointing import Checkpointing


class Signals(Protocol):
    """What ``srtrain.cli.process`` knows: whether to stop, and whether somebody waits to save."""

    patient: bool
    saved: str

    def stop_requested(self) -> int:
        """The number of the signal that asks the run to stop, or 0."""


class Interrupt(Callback):
    """Between steps it asks whether the run shall stop; then it saves and raises ``Stopped``.

    Ranks agree on the step by an asynchronous MAX all-reduce, launched after one step and read
    after the next, so that nobody waits for it; it also tells whether all had the same batch. One
    process alone leaves a validation between two images; the run that is continued begins with it.
    Outside training nothing is to be saved: there signals stop the run at once.

    Raises: DistributedError when the ranks are not at the same step or batch.
    """

    def __init__(self, checkpointing: Checkpointing, signals: Signals) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.signals = signals
        self._group: dist.ProcessGroup | None = None
        self._asked: tuple[dist.Work, torch.Tensor] | None = None
        self._first = 0  # sample of the global batch

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on there is something to save."""
        self.signals.patient = True
        if trainer.world_size > 1:
            led, own = trainer.strategy.broadcast(trainer.global_step), trainer.global_step
            if led != own:  # a file system that is late, or damaged on one node
                what = f"rank 0 goes on from step {led}, rank {trainer.global_rank} from {own}"
                raise DistributedError(f"{what}: they see different checkpoints")
            self._group = cast("dist.ProcessGroup", dist.new_group(backend="gloo"))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and leave if a signal came, to whichever rank."""
        if self._group is not None:
            self._first = int(batch["sample"].min()) - trainer.global_rank
        number = self._highest()
        if number:
            self._leave(trainer, number)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Save and leave, with the weights that training goes on with."""
        number = self.signals.stop_requested()
        if not number or trainer.state.fn != "fit" or trainer.world_size > 1:
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EMA):
                callback.on_validation_end(trainer, pl_module)
        self._leave(trainer, number)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave if a signal came too late for that; the last step is saved."""
        self._highest()
        number = self._highest()  # what all ranks have received by now
        if number:
            self._leave(trainer, number)
        self._say()
        self.signals.patient = False

    def _leave(self, trainer: Trainer, number: int) -> None:
        if self.checkpointing.saved_at != trainer.global_step:
            self.checkpointing.save(trainer)
        self.checkpointing.flush()
        self._say()
        raise Stopped(number)

    def _say(self) -> None:
        step = self.checkpointing.last_step
        self.signals.saved = "nothing could be saved" if step is None else f"saved step {step}"

    def _highest(self) -> int:
        """The largest signal number that any rank had when this was called the time before."""
        if self._group is None:
            return self.signals.stop_requested()
        answer = 0
        if self._asked is not None:
            work, flag = self._asked
            work.wait()
            answer, most, least = flag.tolist()
            if most != -least:
                raise DistributedError(
                    f"ranks are at different batches: one begins at sample {-least}, one at {most}"
                )
        flag = torch.tensor([self.signals.stop_requested(), self._first, -self._first])
        work = dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
        self._asked = (work, flag)
        return answer
