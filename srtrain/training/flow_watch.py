"""Watches the samples of a flow, as validation measured them: do they fall back to the mean?"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from lightning.pytorch.callbacks import Callback

from srtrain.training.alarms import fallen_back
from srtrain.training.flow import flow_of

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from srtrain.training.records import Records
    from srtrain.training.supervised import SupervisedSR


class FlowWatch(Callback):
    """Says it on stderr at the end of training, and keeps it in ``summary.json``.

    Earlier rounds do not count: a velocity that has not learnt to move anything yet leaves the
    source as it is, which is the mean.
    """

    def __init__(self, records: Records) -> None:
        super().__init__()
        self.records = records

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the mean ``rtm`` of the sets; on every rank, told by the first."""
        module: SupervisedSR = pl_module  # type: ignore[assignment]
        step, rtm = trainer.global_step, module.validation.mean("rtm")
        if rtm is None or step < trainer.max_steps:
            return
        alarm = fallen_back(rtm, steps=flow_of(module.generator).steps)
        if alarm is None:
            return
        self.records.alarms[alarm.name] = {"step": step, "last_step": step, "says": alarm.says}
        if trainer.is_global_zero:
            sys.stderr.write(f"srtrain: alarm: {alarm.name} · {alarm.says}\n")
