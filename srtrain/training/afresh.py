"""What starts afresh when a run is continued with another adversary or optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from srtrain.training.supervised import SupervisedSR

GENERATOR = "generator."
WATCH = "AdversaryWatch"
OPTIMIZERS = ("optimizer", "discriminator_optimizer")


def adversary_afresh(content: dict[str, Any], module: SupervisedSR) -> None:
    """Make a checkpoint's training state fit ``module``, whose discriminator starts afresh.

    The generator goes on with its weights and moments; whatever else the module holds stays as it
    was built. Both schedules stand at the same step.
    """
    state = content["train_state"]
    kept = {k: v for k, v in state["state_dict"].items() if k.startswith(GENERATOR)}
    built = {k: v for k, v in module.state_dict().items() if not k.startswith(GENERATOR)}
    state["state_dict"] = {**kept, **built}
    state["optimizer_states"] = state["optimizer_states"][:1]
    state["lr_schedulers"] = state["lr_schedulers"][:1] * 2  # the second only if there are two
    state["callbacks"].pop(WATCH, None)  # what it has seen was another game
    content["reached"]["discriminator_steps"] = 0


def moments_afresh(
    content: dict[str, Any], before: Mapping[str, Any], now: Mapping[str, Any]
) -> list[str]:
    """Drop the moments of optimizers of another class than ``before``; returns their groups."""
    states = content["train_state"]["optimizer_states"]
    other = []
    for group, state in zip(OPTIMIZERS, states, strict=False):
        if (before.get(group) or {}).get("_target_") != (now.get(group) or {}).get("_target_"):
            state["state"] = {}
            other.append(group)
    return other
