"""``discriminator=none`` on an adversarial experiment: what it says about the adversary is moot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from srtrain.config.groups import Groups
    from srtrain.config.reference import Sources

GROUPS = ("discriminator", "objective", "discriminator_optimizer")
SCHEDULE = "loss.schedule.adversarial"


def without_adversary(origin: Sources, groups: Groups, config: DictConfig) -> Sources:
    """``origin`` without what its files set of an adversary; taken from ``config`` as well."""
    adversarial = groups.read("model", "adversarial")
    own = adversarial.values["model"] if adversarial else {}
    moot = {*GROUPS, SCHEDULE, *(f"model.{name}" for name in own if name != "_target_")}
    for key in sorted(moot):
        _drop(config, key)
    setters = tuple(replace(file, values=_pruned(file.values, moot)) for file in origin.setters)
    return replace(origin, setters=setters)


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
