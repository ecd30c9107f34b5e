"""What the loss cannot be: weights without terms, schedules of nothing, too much perception."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from srtrain.config.nearest import did_you_mean, nearest
from srtrain.config.schema import Taps, words_of
from srtrain.config.signature import parameters
from srtrain.errors import ConfigError, SrtrainError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from srtrain.config.facts import Facts

# A regulariser's coefficients sum to less than this share of the pixel terms'.
REGULARISER_SHARE = 0.01
PERCEPTUAL_CLASSES = "srtrain.losses.perceptual"  # the module, and `…_distances`
ADVERSARIAL = "adversarial"  # the one term that comes with the discriminator, not from `terms`


def weights(facts: Facts) -> Iterator[SrtrainError]:
    """Weights are finite, not negative, not all 0, and each belongs to a term."""
    terms = facts.mapping("loss.terms")
    for name in facts.mapping("loss.weights"):
        key, weight = f"loss.weights.{name}", facts.number(f"loss.weights.{name}")
        if name not in (*terms, ADVERSARIAL):
            guess = nearest(name, list(terms))
            fix = did_you_mean(f"loss.weights.{guess}" if guess else None, f"define {key}'s term")
            yield ConfigError(f"{key} has no term loss.terms.{name}", where=key, fix=fix)
        elif weight is not None and not (math.isfinite(weight) and weight >= 0):
            yield ConfigError(f"{key} cannot be {weight}", where=key, fix="choose 0 or more")
    for name in terms:
        if name not in facts.mapping("loss.weights"):
            where = f"loss.terms.{name}"
            fix = f"add loss.weights.{name}: 0 switches it off"
            yield ConfigError(f"the term {name} has no weight", where=where, fix=fix)
    if not facts.weights():
        fix = "give one term a weight above 0, e.g. loss.weights.pixel=1"
        yield ConfigError("no loss: all weights are 0", where="loss.weights", fix=fix)


def perceptual_names(facts: Facts) -> Iterator[SrtrainError]:
    """The rule about perceptual shares goes by names, so a perceptual class must bear one."""
    for name, term in facts.mapping("loss.terms").items():
        target = str(term.get("_target_", "")) if isinstance(term, Mapping) else ""
        if target.startswith(PERCEPTUAL_CLASSES) and not name.startswith("perceptual"):
            fix = f"name it perceptual_{name}"
            yield ConfigError(f"{name} is a perceptual term", where=f"loss.terms.{name}", fix=fix)


def perceptual_share(facts: Facts) -> Iterator[SrtrainError]:
    """``0 < Σ perceptual* < 0.01 · Σ pixel*`` for regularisers (design: nothing is rescaled)."""
    weights = facts.weights()
    names = [name for name in weights if name.startswith("perceptual")]
    perceptual = sum(weights[name] for name in names)
    pixel = sum(weight for name, weight in weights.items() if name.startswith("pixel"))
    if not perceptual or facts.get("loss.role") == "perceptual_led":
        return
    led = "or say loss.role=perceptual_led"
    if not pixel:
        what = f"perceptual weights sum to {perceptual:g} and there is no pixel term to regularise"
        yield ConfigError(what, where="loss.weights", fix=f"give loss.weights.pixel, {led}")
    elif not perceptual < REGULARISER_SHARE * pixel:
        what = (
            f"perceptual weights sum to {perceptual:g}, {perceptual / pixel:.2%} of the pixel"
            f" weights' {pixel:g}; a regulariser stays below {REGULARISER_SHARE:.0%}"
        )
        where = ", ".join(f"loss.weights.{name}" for name in names)
        them = "it" if len(names) == 1 else "their sum"
        fix = f"keep {them} below {REGULARISER_SHARE * pixel:g}, {led}"
        yield ConfigError(what, where=where, fix=fix)


def tap_sets(facts: Facts) -> Iterator[SrtrainError]:
    """Tap sets have names, also in terms of the user's own; `perceptual` itself is typed."""
    for name, term in facts.mapping("loss.terms").items():
        taps = term.get("taps") if isinstance(term, Mapping) else None
        if name == "perceptual" or not isinstance(taps, str) or taps in words_of(Taps):
            continue
        if str(term.get("_target_", "")).startswith(PERCEPTUAL_CLASSES):
            key = f"loss.terms.{name}.taps"
            guess = nearest(taps, words_of(Taps))
            fix = did_you_mean(f"{key}={guess}" if guess else None, " | ".join(words_of(Taps)))
            yield ConfigError(f"unknown tap set {taps!r}", where=key, fix=fix)


def averages(facts: Facts) -> Iterator[SrtrainError]:
    """LDL compares with the image of the averaged weights, so there must be an average."""
    for name in facts.weights():
        ldl = facts.get(f"loss.terms.{name}._target_") == "srtrain.losses.ldl.LDL"
        if ldl and not facts.get("callbacks.ema"):
            what = f"{name} compares with the averaged weights, and there is no average"
            where = f"loss.weights.{name}"
            yield ConfigError(what, where=where, fix=f"keep callbacks.ema, or {where}=0")


def schedules(facts: Facts) -> Iterator[SrtrainError]:
    """A ramp is of a term that counts, and of steps from 0 on."""
    known = facts.mapping("loss.weights")
    for name, ramp in facts.mapping("loss.schedule").items():
        key = f"loss.schedule.{name}"
        if name not in known:
            continue  # unknown keys are told elsewhere
        if name not in facts.weights():
            fix = f"give loss.weights.{name} a value above 0, or leave the schedule out"
            yield ConfigError(f"{key} of a term whose weight is 0", where=key, fix=fix)
        for word in ramp if isinstance(ramp, Mapping) else ():
            steps = facts.number(f"{key}.{word}")
            if steps is not None and steps < 0:
                fix = "choose a number of generator steps, 0 or more"
                yield ConfigError(f"{key}.{word} cannot be {steps}", where=f"{key}.{word}", fix=fix)


def head(facts: Facts) -> Iterator[SrtrainError]:
    """More maps than an image's three come only from a generator that can be told how many."""
    if not facts.get("loss.head._target_"):
        return
    target = str(facts.get("generator._target_"))
    known = parameters(target)
    if known is not None and "out_channels" not in known:
        what = f"loss.head needs more output maps than {target.rpartition('.')[2]} gives"
        fix = "generator=edsr_lite | edsr | edsr_full | srresnet take out_channels"
        yield ConfigError(what, where="loss.head", fix=fix)


RULES: tuple[Callable[[Facts], Iterator[SrtrainError]], ...] = (
    weights,
    perceptual_names,
    perceptual_share,
    tap_sets,
    averages,
    schedules,
    head,
)
