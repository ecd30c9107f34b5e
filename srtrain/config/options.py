"""Groups and their options: which exist, which were chosen, and the budget that data=demo means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srtrain.config.nearest import did_you_mean, nearest
from srtrain.config.reference import chain, overridden
from srtrain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from srtrain.config.groups import Groups
    from srtrain.config.words import Words


def check_options(words: Words, groups: Groups) -> Iterator[ConfigError]:
    """Options that do not exist, on the command line and in the experiment's defaults list."""
    for override in words.groups:
        line = str(override.input_line)
        if override.is_delete():
            yield ConfigError("a group cannot be taken away", where=line, fix="choose an option")
        elif not override.is_sweep_override():
            yield from _check_option(groups, override.key_or_group, override.value(), line)
    known = groups.names()
    experiment = chosen(words, groups, "experiment")
    for group, (option, file) in overridden(groups, "experiment", experiment).items():
        where = file.where("defaults")
        if group in known:
            yield from _check_option(groups, group, option, where)
        else:
            fix = did_you_mean(nearest(group, known), f"groups: {', '.join(known)}")
            yield ConfigError(f"unknown group {group}", where=where, fix=fix)
    for file in chain(groups, "experiment", experiment):
        yield from _check_package(groups.is_users(file), file.package, str(file.path))


def chosen(words: Words, groups: Groups, group: str) -> str:
    """The option of a group on the command line, else in ``train.yaml``."""
    for override in reversed(words.groups):
        if override.key_or_group == group and not override.is_delete():
            return str(override.value())
    root = groups.read_path(groups.folders[0] / "train.yaml")
    listed = (entry for entry in root.defaults if isinstance(entry, dict))
    return next((str(entry[group]) for entry in listed if group in entry), "")


def implied_words(words: Words, groups: Groups) -> list[str]:
    """What a command line means without saying it.

    ``budget=demo`` for ``data=demo`` without a budget; other data must choose (rules.py). And the
    experiment's own generator: small budgets swap the default network for a small one, but a
    recipe that is about a network (``edsr_baseline``) keeps it.
    """
    given = {override.key_or_group for override in words.groups}
    theirs = overridden(groups, "experiment", chosen(words, groups, "experiment"))
    implied = []
    generator = str(theirs["generator"][0]) if "generator" in theirs else ""
    if "generator" not in given and generator in groups.options("generator"):
        implied.append(f"generator={generator}")
    if "budget" not in given and "budget" not in theirs:
        data = chosen(words, groups, "data")
        if "data" in theirs and "data" not in given:
            data = theirs["data"][0]
        implied += ["budget=demo"] if data == "demo" else []
    return implied


def _check_option(groups: Groups, group: str, option: object, where: str) -> Iterator[ConfigError]:
    options = groups.options(group)
    if str(option).removesuffix(".yaml") not in options:
        guess = nearest(str(option), options)
        fix = did_you_mean(f"{group}={guess}" if guess else None, f"known: {', '.join(options)}")
        yield ConfigError(f"{group} has no option {option}", where=where, fix=fix)


def _check_package(users: bool, package: str | None, where: str) -> Iterator[ConfigError]:
    if users and package is None:
        fix = "its first line must be `# @package _global_`"
        yield ConfigError(
            "an experiment that sets nothing but `experiment.…`", where=where, fix=fix
        )
