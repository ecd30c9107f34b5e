"""A resumed run trains as it is configured now, not as it was when the checkpoint was written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Callback
from torch.optim.lr_scheduler import LambdaLR

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning.pytorch import LightningModule, Trainer
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

OF = ("learning rate", "the discriminator's")


class Reconfigure(Callback):
    """After the optimizer's state is loaded, its options are again those of the configuration.

    A checkpoint brings moments and counters, and with them the options of its day: learning rate,
    betas, weight decay, the schedule's base. With an unchanged configuration nothing changes, not
    by a bit; with another ``max_steps`` the schedule is rescaled from the first step on. A learning
    rate that changes by that is said, before and after.
    """

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        super().__init__()
        self.say = say or (lambda line: None)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the options of newly made optimizers and schedules, one of each per network."""
        configured: Any = pl_module.configure_optimizers()
        before = _rates(trainer)
        loaded = zip(trainer.optimizers, trainer.lr_scheduler_configs, strict=True)
        for (optimizer, schedule), new in zip(loaded, configured, strict=True):
            reconfigure(
                optimizer,
                schedule.scheduler,
                as_optimizer=new["optimizer"],
                as_scheduler=new["lr_scheduler"],
            )
        for name, old, rate in zip(OF, before, _rates(trainer), strict=False):
            if old != rate:
                self.say(f"{name} at step {trainer.global_step}: {old:.3g} → {rate:.3g}")


def _rates(trainer: Trainer) -> list[float]:
    return [float(optimizer.param_groups[0]["lr"]) for optimizer in trainer.optimizers]


def reconfigure(
    optimizer: Optimizer,
    scheduler: LRScheduler,
    *,
    as_optimizer: Optimizer,
    as_scheduler: LRScheduler,
) -> None:
    """Give a loaded optimizer and scheduler the options of two new ones; state and step stay.

    The present learning rate is ``base · factor(step)`` of a LambdaLR, as all of ``conf/scheduler``
    are; that of another scheduler is scaled as its base is.
    """
    before, scheduler.base_lrs = scheduler.base_lrs, list(as_scheduler.base_lrs)
    groups = optimizer.param_groups
    if isinstance(scheduler, LambdaLR):
        factors = [factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas]
        rates = [base * factor for base, factor in zip(scheduler.base_lrs, factors, strict=True)]
    else:
        ratios = [now / old for now, old in zip(scheduler.base_lrs, before, strict=True)]
        rates = [group["lr"] * ratio for group, ratio in zip(groups, ratios, strict=True)]
    for group, configured, rate in zip(groups, as_optimizer.param_groups, rates, strict=True):
        group.update({key: value for key, value in configured.items() if key != "params"})
        group["lr"] = rate
    scheduler._last_lr = rates
