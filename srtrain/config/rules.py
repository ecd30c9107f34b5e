"""Combinations that cannot be, checked on plain values: each rule yields its problems."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from srtrain.config import rules_adversary, rules_flow, rules_loss
from srtrain.config.places import places
from srtrain.errors import ConfigError, SrtrainError
from srtrain.ranks import Granted, granted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from srtrain.config.facts import Facts

INF = math.inf

# key -> (lowest, highest); an open end is written by `ABOVE_ZERO` or `BELOW_ONE`.
ABOVE_ZERO, BELOW_ONE = math.nextafter(0.0, 1.0), math.nextafter(1.0, 0.0)
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
    "checkpoint.keep_best": (1, INF),
    "optimizer.lr": (ABOVE_ZERO, INF),
    "optimizer.weight_decay": (0, INF),
    "discriminator_optimizer.lr": (ABOVE_ZERO, INF),
    "discriminator_optimizer.weight_decay": (0, INF),
    "generator.steps": (1, INF),
    "generator.sigma": (0, INF),
    "discriminator.n_layers": (1, 6),
    "discriminator.base_channels": (1, INF),
    "objective.r1_gamma": (0, INF),
    "objective.r1_every": (1, INF),
    "objective.gradient_penalty": (0, INF),
    "model.clip_norm": (ABOVE_ZERO, INF),
    "model.discriminator_clip_norm": (ABOVE_ZERO, INF),
    "model.augment.rgb_permutation": (0, 1),
    "model.augment.cutblur": (0, 1),
    "model.augment.cutmix": (0, 1),
    "model.augment.mixup": (0, 1),
    "model.augment.cutblur_ratio": (0, 1),
    "model.augment.cutmix_alpha": (ABOVE_ZERO, INF),
    "model.augment.mixup_alpha": (ABOVE_ZERO, INF),
    "model.warmup_share": (0, BELOW_ONE),
    "model.discriminator_start": (0, INF),
    "model.adaptive_above": (0, 1),
    "scheduler.warmup_share": (0, BELOW_ONE),
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
            below = "below " * (high == BELOW_ONE)
            end = "" if high == INF else f" to {below}{high:g}"
            yield ConfigError(f"{key} cannot be {value}", where=key, fix=f"choose {start}{end}")


def ranks(facts: Facts) -> Iterator[SrtrainError]:
    """The ranks asked for are those given; the global batch is split evenly over them."""
    devices, nodes = facts.number("trainer.devices"), facts.number("trainer.num_nodes")
    if not (devices and nodes):
        return
    given, world = granted(facts.environ), devices * nodes
    if given:
        yield from _disagreements(given, int(devices), int(nodes))
        world = given.total
    if world > 1 and facts.get("trainer.strategy") == "single":
        what = f"{world:g} devices but one process"
        yield ConfigError(what, where="trainer.devices", fix="add trainer=ddp")
        return
    yield from _split(facts, world)


def _disagreements(given: Granted, devices: int, nodes: int) -> Iterator[SrtrainError]:
    said = f"{given.said}={given.total}" + f" on {given.nodes} nodes" * (given.nodes > 1)
    if given.per_node * given.nodes != given.total:
        fix = "start as many on each: sbatch --ntasks-per-node=N, torchrun --nproc-per-node=N"
        yield ConfigError(f"{said}: not evenly", where="ranks", fix=fix)
    elif (devices, nodes) != (given.per_node, given.nodes):
        asked = f"trainer.devices × trainer.num_nodes = {devices} × {nodes}"
        fix = f"leave both out, or set trainer.devices={given.per_node}"
        fix += f" trainer.num_nodes={given.nodes}" * (given.nodes > 1 or nodes > 1)
        yield ConfigError(f"{said}, but {asked}", where="trainer.devices", fix=fix)


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


def floors(facts: Facts) -> Iterator[SrtrainError]:
    """The least means that a best checkpoint must have are numbers."""
    for name in facts.mapping("checkpoint.floor"):
        key = f"checkpoint.floor.{name}"
        if facts.number(key) is None:
            what = f"{key} cannot be {facts.get(key)!r}"
            yield ConfigError(what, where=key, fix="expected a number, as in {psnr_y: 28}")


def cutblur(facts: Facts) -> Iterator[SrtrainError]:
    """It pastes the bicubic LR, which paired and blind LR are not and bicubic LR is."""
    key = "model.augment.cutblur"
    if facts.get("data._target_") == "srtrain.data.build.paired_data":
        bicubic = facts.get("data.lr_is_bicubic")
    else:
        bicubic = facts.get("degradation._target_") == "srtrain.degradation.resize.Bicubic"
    if facts.number(key) and bicubic:
        what = "cutblur changes nothing where LR is bicubic"
        fix = f"leave {key} at 0, or choose another degradation or data=paired"
        yield ConfigError(what, where=key, fix=fix)


def loading(facts: Facts) -> Iterator[SrtrainError]:
    """What lies on the device is cut there, by the training process itself."""
    workers = facts.number("data.num_workers")
    if facts.get("data.residence") == "device" and workers:
        what = f"data.num_workers={workers:g} processes have no access to the device's memory"
        where = "data.num_workers, data.residence=device"
        yield ConfigError(what, where=where, fix="data.num_workers=0")


def graphs(facts: Facts) -> Iterator[SrtrainError]:
    """CUDA graphs are of compiled networks, on a GPU."""
    key = "trainer.cuda_graphs"
    if facts.get(key) is not True:
        return
    if facts.get("trainer.compile") is not True:
        what = "CUDA graphs are made of compiled networks"
        yield ConfigError(what, where=key, fix="add trainer.compile=true")
    if facts.get("trainer.accelerator") == "cpu":
        yield ConfigError("CUDA graphs need a GPU", where=key, fix="leave it out")


RULES: tuple[Callable[[Facts], Iterator[SrtrainError]], ...] = (
    budget,
    ranges,
    *rules_loss.RULES,
    *rules_adversary.RULES,
    *rules_flow.RULES,
    ranks,
    scales,
    loading,
    lpips,
    floors,
    cutblur,
    graphs,
    places,
)
