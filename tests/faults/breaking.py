"""What makes a run's losses, images and gradients not finite, and what is then compared."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from srtrain.networks.storage import read_checkpoint
from srtrain.training import supervised
from srtrain.training.adversarial import AdversarialSR
from srtrain.training.supervised import SupervisedSR

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    import pytest

    from srtrain.training.run_folder import RunFolder

    When = Callable[[SupervisedSR], bool]  # asked before the generator's step
    Break = Callable[[pytest.MonkeyPatch, When], None]

STEPS = 12
BROKEN = 8  # as metrics.csv counts them
ADVERSARY = (
    "discriminator=patchgan",
    "discriminator.n_layers=1",
    "discriminator.base_channels=8",
    "discriminator_optimizer.lr=1e-4",
    "loss.weights.adversarial=0.01",
)


def _compare(patch: pytest.MonkeyPatch, change: Callable[[SupervisedSR, Tensor], Tensor]) -> None:
    whole = SupervisedSR.compare

    def changed(self: SupervisedSR, *images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        total, raw = whole(self, *images)
        total = change(self, total)
        return total, raw if total.isfinite() else raw | {"pixel": total.detach()}

    patch.setattr(SupervisedSR, "compare", changed)


def break_term(patch: pytest.MonkeyPatch, when: When) -> None:
    """The value alone: every gradient stays finite."""
    _compare(patch, lambda module, total: total + math.nan if when(module) else total)


def break_half(patch: pytest.MonkeyPatch, when: When) -> None:
    """The second micro-batch."""
    seen: list[None] = []

    def change(module: SupervisedSR, total: Tensor) -> Tensor:
        seen.extend([None] if when(module) else [])
        return total * math.inf if when(module) and len(seen) == 2 else total

    _compare(patch, change)


def break_image(patch: pytest.MonkeyPatch, when: When) -> None:
    whole = SupervisedSR.parts

    def parts(self: SupervisedSR, batch: Any) -> list[Any]:  # noqa: ANN401
        made = whole(self, batch)
        for example in made if when(self) else []:
            example.lr[0, 0, 0, 0] = math.nan
        return made

    patch.setattr(SupervisedSR, "parts", parts)


def break_gradient(patch: pytest.MonkeyPatch, when: When) -> None:
    _step(patch, supervised, when, lambda gradient: gradient.fill_(math.inf))


def break_judge(patch: pytest.MonkeyPatch, when: When) -> None:
    """What regularises the discriminator; its loss and the generator's stay finite."""
    whole = AdversarialSR.penalty

    def penalty(self: AdversarialSR, **images: Tensor) -> Tensor | float:
        bad = when(self)
        made = whole(self, **images)
        logits: Tensor = self.discriminator(images["hr"])
        return made + logits.mean() * (math.nan if bad else 0.0)

    patch.setattr(AdversarialSR, "penalty", penalty)


def _step(
    patch: pytest.MonkeyPatch,
    place: ModuleType,
    when: When,
    change: Callable[[Tensor], Tensor | None],
) -> None:
    whole = place.step_network

    def step_network(
        module: SupervisedSR, network: nn.Module, **options: object
    ) -> dict[str, Tensor]:
        for parameter in network.parameters() if when(module) else ():
            if parameter.grad is not None:
                parameter.grad = change(parameter.grad)
        told: dict[str, Tensor] = whole(module, network, **options)
        return told

    patch.setattr(place, "step_network", step_network)


def skip(patch: pytest.MonkeyPatch, place: ModuleType, when: When) -> None:
    """Take no step there, for no reason that anybody could see."""
    _step(patch, place, when, lambda _: None)


def at(step: int, of: str = "generator") -> When:
    """Within the step that ``metrics.csv`` calls ``step``; the generator's counts it."""
    before = step - 1 if of == "generator" else step
    return lambda module: module.global_step == before


def state(folder: RunFolder, step: int = STEPS) -> dict[str, Any]:
    """Weights, average, moments, counters, schedules."""
    kept = read_checkpoint(folder.checkpoints / f"step-{step:06d}.ckpt")["train_state"]
    names = ("state_dict", "optimizer_states", "lr_schedulers")
    return {name: kept[name] for name in names} | {"ema": kept["callbacks"]["EMA"]}


def equal(one: Any, other: Any) -> bool:  # noqa: ANN401
    """Bit by bit; nothing in either is NaN."""
    if isinstance(one, Tensor):
        return torch.equal(one, other) and bool(one.isfinite().all())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return all(equal(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)
