"""One step of one network: average over ranks, clip, step, schedule."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from srtrain.training.strategy import average_gradients

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from lightning.pytorch import LightningModule
    from torch import Tensor
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
    MakeScheduler = Callable[..., LRScheduler]


def optimized(
    network: nn.Module, make: MakeOptimizer, schedule: MakeScheduler, *, max_steps: int
) -> dict[str, Any]:
    """The optimizer of one network and its schedule, as Lightning wants to hear of them."""
    optimizer = make(p for p in network.parameters() if p.requires_grad)
    return {"optimizer": optimizer, "lr_scheduler": schedule(optimizer, max_steps=max_steps)}


def step_network(
    module: LightningModule, network: nn.Module, *, number: int, clip_norm: float | None
) -> Tensor:
    """Step the optimizer and schedule ``number``; the gradient's norm before clipping.

    Number 0 is the generator's: it steps through Lightning, whose ``global_step`` counts it. All
    others step torch's own optimizer. Without gradients a step changes nothing but the schedule.
    """
    made: Any = module.optimizers(), module.lr_schedulers()
    optimizers, schedulers = (it if isinstance(it, list) else [it] for it in made)
    average_gradients(module.trainer.strategy, network)
    limit = clip_norm if clip_norm is not None else float("inf")
    norm = nn.utils.clip_grad_norm_(network.parameters(), limit)
    # Of no gradients at all the norm is torch's constant 0, made on the CPU.
    norm = norm.detach().to(next(network.parameters()).device, non_blocking=True)
    optimizer = optimizers[number] if number == 0 else optimizers[number].optimizer
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    schedulers[number].step()
    return norm


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Within, gradients flow through ``network`` and none is kept for its parameters."""
    learning = [p for p in network.parameters() if p.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


@contextmanager
def evaluated(network: nn.Module) -> Iterator[None]:
    """Within, all of ``network`` is in evaluation mode: to look at it moves no statistics."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def add_share(values: dict[str, Tensor], part: Mapping[str, Tensor], count: int) -> None:
    """Add one of ``count`` equal micro-batches to the means ``values``, in place."""
    for name, value in part.items():
        values[name] = values.get(name, 0.0) + value / count
