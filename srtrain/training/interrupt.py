"""Ctrl-C, SIGTERM, SIGUSR1: finish the step, save, leave with a code that says so."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback

from srtrain.errors import InterruptedRunError, PreemptedError, SrtrainError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from lightning.pytorch import LightningModule, Trainer

    from srtrain.training.checkpointing import Checkpointing

LEAVE: dict[int, type[SrtrainError]] = {
    signal.SIGINT: InterruptedRunError,
    signal.SIGTERM: PreemptedError,
    signal.SIGUSR1: PreemptedError,  # Slurm, some time before the limit
}


class Interrupt(Callback):
    """A signal only sets a flag; the end of a batch saves and leaves by an own exception.

    Installed in ``on_train_start``, after Lightning's own handlers. Ranks agree on the step by an
    asynchronous MAX all-reduce, launched after one step and read after the next, so that nobody
    waits for it. A second signal during the save is ignored: the save is finished.

    A validation outside training (at step 0, or of the finished run) has nothing to save, and is
    left at once.
    """

    def __init__(self, checkpointing: Checkpointing) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self._received = 0
        self._previous: dict[int, Any] = {}
        self._group: dist.ProcessGroup | None = None
        self._asked: tuple[dist.Work, torch.Tensor] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals."""
        self._listen(self._note)
        if trainer.world_size > 1:
            self._group = cast("dist.ProcessGroup", dist.new_group(backend="gloo"))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and leave if a signal came, to whichever rank."""
        received = self._received if self._group is None else self._highest(self._group)
        if not received:
            return
        step = trainer.global_step
        if self.checkpointing.last_step != step:
            self.checkpointing.save(trainer)
        raise LEAVE[received](f"stopped by {signal.Signals(received).name}, saved step {step}")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Outside training: leave as soon as a signal comes."""
        if trainer.state.fn == "validate":
            self._listen(self._leave)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Outside training: give the signals back."""
        if trainer.state.fn == "validate":
            self._restore()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back."""
        self._restore()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Give the signals back."""
        self._restore()

    def _highest(self, group: dist.ProcessGroup) -> int:
        """The largest signal number that any rank had after the step before."""
        answer = 0
        if self._asked is not None:
            work, flag = self._asked
            work.wait()
            answer = int(flag)
        flag = torch.tensor(self._received)
        work = dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=group, async_op=True)
        self._asked = (work, flag)
        return answer

    def _listen(self, handler: Callable[[int, FrameType | None], None]) -> None:
        self._previous = {number: signal.signal(number, handler) for number in LEAVE}

    def _leave(self, number: int, frame: FrameType | None) -> None:
        raise LEAVE[number](f"stopped by {signal.Signals(number).name} while measuring")

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = number

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
