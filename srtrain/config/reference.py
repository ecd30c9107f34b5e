"""What the chosen options let one set, and the files that only set it.

Hydra merges whatever an experiment file says, typos included. So the reference is built from the
YAML of ``train.yaml`` and the chosen options alone, and the files with ``@package _global_``
(experiments, budgets) are checked against it like words of the command line. What such a file says
about its own group (``model=adversarial`` about ``model``) defines keys, as in any option.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from srtrain.config.groups import Groups
    from srtrain.config.yamlfile import ConfigFile

GLOBAL = "_global_"


@dataclass(frozen=True)
class OwnOption:
    """A user's option file: where it goes, and the keys that were there before it."""

    package: str
    file: ConfigFile
    before: Mapping[str, Any]

    @property
    def defines(self) -> bool:
        """Whether it names its class itself, instead of changing the options it draws in."""
        return "_target_" in self.file.values

    def where(self, key: str) -> str:
        """``path:line`` of a dotted key of the whole configuration."""
        return self.file.where(key.removeprefix(f"{self.package}."))


@dataclass(frozen=True)
class Sources:
    """The files of one composition."""

    tree: Mapping[str, Any]  # all keys that may be set
    setters: tuple[ConfigFile, ...]  # files that set keys of `tree`
    own: tuple[OwnOption, ...]


def sources(groups: Groups, choices: Mapping[str, str]) -> Sources:
    """Read the files behind ``choices`` (group → option, as Hydra settled them)."""
    root = groups.read_path(groups.folders[0] / "train.yaml")
    tree: dict[str, Any] = _copy({k: v for k, v in root.values.items() if k != "hydra"})
    setters: list[ConfigFile] = []
    own: list[OwnOption] = []
    for choice, option in choices.items():
        group, _, package = choice.partition("@")
        for file in chain(groups, group, option):
            place = _package(file, package or group)
            if place == GLOBAL:
                setters.append(file)
                _merge(tree.get(group, {}), file.values.get(group, {}))
                continue
            node = _descend(tree, place)
            if groups.is_users(file):
                before = _copy(node) or shipped_default(groups, group)
                own.append(OwnOption(place, file, _wrap(place, before)))
            _merge(node, file.values)
    return Sources(tree, tuple(setters), tuple(own))


def with_schedules(tree: Mapping[str, Any], terms: Collection[str]) -> dict[str, Any]:
    """``tree`` with a ``loss.schedule.NAME`` of zeros for every term: which may be scheduled."""
    loss = tree.get("loss", {})
    names = {*loss.get("weights", {}), *terms}
    schedule = {name: {"start": 0, "ramp": 0} for name in sorted(names)}
    return {**tree, "loss": {**loss, "schedule": schedule}}


def shipped_default(groups: Groups, group: str) -> dict[str, Any]:
    """The keys of the option that ``train.yaml`` chooses for a group."""
    root = groups.read_path(groups.folders[0] / "train.yaml")
    listed = (entry for entry in root.defaults if isinstance(entry, dict))
    option = next((str(entry[group]) for entry in listed if group in entry), "")
    tree: dict[str, Any] = {}
    for file in chain(groups, group, option):
        _merge(tree, file.values)
    return tree


def chain(groups: Groups, group: str, option: str) -> list[ConfigFile]:
    """An option and those of its own group that its defaults list draws in, in merge order."""
    return list(_chain(groups, group, option, frozenset()))


def _chain(groups: Groups, group: str, option: str, seen: frozenset[str]) -> Iterator[ConfigFile]:
    file = groups.read(group, option)
    if file is None or option in seen:
        return
    names = [name for entry in file.defaults if (name := _same_group(entry, group))]
    if "_self_" not in names:
        names.append("_self_")
    for name in names:
        if name == "_self_":
            yield file
        else:
            yield from _chain(groups, group, name, seen | {option})


def overridden(groups: Groups, group: str, option: str) -> dict[str, tuple[str, ConfigFile]]:
    """``override /GROUP: OPTION`` of an experiment and its parents: group → (option, file)."""
    found: dict[str, tuple[str, ConfigFile]] = {}
    for file in chain(groups, group, option):
        for entry in file.defaults:
            for key, value in entry.items() if isinstance(entry, dict) else ():
                words = str(key).split()
                if words[0] == "override" and isinstance(value, str):
                    found[words[-1].lstrip("/")] = (value, file)
    return found


def _same_group(entry: object, group: str) -> str | None:
    if not isinstance(entry, str):
        return None
    name, _, package = entry.partition("@")
    return name.removeprefix(f"/{group}/") if package in ("", group) else None


def _package(file: ConfigFile, default: str) -> str:
    return (file.package or default).replace("/", ".").replace("_group_", default)


def _descend(tree: dict[str, Any], package: str) -> dict[str, Any]:
    for part in package.split("."):
        child = tree.setdefault(part, {})
        if not isinstance(child, dict):
            child = tree[part] = {}
        tree = child
    return tree


def _wrap(package: str, tree: dict[str, Any]) -> dict[str, Any]:
    for part in reversed(package.split(".")):
        tree = {part: tree}
    return tree


def _merge(target: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = _copy(value)


def _copy(value: Any) -> Any:  # noqa: ANN401 - any YAML
    return {k: _copy(v) for k, v in value.items()} if isinstance(value, dict) else value
