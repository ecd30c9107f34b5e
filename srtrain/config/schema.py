"""What may be written where: the root's keys, and the types that a YAML value cannot show."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

Device = Literal["auto", "cpu", "gpu"]
Taps = Literal["first5", "vgg22", "vgg54", "esrgan", "ldl", "pix2pixhd", "features5"]


@dataclass(frozen=True, kw_only=True)
class InitFrom:
    """``init_from``; ``init_from=FILE`` is short for ``init_from.path=FILE``."""

    path: str | None
    partial: bool


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """``checkpoint``."""

    every_n_steps: int
    keep_last: int
    keep_best: int
    monitor: str
    mode: Literal["max", "min"]
    floor: dict[str, float]
    on_save_error: Literal["error", "warn"]


@dataclass(frozen=True, kw_only=True)
class Root:
    """The keys of ``conf/train.yaml`` itself; the groups stand beside them."""

    scale: int
    seed: int
    run_dir: str | None
    resume: str
    force: bool
    verbose: bool
    trust: list[str]
    mse_checkpoint: str | None
    init_from: InitFrom
    checkpoint: Checkpoint


# Types of keys in groups whose default is null, an interpolation, or one word out of a few.
TYPES: dict[str, Any] = {
    "data.train": str | list[Any] | dict[str, Any],
    "data.val": str | dict[str, Any] | None,
    "data.hr_patch_size": int,
    "data.on_bad": Literal["error", "skip"],
    "data.residence": Literal["disk", "ram", "device"],
    "generator.scale": int,
    "generator.source": Literal["mean", "noise", "condition"],
    "generator.condition": Literal["none", "lr", "mean"],
    "generator.sampler": Literal["euler", "heun"],
    "model.mean_precision": Literal["auto", "fp32", "bf16"],
    "degradation.scale": int,
    "loss.role": Literal["regulariser", "perceptual_led"],
    "loss.terms.perceptual.taps": Taps,
    "loss.terms.perceptual.criterion": Literal["mse", "l1"] | None,
    "loss.terms.perceptual.before_relu": bool | None,
    "loss.terms.perceptual.calibrated": bool | None,
    "loss.terms.perceptual.crop": int | None,
    "loss.terms.perceptual.precision": Literal["auto", "fp32", "bf16"],
    "loss.terms.perceptual_lpips.net": Literal["squeeze", "alex", "vgg"],
    "loss.terms.perceptual_lpips.features": str | None,
    "loss.terms.perceptual_dists.features": str | None,
    "loss.head": dict[str, Any] | None,
    "model.clip_norm": float | None,
    "model.target": dict[str, Any] | None,
    "model.real": Literal["target", "hr"],
    "model.discriminator_clip_norm": float | None,
    "discriminator.norm": Literal["spectral", "instance", "batch", "none"],
    "discriminator.input_size": int,
    "discriminator_optimizer.lr": float,
    "metrics.lpips.net": Literal["squeeze", "alex", "vgg"] | None,
    "metrics.lpips.features": str | None,
    "trainer.accelerator": Device,
    "trainer.precision": Literal["auto", "fp32", "bf16"],
    "trainer.strategy": Literal["single", "ddp"],
    "logger.wandb.mode": Literal["auto", "online", "offline", "disabled"],
    "logger.wandb.entity": str | None,
    "logger.wandb.name": str | None,
    "paths.cache": str | None,
}

# Below these keys anything may be written: names of data sets, of metrics; Hydra checks its own.
OPEN = frozenset({"data.val", "checkpoint.floor", "hydra"})
# Here a mapping with a `_target_` adds a component, and null takes one away.
EXTENSIBLE = frozenset({"loss.terms", "callbacks", "logger"})

# Here null stands for a component that an experiment, or the user, may put in place.
COMPONENTS = frozenset({"loss.head", "model.target"})
# These, null takes away: one pass instead of two, plain photos instead of sharpened ones.
OPTIONAL = frozenset({"degradation.first", "degradation.source"})

# Keys of other trainers, and what says the same here.
ALIASES = {
    "accumulate_grad_batches": "trainer.accumulate",
    "gradient_clip_val": "model.clip_norm",
    "max_epochs": "trainer.max_steps",
    "num_gpus": "trainer.devices",
    "gpus": "trainer.devices",
    "val_check_interval": "trainer.val_every_n_steps",
    "log_every_n": "trainer.log_every_n_steps",
    "learning_rate": "optimizer.lr",
    "lr": "optimizer.lr",
    "ckpt_path": "resume",
    "pretrained": "init_from.path",
    "patch_size": "data.hr_patch_size",
    "upscale": "scale",
    "upscale_factor": "scale",
}


def root_types() -> dict[str, Any]:
    """Dotted key → type of everything in ``Root``."""
    return dict(_flatten(Root, ""))


def _flatten(owner: type, prefix: str) -> list[tuple[str, Any]]:
    hints = get_type_hints(owner)
    found: list[tuple[str, Any]] = []
    for field in fields(owner):
        hint = hints[field.name]
        key = f"{prefix}{field.name}"
        nested = hasattr(hint, "__dataclass_fields__")
        found.extend(_flatten(hint, f"{key}.") if nested else [(key, hint)])
    return found


def matches(value: object, annotation: Any) -> bool:  # noqa: ANN401 - an annotation is any
    """Whether ``value`` is of the type ``annotation``; an int is a float, a bool is no int."""
    origin = get_origin(annotation)
    if annotation is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(matches(value, option) for option in get_args(annotation))
    if origin is Literal:
        return any(value == word and type(value) is type(word) for word in get_args(annotation))
    if origin is list:
        (item,) = get_args(annotation)
        return isinstance(value, list) and all(matches(element, item) for element in value)
    if origin is dict:
        return isinstance(value, Mapping)
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return value is None if annotation in (None, type(None)) else isinstance(value, annotation)


def words_of(annotation: Any) -> list[str]:  # noqa: ANN401 - an annotation is any
    """The words that an annotation offers to choose from, if it does."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [word for option in get_args(annotation) for word in words_of(option)]
    words = get_args(annotation) if get_origin(annotation) is Literal else ()
    return [word for word in words if isinstance(word, str)]


_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def describe(annotation: Any) -> str:  # noqa: ANN401 - an annotation is any
    """``annotation`` in words: ``auto | fp32 | bf16``, ``a number | null``."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return " | ".join(describe(option) for option in get_args(annotation))
    if origin is Literal:
        return " | ".join(str(word) for word in get_args(annotation))
    if origin is list:
        (item,) = get_args(annotation)
        return "a list" if item is Any else f"a list of {describe(item)}"
    if origin is dict:
        return "keys and values"
    return "null" if annotation in (None, type(None)) else _WORDS.get(annotation, "anything")


def type_of(default: object) -> Any:  # noqa: ANN401 - an annotation is any
    """The type that a default value stands for; null, ``???`` and interpolations say nothing."""
    if default is None or default == "???" or (isinstance(default, str) and "${" in default):
        return Any
    if isinstance(default, list):
        items = {type_of(item) for item in default}
        return list[items.pop()] if len(items) == 1 else list[Any]  # type: ignore[misc]
    return type(default)
