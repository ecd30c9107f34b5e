"""What an adversary cannot be: half of one, blind to the whole crop, or in a bad combination."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from srtrain.config.rules_flow import MODEL as FLOW
from srtrain.errors import ConfigError, SrtrainError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from srtrain.config.facts import Facts

WEIGHT = "loss.weights.adversarial"
SWITCH_ON = "add discriminator=patchgan | unet | vgg"
MODEL = "srtrain.training.adversarial.AdversarialSR"
PATCHGAN = "srtrain.networks.discriminators.patchgan.PatchGAN"
UNET = "srtrain.networks.discriminators.unet.UNet"
UNET_DIVISOR = 8  # three halvings, and the skips must meet again
VGG_SMALLEST = 32  # four halvings
NO_SPECTRAL = "choose discriminator.norm=instance | none"
ELSE = "choose discriminator=patchgan | vgg"


def completeness(facts: Facts) -> Iterator[SrtrainError]:
    """A discriminator, its objective, optimizer and weight, and a model that trains it: or none."""
    parts = {
        "objective": _has(facts, "objective"),
        "discriminator_optimizer": _has(facts, "discriminator_optimizer"),
        "model": facts.get("model._target_") == MODEL,
    }
    weight = facts.number(WEIGHT)
    if not _has(facts, "discriminator"):
        for group in (name for name, there in parts.items() if there):
            what = f"{group}={facts.choices.get(group, '…')} needs a discriminator"
            yield ConfigError(what, where=group, fix=f"{SWITCH_ON}, or leave {group} out")
        if weight:
            what = f"{WEIGHT}={weight:g} without a discriminator"
            yield ConfigError(what, where=WEIGHT, fix=f"{SWITCH_ON}, or leave the weight at 0")
        return
    if facts.get("model._target_") == FLOW:
        chosen = [
            f"{group}={facts.choices.get(group, '…')}" for group in ("discriminator", "experiment")
        ]
        what = f"{': '.join(chosen)} learns velocities, nobody judges images"
        fix = "leave it out; experiment=patchgan has one"
        yield ConfigError(what, where="discriminator", fix=fix)
        return
    fixes = {
        "objective": "choose objective=vanilla | lsgan | hinge | wgan_gp | ragan",
        "discriminator_optimizer": "choose discriminator_optimizer=adam | adamw",
        "model": "leave model out: a discriminator brings model=adversarial",
    }
    for group in (name for name, there in parts.items() if not there):
        what = f"a discriminator, but {group}={facts.choices.get(group, 'none')}"
        yield ConfigError(what, where=group, fix=f"{fixes[group]}; or discriminator=none")
    if weight == 0 and parts["model"]:
        what = f"a discriminator that the generator does not hear: {WEIGHT}=0"
        yield ConfigError(what, where=WEIGHT, fix="give it a weight above 0, or discriminator=none")


def crop(facts: Facts) -> Iterator[SrtrainError]:
    """What the discriminator looks at must fit into the crop."""
    patch, target = facts.number("data.hr_patch_size"), facts.get("discriminator._target_")
    if patch is None:
        return
    where = "data.hr_patch_size"
    layers, size = facts.number("discriminator.n_layers"), facts.number("discriminator.input_size")
    if target == PATCHGAN and layers is not None and (field := patchgan_field(layers)) > patch:
        what = f"the discriminator judges {field}×{field} px, the crop is {patch:g}×{patch:g}"
        fewer = [n for n in range(1, int(layers)) if patchgan_field(n) <= patch]
        instead = f", or discriminator.n_layers={fewer[-1]}" if fewer else ""
        scale = int(facts.number("scale") or 1)
        fix = f"choose data.hr_patch_size={field + -field % scale} or more{instead}"
        yield ConfigError(what, where=where, fix=fix)
    if size is not None and size != patch:
        what = f"discriminator.input_size={size:g}, the crop is {patch:g}×{patch:g}"
        fix = "leave it out: it follows data.hr_patch_size"
        yield ConfigError(what, where="discriminator.input_size", fix=fix)
    elif size is not None and size < VGG_SMALLEST:
        what = f"the discriminator halves four times, the crop is {patch:g}×{patch:g}"
        yield ConfigError(what, where=where, fix=f"choose {VGG_SMALLEST} or more")
    if target == UNET and patch % UNET_DIVISOR:
        step = math.lcm(UNET_DIVISOR, int(facts.number("scale") or 1))
        what = f"the discriminator halves three times, {patch:g} is no multiple of {UNET_DIVISOR}"
        yield ConfigError(what, where=where, fix=f"e.g. {max(1, round(patch / step)) * step}")


def warmup(facts: Facts) -> Iterator[SrtrainError]:
    """The start that only pixel terms teach has some, from its first step on."""
    share, ramps = facts.number("model.warmup_share"), facts.mapping("loss.schedule")
    late = {n for n, ramp in ramps.items() if isinstance(ramp, Mapping) and any(ramp.values())}
    if share and not any(n.startswith("pixel") and n not in late for n in facts.weights()):
        what = f"model.warmup_share={share:g} of a loss without pixel* terms would teach nothing"
        fix = "give loss.weights.pixel a value from step 0 on, or start from a file: init_from=FILE"
        yield ConfigError(what, where="model.warmup_share", fix=fix)
    start, weights = facts.number("model.discriminator_start"), facts.weights()
    others = any(name not in late and name != "adversarial" for name in weights)
    if start and weights and not others and not facts.get("init_from.path"):
        what = f"before model.discriminator_start={start:g} the generator would learn nothing"
        fix = "give loss.weights.pixel a value from step 0 on, or leave it at 0"
        yield ConfigError(what, where="model.discriminator_start", fix=fix)


def patchgan_field(n_layers: float) -> int:
    """The side of what one PatchGAN logit sees: 4×4 kernels, ``n_layers`` of stride 2, two of 1."""
    field = 7  # of the two last convolutions
    for _ in range(int(n_layers)):
        field = (field - 1) * 2 + 4
    return field


def combinations(facts: Facts) -> Iterator[SrtrainError]:
    """Objectives that look at more than one image, where batch statistics or splits forbid it."""
    name = str(facts.get("objective._target_") or "").rpartition(".")[2]
    gradient_penalty = name == "Wasserstein" and facts.get("objective.gradient_penalty") != 0
    penalty = "WGAN-GP" if gradient_penalty else "R1" if facts.number("objective.r1_gamma") else ""
    if penalty and facts.get("discriminator.norm") == "batch":
        what = f"{penalty} bounds the gradient of single images; batch norm mixes them"
        yield ConfigError(what, where="discriminator.norm", fix=NO_SPECTRAL)
    unet = facts.get("discriminator._target_") == UNET
    if gradient_penalty and (unet or facts.get("discriminator.norm") == "spectral"):
        what = "WGAN-GP pulls slopes to 1, spectral norm holds them down: two bounds at odds"
        fix, where = (ELSE, "discriminator") if unet else (NO_SPECTRAL, "discriminator.norm")
        yield ConfigError(what, where=where, fix=f"{fix}; or objective.gradient_penalty=0")
    accumulate = facts.number("trainer.accumulate")
    if name == "RelativisticAverage" and accumulate is not None and accumulate > 1:
        what = f"ragan compares with the batch's mean, trainer.accumulate={accumulate:g} splits it"
        fix = "choose trainer.accumulate=1, or objective=vanilla | lsgan | hinge"
        yield ConfigError(what, where="trainer.accumulate", fix=fix)


def _has(facts: Facts, group: str) -> bool:
    return bool(facts.get(f"{group}._target_"))


RULES: tuple[Callable[[Facts], Iterator[SrtrainError]], ...] = (
    completeness,
    crop,
    warmup,
    combinations,
)
