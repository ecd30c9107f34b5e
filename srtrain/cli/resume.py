"""Which folder a run lives in, and whether what lies there may be continued."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import srtrain
from srtrain.cli.build import plain
from srtrain.errors import ConfigError, StorageError
from srtrain.networks.build import spec_of
from srtrain.networks.storage import by_step, read_newest
from srtrain.ranks import rank
from srtrain.training.afresh import OPTIMIZERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from omegaconf import DictConfig

    from srtrain.data.datamodule import SRData
    from srtrain.training.run_folder import RunFolder
    from srtrain.training.supervised import SupervisedSR

# Continuing with another would be another run.
FIXED = ("scale", "generator", "head", "features", "discriminator", "objective")
ABOUT_THE_COMMAND = {"run_dir", "resume", "force", "verbose"}  # not about the run


def run_dir(config: DictConfig, experiment: str) -> Path:
    """``resume=DIR``, ``run_dir=DIR``, the SLURM job's folder, or a dated one."""
    if config.resume not in {"auto", "never"}:
        return Path(config.resume)
    if config.run_dir:
        return Path(config.run_dir)
    job = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID")
    if job:
        task = os.environ.get("SLURM_ARRAY_TASK_ID")
        name = f"slurm-{job}" + (f"_{task}" if task else "")
    else:
        name = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return Path(config.paths.outputs) / experiment / name


def learning_rates(config: DictConfig) -> dict[str, float]:
    """What is configured, by the option's name; one per network."""
    rates = {group: (config.get(group) or {}).get("lr") for group in OPTIMIZERS}
    return {f"{group}.lr": float(rate) for group, rate in rates.items() if rate is not None}


def refuse_used(config: DictConfig, folder: RunFolder) -> None:
    """Nothing, unless ``resume=never`` and the run folder holds a run, or the beginning of one.

    Raises: ConfigError naming a file of it.
    """
    if config.resume != "never":
        return
    begun = [folder.config, folder.metrics] if rank() == 0 else []  # rank 0 begins one itself
    there = [*by_step(folder.checkpoints)[-1:], *(path for path in begun if path.exists())]
    if there:
        raise ConfigError(
            f"the run folder already holds {there[0].name}",
            where=str(folder.path),
            fix="choose another run_dir, or resume=auto to continue it",
        )


def checkpoint_to_resume(
    folder: RunFolder, *, say: Callable[[str], None]
) -> tuple[Path, dict[str, Any]] | None:
    """The newest valid checkpoint of the run folder and its content, if there is one.

    ``say`` is told of each that is passed over.

    Raises: StorageError when none of several is valid, or when it holds no training state.
    """
    found = read_newest(
        folder.path, passed_over=lambda e: say(f"passed over {Path(e.where).name}: {e.what}")
    )
    if found is None and by_step(folder.checkpoints):
        raise StorageError(
            "none of the checkpoints can be read",
            where=str(folder.checkpoints),
            fix="bring back one that can, or move them away to begin anew",
        )
    if found is not None and not found[1].keys() >= {"train_state", "config", "reached"}:
        raise StorageError(
            "this file holds weights only, no training state",
            where=str(found[0]),
            fix="start from it with init_from=FILE instead of resuming",
        )
    return found


def identity(config: DictConfig, module: SupervisedSR, experiment: str) -> dict[str, Any]:
    """What every checkpoint of the run says about itself, beside its weights."""
    features = {
        name: {"name": term.features_name, "sha256": term.features_sha256}
        for name, term in module.loss.terms.items()
        if hasattr(term, "features_sha256")
    }
    head = module.generator.head
    return {
        "generator": dict(module.generator.spec),
        "head": None if head is None else dict(head.spec),
        "discriminator": _spec(config, "discriminator"),
        "objective": _spec(config, "objective"),
        "scale": int(config.scale),
        "features": features,
        "experiment": experiment,
        "version": srtrain.__version__,
        "protocol": module.validation.metrics.protocol,
        "config": plain(config),
    }


def _spec(config: DictConfig, group: str) -> dict[str, Any] | None:
    node = plain(config[group])
    return dict(spec_of(node, group=group)) if node else None


def digests(data: SRData) -> dict[str, Any]:
    """What the images of a run hash to, wherever they lie."""
    return {"format": data.digest_format, "train": data.train_digest, "val": data.val_digests}


def refuse_another(
    content: Mapping[str, Any],
    own: Mapping[str, Any],
    data: SRData,
    *,
    force: bool,
    say: Callable[[str], None],
) -> None:
    """Nothing, if a checkpoint's content belongs to the run that ``own`` and ``data`` describe.

    ``say`` is told if its images cannot be compared.

    Raises: ConfigError when it has another generator, scale, features or training images, unless
        ``force``.
    """
    if force:
        return
    fix = "use another run_dir, or force=true"
    made = f"step {content['step']} was made with"
    for key in FIXED:
        if content.get(key) != own[key]:
            what = f"{made} {key} {content.get(key)}, now it is {own[key]}"
            other = "use another run_dir; init_from.path=THIS_RUN starts it from these weights"
            raise ConfigError(what, where=key, fix=other if key == "scale" else fix)
    if not _comparable(content, data):
        say(
            f"step {content['step']} knows its images by an older hash: whether they are the same"
            " is not checked, and the best checkpoint is found anew"
        )
    elif content["data"]["train"] != data.train_digest:
        raise ConfigError(f"{made} other training images", where="data.train", fix=fix)


def _comparable(content: Mapping[str, Any], data: SRData) -> bool:
    return bool(content.get("data", {}).get("format") == data.digest_format)


def refuse_misfit(content: Mapping[str, Any], module: SupervisedSR) -> None:
    """Nothing, if the checkpoint's tensors are those of the networks that were built.

    Raises: ConfigError naming the first that are not: ``force`` does not make them fit.
    """
    saved, built = (
        {name: tuple(value.shape) for name, value in state.items()}
        for state in (content["train_state"]["state_dict"], module.state_dict())
    )
    wrong = [name for name in {**built, **saved} if saved.get(name) != built.get(name)]
    if wrong:
        named = [f"{n} {saved.get(n, 'missing')}, now {built.get(n, 'none')}" for n in wrong[:3]]
        raise ConfigError(
            f"{len(wrong)} tensors of step {content['step']} do not fit: {'; '.join(named)}",
            where="generator",
            fix="take another run_dir, and init_from=FILE init_from.partial=true for what fits",
        )


def same_sets(content: Mapping[str, Any], own: Mapping[str, Any], data: SRData) -> set[str]:
    """The validation sets whose figures in a checkpoint count: same images, same metrics."""
    if content.get("protocol") != own["protocol"]:
        return set()
    before = content["data"]["val"] if _comparable(content, data) else {}
    return {name for name, digest in data.val_digests.items() if before.get(name) == digest}


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """``key old → new`` for every value that two configurations do not share."""
    old, new = (dict(_flat(config, "")) for config in (before, now))
    return [
        f"{key} {_word(old.get(key))} → {_word(new.get(key))}"
        for key in {**old, **new}
        if old.get(key) != new.get(key) and key not in ABOUT_THE_COMMAND
    ]


def _flat(config: Mapping[str, Any], above: str) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _word(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else "null" if value is None else str(value)
