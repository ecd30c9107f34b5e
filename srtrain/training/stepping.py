"""One step of one network: average over ranks, clip, step, schedule."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from srtrain.training.guards import refuse, spoil
from srtrain.training.strategy import average_gradients

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from torch import Tensor
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from srtrain.training.supervised import SupervisedSR

    MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
    MakeScheduler = Callable[..., LRScheduler]


CLIP_EPS = 1e-6  # as torch.nn.utils.clip_grad_norm_ has it


def optimized(
    module: SupervisedSR, network: nn.Module, make: MakeOptimizer, schedule: MakeScheduler
) -> dict[str, Any]:
    """The optimizer of one network and its schedule, as Lightning wants to hear of them."""
    optimizer = make(p for p in network.parameters() if p.requires_grad)
    for group in optimizer.param_groups:
        group["lr"] *= module.lr_factor
    max_steps = module.trainer.max_steps
    return {"optimizer": optimizer, "lr_scheduler": schedule(optimizer, max_steps=max_steps)}


def step_network(
    module: SupervisedSR,
    network: nn.Module,
    *,
    number: int,
    clip_norm: float | None,
    loss: Tensor,
) -> dict[str, Tensor]:
    """Step the optimizer and schedule ``number``, unless ``loss`` or gradient is not finite.

    Number 0 is the generator's: it steps through Lightning, whose ``global_step`` counts it. All
    others step torch's own optimizer. Without gradients a step changes nothing but the schedule.

    Returns: ``grad_norm`` before clipping, and ``skipped``: 1 if the optimizer did nothing, else 0.
    """
    made: Any = module.optimizers(), module.lr_schedulers()
    optimizer, scheduler = (it[number] if isinstance(it, list) else it for it in made)
    own: Any = getattr(optimizer, "optimizer", optimizer)
    # To walk through the network would cost as much as the step of a small one.
    parameters = [p for group in own.param_groups for p in group["params"]]
    gradients = [p.grad for p in parameters if p.grad is not None]
    guarded = bool(gradients) and module.guarded
    if guarded:
        spoil(gradients, loss)
    average_gradients(module.trainer.strategy, network)
    norm = _norm(gradients, parameters[0])
    if clip_norm is not None and gradients:
        torch._foreach_mul_(gradients, (clip_norm / (norm + CLIP_EPS)).clamp(max=1.0))
    skipped = refuse(own, norm) if guarded else torch.zeros_like(norm)
    (optimizer if number == 0 else own).step()
    for parameter in parameters:
        parameter.grad = None
    scheduler.step()
    return {"grad_norm": norm, "skipped": skipped}


def _norm(gradients: list[Tensor], like: Tensor) -> Tensor:
    """Euclidean, over all of them; of none it is 0, and lies where the network does."""
    if not gradients:
        return torch.zeros((), device=like.device)
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
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
    if count == 1:
        values.update(part)
        return
    for name, value in part.items():
        values[name] = values.get(name, 0.0) + value / count
