"""Without a discriminator, what a budget says about the adversary is moot.

After ``discriminator=none`` on an adversarial experiment, so is what the experiment says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from srtrain.config.groups import Groups
    from srtrain.config.reference import Sources

GROUPS = ("discriminator", "objective", "discriminator_optimizer")
SCHEDULE = "loss.schedule.adversarial"
BUDGETS = frozenset({"budget"})
SETTERS = frozenset({"budget", "experiment"})


def without_adversary(
    origin: Sources,
    groups: Groups,
    config: DictConfig,
    *,
    of: Collection[str],
    choices: Mapping[str, str],
) -> Sources:
    """``origin`` without what its files in groups ``of`` set of an adversary; nor ``config``.

    An objective or optimizer that was chosen all the same stays: rules refuse it.
    """
    adversarial = groups.read("model", "adversarial")
    own = adversarial.values["model"] if adversarial else {}
    left = {group for group in GROUPS if choices.get(group, "none") == "none"}
    moot = {*left, SCHEDULE, *(f"model.{name}" for name in own if name != "_target_")}
    for key in sorted(moot):
        _drop(config, key)
    setters = (
        replace(file, values=_pruned(file.values, moot)) if file.path.parent.name in of else file
        for file in origin.setters
    )
    return replace(origin, setters=tuple(setters))


def _drop(config: DictConfig, key: str) -> None:
    parent, _, name = key.rpartition(".")
    with open_dict(config):
        if not parent:
            config[name] = {}
        elif name in (OmegaConf.select(config, parent) or ()):
            del OmegaConf.select(config, parent)[name]


def _pruned(values: Mapping[str, Any], moot: set[str]) -> dict[str, Any]:
    return dict(_kept(values, moot, ""))


def _kept(values: Mapping[str, Any], moot: set[str], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        key = f"{prefix}{name}"
        if key in moot:
            continue
        below = isinstance(value, Mapping)
        yield name, dict(_kept(value, moot, f"{key}.")) if below else value
