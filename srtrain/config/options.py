"""Groups and their options: which exist, which were chosen, and what a choice implies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from srtrain.config.nearest import did_you_mean, nearest
from srtrain.config.reference import chain, overridden
from srtrain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from srtrain.config.groups import Groups
    from srtrain.config.words import Words

# What a discriminator brings with it where nothing else was chosen.
ADVERSARY = {"model": "adversarial", "objective": "vanilla", "discriminator_optimizer": "adam"}
ADVERSARIAL_WEIGHT = "loss.weights.adversarial"
SMALL_BUDGETS = frozenset({"smoke", "demo"})
NORM = "discriminator.norm"
# In a few hundred steps neither VGG nor U-Net learns texture, a judge of patches does: it stands in
# for the one that an experiment names. Published milestones end the game before texture appears.
SMALL_JUDGES = {"vgg": "patchgan_lite", "unet": "patchgan_lite"}
# A flow passes through its network many times for one image, at HR size.
SMALL_GENERATORS = {"flow": "flow_lite"}
# Of a relativistic judge's larger patches the generator learns too little texture in that time.
SMALL_RELATIVISTIC = "patchgan_fine"
LONG_SCHEDULES = frozenset({"srgan", "esrgan"})


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
    """What a command line means without saying it: a budget, a generator, the adversary's parts.

    ``budget=demo`` for ``data=demo`` without a budget; other data must choose (rules.py).
    """
    settled = _Settled.of(words, groups)
    budget = settled.option("budget")
    if budget == "unset" and settled.option("data") == "demo":
        budget = "demo"
    given = {override.key_or_group for override in words.values}
    adversary = list(_adversary(settled, groups, budget))
    implied = [*_network(settled, groups, budget), *adversary]
    if budget != settled.option("budget"):
        implied.append(f"budget={budget}")
    if NORM not in given and _wants_no_norm(settled, words, groups, adversary):
        implied.append(f"{NORM}=none")
    if settled.switched_off and ADVERSARIAL_WEIGHT not in given:
        implied.append(f"{ADVERSARIAL_WEIGHT}=0")
    return implied


def switched_off(words: Words, groups: Groups) -> bool:
    """Whether ``discriminator=none`` takes away the experiment's adversary."""
    return _Settled.of(words, groups).switched_off


@dataclass(frozen=True)
class _Settled:
    """Group → option by who chose it: the command line, the experiment, the root."""

    given: Mapping[str, str]
    theirs: Mapping[str, str]
    root: Mapping[str, str]

    @classmethod
    def of(cls, words: Words, groups: Groups) -> _Settled:
        listed = overridden(groups, "experiment", chosen(words, groups, "experiment"))
        return cls(
            {o.key_or_group: str(o.value()) for o in words.groups if not o.is_delete()},
            {group: str(option) for group, (option, _) in listed.items()},
            {group: chosen(words, groups, group) for group in groups.names()},
        )

    def option(self, group: str) -> str:
        found = self.given.get(group) or self.theirs.get(group) or self.root.get(group, "")
        return found.removesuffix(".yaml")

    @property
    def switched_off(self) -> bool:
        named = self.theirs.get("discriminator", "none")
        return named != "none" and self.given.get("discriminator") == "none"

    def is_open(self, group: str) -> bool:
        """Whether neither the command line nor the experiment chose it."""
        return group not in self.given and group not in self.theirs


def _network(settled: _Settled, groups: Groups, budget: str) -> Iterator[str]:
    """The experiment's own generator, where small budgets would swap it for a small one.

    A recipe that is about a network (``edsr_baseline``) keeps it; one that is about an adversary
    takes the small one, a flow its own small one.
    """
    generator = settled.theirs.get("generator", "")
    if "generator" in settled.given or "discriminator" in settled.theirs:
        return
    if generator in groups.options("generator"):
        small = SMALL_GENERATORS.get(generator, generator) if budget in SMALL_BUDGETS else generator
        yield f"generator={small}"


def _adversary(settled: _Settled, groups: Groups, budget: str) -> Iterator[str]:
    """All that a discriminator needs; without it, nothing of what the experiment needed for its.

    Small budgets take a discriminator's small form, whoever named it: its patch fits their crop.
    """
    discriminators, discriminator = groups.options("discriminator"), settled.option("discriminator")
    if settled.switched_off:
        left = [g for g in ADVERSARY if g in settled.theirs and g not in settled.given]
        yield from (f"{group}={settled.root[group]}" for group in left)
    elif discriminator != "none" and discriminator in discriminators:
        missing = [group for group in ADVERSARY if settled.is_open(group)]
        yield from (f"{group}={ADVERSARY[group]}" for group in missing)
        lite = f"{discriminator}_lite"
        if "discriminator" not in settled.given:
            relativistic = settled.option("objective") == "ragan"
            lite = SMALL_RELATIVISTIC if relativistic else SMALL_JUDGES.get(discriminator, lite)
        if budget in SMALL_BUDGETS and lite in discriminators:
            yield f"discriminator={lite}"
        long = settled.theirs.get("scheduler") in LONG_SCHEDULES
        if budget in SMALL_BUDGETS and long and "scheduler" not in settled.given:
            yield f"scheduler={settled.root['scheduler']}"


def _wants_no_norm(
    settled: _Settled, words: Words, groups: Groups, adversary: Iterable[str]
) -> bool:
    """Whether WGAN-GP meets spectral norm that nobody asked for: an option's default.

    The penalty is there to bound the slope, as spectral norm does: one of the two is enough.
    Whoever chose it for himself is told so (``rules_adversary.py``); the default gives way.
    """
    if settled.option("objective") != "wgan_gp":
        return False
    implied = dict(word.split("=", 1) for word in adversary)
    option = groups.read(
        "discriminator", implied.get("discriminator", settled.option("discriminator"))
    )
    if option is None or groups.is_users(option) or option.values.get("norm") != "spectral":
        return False
    files = chain(groups, "experiment", chosen(words, groups, "experiment"))
    return not any("norm" in (file.values.get("discriminator") or {}) for file in files)


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
