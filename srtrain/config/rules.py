"""Combinations that cannot be, checked on plain values: each rule yields its problems."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from srtrain.config.nearest import did_you_mean, nearest
from srtrain.config.places import places
from srtrain.errors import ConfigError, SrtrainError
from srtrain.ranks import granted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from srtrain.config.facts import Facts

# A regulariser's coefficients sum to less than this share of the pixel terms'.
REGULARISER_SHARE = 0.01
PERCEPTUAL_CLASSES = "srtrain.losses.perceptual."
INF = math.inf

# key -> (lowest, highest); an open end is written by `ABOVE_ZERO`.
ABOVE_ZERO = math.nextafter(0.0, 1.0)
RANGES: dict[str, tuple[float, float]] = {
    "scale": (1, 8),
    "seed": (0, 2**63 - 1),
    "data.batch_size": (1, INF),
    "data.hr_patch_size": (1, INF),
    "data.num_workers": (0, INF),
    "trainer.max_steps": (1, INF),
    "trainer.devices": (1, INF),
    "trainer.num_nodes": (1, INF),
    "trainer.accumulate": (1, INF),
    "trainer.val_every_n_steps": (1, INF),
    "trainer.log_every_n_steps": (1, INF),
    "trainer.timeout_s": (1, INF),
    "checkpoint.every_n_steps": (1, INF),
    "checkpoint.keep_last": (1, INF),
    "optimizer.lr": (ABOVE_ZERO, INF),
    "optimizer.weight_decay": (0, INF),
    "model.clip_norm": (ABOVE_ZERO, INF),
    "scheduler.warmup_share": (0, 1),
    "scheduler.final_share": (0, 1),
    "callbacks.ema.decay": (0, 1),
    "callbacks.pictures.max_images": (0, INF),
}


def check_rules(facts: Facts) -> Iterator[SrtrainError]:
    """The problems of all rules."""
    for rule in RULES:
        yield from rule(facts)


def ranges(facts: Facts) -> Iterator[SrtrainError]:
    """Numbers outside what they can be."""
    for key, (low, high) in RANGES.items():
        value = facts.number(key)
        if value is not None and not (low <= value <= high):
            start = "above 0" if low == ABOVE_ZERO else f"{low:g}" + (" or more" * (high == INF))
            end = "" if high == INF else f" to {high:g}"
            yield ConfigError(f"{key} cannot be {value}", where=key, fix=f"choose {start}{end}")


def loss_weights(facts: Facts) -> Iterator[SrtrainError]:
    """Weights are finite, not negative, not all 0, and each belongs to a term."""
    terms = facts.mapping("loss.terms")
    for name in facts.mapping("loss.weights"):
        key, weight = f"loss.weights.{name}", facts.number(f"loss.weights.{name}")
        if name not in terms:
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
    perceptual = sum(weight for name, weight in weights.items() if name.startswith("perceptual"))
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
        fix = f"keep them below {REGULARISER_SHARE * pixel:g}, {led}"
        yield ConfigError(what, where="loss.weights.perceptual", fix=fix)


def ranks(facts: Facts) -> Iterator[SrtrainError]:
    """The ranks asked for are those given; the global batch is split evenly over them."""
    devices, nodes = facts.number("trainer.devices"), facts.number("trainer.num_nodes")
    if not (devices and nodes):
        return
    asked = f"trainer.devices × trainer.num_nodes = {devices:g} × {nodes:g}"
    given, world = granted(facts.environ), devices * nodes
    if given and given.total != world:
        what = f"{given.said}={given.total}, but {asked}"
        fix = f"leave both out, or set trainer.devices={given.per_node}"
        fix += f" trainer.num_nodes={given.nodes}" * (given.nodes > 1)
        yield ConfigError(what, where="trainer.devices", fix=fix)
        world = given.total
    if world > 1 and facts.get("trainer.strategy") == "single":
        what = f"{world:g} devices but one process"
        yield ConfigError(what, where="trainer.devices", fix="add trainer=ddp")
        return
    yield from _split(facts, world)


def _split(facts: Facts, world: float) -> Iterator[SrtrainError]:
    batch, accumulate = facts.number("data.batch_size"), facts.number("trainer.accumulate")
    parts = world * (accumulate or 0)
    if batch and parts >= 1 and batch % parts:
        what = f"data.batch_size={batch:g} cannot be split over {world:g} ranks × {accumulate:g}"
        fix = f"choose a multiple of {parts:g} (ranks × trainer.accumulate)"
        yield ConfigError(what, where="data.batch_size", fix=fix)


def scales(facts: Facts) -> Iterator[SrtrainError]:
    """One scale for all: the patch divides by it, the parts agree with it."""
    scale, patch = facts.number("scale"), facts.number("data.hr_patch_size")
    if scale and patch and patch % scale:
        near = max(1, round(patch / scale)) * scale
        what = f"data.hr_patch_size={patch:g} is not a multiple of scale={scale:g}"
        yield ConfigError(what, where="data.hr_patch_size", fix=f"e.g. {near:g}")
    for key in ("generator.scale", "generator.upscale", "degradation.scale"):
        own = facts.number(key)
        if scale and own and own != scale:
            yield ConfigError(
                f"{key}={own:g} but scale={scale:g}", where=key, fix="set scale alone"
            )


def budget(facts: Facts) -> Iterator[SrtrainError]:
    """Only data=demo has a budget by default: a toy must not pass for a paper's recipe."""
    if facts.choices.get("budget") == "unset" and not facts.resumed:
        data = facts.choices.get("data", "your data")
        fix = (
            "choose budget=smoke (seconds: does it run?), budget=demo (minutes: a small network,"
            " not the paper's recipe) or budget=paper (the experiment's own recipe, hours to days)"
        )
        yield ConfigError(f"data={data} needs a budget", where="budget", fix=fix)


def lpips(facts: Facts) -> Iterator[SrtrainError]:
    """A file of features without a net would measure nothing."""
    if facts.get("metrics.lpips.features") and not facts.get("metrics.lpips.net"):
        fix = "add metrics.lpips.net=squeeze | alex | vgg"
        yield ConfigError("features of no net", where="metrics.lpips.features", fix=fix)


RULES: tuple[Callable[[Facts], Iterator[SrtrainError]], ...] = (
    budget,
    ranges,
    loss_weights,
    perceptual_names,
    perceptual_share,
    ranks,
    scales,
    lpips,
    places,
)
