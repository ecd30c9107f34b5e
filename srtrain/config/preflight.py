"""All that is wrong with a command line, found before torch is imported.

Hydra stops at the first error, merges typos inside experiment files and lets ``+`` add anything.
Here every word and file is checked against the reference (``reference.py``), what is right is
composed, and the rules (``rules.py``) look at the whole; a run starts only if nothing was found.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from srtrain.config.compose import Composition, command_line, compose
from srtrain.config.facts import Facts
from srtrain.config.groups import Groups
from srtrain.config.keys import Reference, check_component, check_tree
from srtrain.config.location import conf_dir
from srtrain.config.moot import BUDGETS, SETTERS, without_adversary
from srtrain.config.options import check_options, implied_words, switched_off
from srtrain.config.problems import refuse
from srtrain.config.reference import Sources, sources, with_schedules
from srtrain.config.resume import saved_run
from srtrain.config.rules import check_rules
from srtrain.config.rules_flow import MEAN
from srtrain.config.schema import COMPONENTS, EXTENSIBLE
from srtrain.config.values import set_values
from srtrain.config.words import Words, read_words, shorthand
from srtrain.errors import ConfigError, SrtrainError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

# Interpolations that fail are reported one at a time; a configuration has a handful at most.
MAX_UNRESOLVED = 20


def prepare(words: Sequence[str], *, config_dirs: Sequence[Path] = ()) -> Composition:
    """The checked configuration of a run.

    Raises: RefusedError with every problem that was found.
    """
    groups = Groups.of(conf_dir(), config_dirs)
    written = shorthand(words)
    parsed = read_words(written, groups)
    problems: list[SrtrainError] = [*parsed.problems, *_sweeps(parsed)]
    saved = saved_run(parsed)
    if saved is not None:
        config, choices = saved
        reference = Reference(with_schedules(_plain(config), _terms(config)), _terms(config))
    else:
        implied = implied_words(parsed, groups)
        written += implied
        config, choices = _compose(parsed, implied, groups, config_dirs, problems)
        origin = sources(groups, choices)
        if choices.get("discriminator") == "none":
            moot = SETTERS if switched_off(parsed, groups) else BUDGETS
            origin = without_adversary(origin, groups, config, of=moot, choices=choices)
        reference = Reference(with_schedules(origin.tree, _terms(config)), _terms(config))
        problems += _check_files(origin, reference, groups)
        _drop_headless(config, reference)
    problems += set_values(parsed.values, reference, config)
    settled, unresolved = _resolve(config)
    problems += unresolved
    problems += _check_replaced(settled, reference, {problem.what for problem in problems})
    broken = [*check_rules(Facts(settled, choices, os.environ, resumed=saved is not None))]
    refuse(_causes(problems, broken))
    return Composition(config, choices, command_line(written, config_dirs))


def _causes(problems: list[SrtrainError], broken: list[SrtrainError]) -> list[SrtrainError]:
    """Without what only follows: whoever mends that first breaks what was right.

    What an experiment says of its own kind of generator fits no other; and whether a flow's mean is
    missing or useless is not known where the experiment or just that key was misspelt.
    """
    if "generator" in {problem.where for problem in broken}:
        problems = [problem for problem in problems if not _unknown_in_file(problem, "generator")]
    if any(f"{MEAN}?" in str(p) or "experiment=" in str(p.where) for p in problems):
        broken = [problem for problem in broken if problem.where != MEAN]
    return [*problems, *broken]


def _unknown_in_file(problem: SrtrainError, group: str) -> bool:
    return problem.what.startswith(f"unknown key {group}.") and ".yaml:" in str(problem.where)


def _sweeps(words: Words) -> Iterator[ConfigError]:
    for override in (*words.groups, *words.values):
        if override.is_sweep_override():
            fix = "add --multirun for one run per value, or quote the value"
            yield ConfigError("several values", where=str(override.input_line), fix=fix)


def _compose(
    words: Words,
    implied: list[str],
    groups: Groups,
    config_dirs: Sequence[Path],
    problems: list[SrtrainError],
) -> tuple[DictConfig, dict[str, str]]:
    """Compose the options; those that cannot be composed become problems and are left out."""
    refused = list(check_options(words, groups))
    problems += refused
    places = {problem.where for problem in refused}
    lines = [
        str(override.input_line) for override in words.groups if not override.is_sweep_override()
    ]
    good = [line for line in lines if line not in places]
    if places - set(lines):  # something inside the experiment file
        good = [line for line in good if not line.startswith("experiment=")]
    try:
        composed = compose([*good, *implied], config_dirs=config_dirs)
    except (HydraException, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split("Config search path")[0].split())
        problems.append(ConfigError(reason, where=" ".join(good), fix="srtrain --help lists all"))
        composed = compose(implied)
    return composed.config, dict(composed.choices)


def _check_files(origin: Sources, reference: Reference, groups: Groups) -> Iterator[ConfigError]:
    """Files that set keys, against the reference; the user's own options, against their class.

    What a budget or experiment of ours says about a group for which the user brought an option of
    his own may not fit there; it is not his mistake.
    """
    replaced = {option.package for option in origin.own if not option.file.defaults}
    for file in origin.setters:
        foreign = set() if groups.is_users(file) else replaced
        values = {key: value for key, value in file.values.items() if key not in foreign}
        yield from check_tree(values, reference, where=file.where)
    for option in origin.own:
        if option.defines:
            yield from check_component(
                option.file.values, where=option.where, prefix=option.package
            )
        else:
            before = Reference(option.before, reference.terms)
            package = option.package
            yield from check_tree(option.file.values, before, where=option.where, prefix=package)


def _drop_headless(config: DictConfig, reference: Reference) -> None:
    """Take away components that a budget of ours only adjusts and the user's option has not."""
    for place in EXTENSIBLE:
        node, known = OmegaConf.select(config, place), reference.default(place)
        for name in [*(node or ())]:
            if "_target_" not in (node[name] or {"_target_"}) and name not in (known or {}):
                with open_dict(config):
                    del node[name]


def _check_replaced(
    settled: dict[str, Any], reference: Reference, told: set[str]
) -> Iterator[ConfigError]:
    """Where a file or word put another class in place: what is left of the old one's keys."""
    for key, node in _components(settled, ""):
        default = reference.default(key)
        before = default.get("_target_", node["_target_"]) if isinstance(default, dict) else None
        if before != node["_target_"] and (before or key in COMPONENTS):
            for problem in check_component(node, where=lambda _: "after merging", prefix=key):
                if problem.what not in told:
                    yield problem


def _components(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, node in tree.items():
        if isinstance(node, dict):
            if "_target_" in node:
                yield f"{prefix}{name}", node
            yield from _components(node, f"{prefix}{name}.")


def _terms(config: DictConfig) -> frozenset[str]:
    """The loss terms that have a class: a mistyped term in a file has none."""
    terms = OmegaConf.select(config, "loss.terms") or {}
    return frozenset(str(name) for name in terms if "_target_" in (terms[name] or {}))


def _resolve(config: DictConfig) -> tuple[dict[str, Any], list[ConfigError]]:
    """All values with interpolations resolved; a problem for each that cannot be, or is missing."""
    problems = [
        ConfigError(f"{key} is missing", where="required", fix=f"add {key}=VALUE")
        for key in _missing(_plain(config), "")
    ]
    trial = OmegaConf.create(_plain(config))
    for _ in range(MAX_UNRESOLVED):
        try:
            return _plain(trial, resolve=True), problems
        except OmegaConfBaseException as error:
            key = str(error.full_key)
            reason = str(error).splitlines()[0]
            problems.append(ConfigError(reason, where=key, fix="correct the ${…}"))
            OmegaConf.update(trial, key, None)
    return _plain(config), problems


def _missing(tree: dict[str, Any], prefix: str) -> Iterator[str]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _missing(value, f"{prefix}{name}.")
        elif value == "???":
            yield f"{prefix}{name}"


def _plain(config: DictConfig, *, resolve: bool = False) -> dict[str, Any]:
    plain = OmegaConf.to_container(config, resolve=resolve)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
