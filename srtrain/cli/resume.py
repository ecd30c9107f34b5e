"""Which folder a run lives in, and whether what lies there may be continued."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import srtrain
from srtrain.cli.build import plain
from srtrain.errors import ConfigError
from srtrain.networks.storage import newest_valid, read_checkpoint

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from srtrain.training.run_folder import RunFolder
    from srtrain.training.supervised import SupervisedSR

FIXED = ("scale", "generator", "features")  # continuing with another would be another run


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


def checkpoint_to_resume(config: DictConfig, folder: RunFolder) -> Path | None:
    """The newest valid checkpoint of the run folder, if there is one.

    Raises: ConfigError when there is one and ``resume=never``.
    """
    found = newest_valid(folder.path)
    if found is not None and config.resume == "never":
        raise ConfigError(
            f"the run folder already holds {found.name}",
            where=str(folder.path),
            fix="choose another run_dir, or resume=auto to continue it",
        )
    return found


def identity(config: DictConfig, module: SupervisedSR, experiment: str) -> dict[str, Any]:
    """What every checkpoint of the run says about itself, beside its weights."""
    features = {
        name: {"name": term.features_name, "sha256": term.features_sha256}
        for name, term in module.loss.terms.items()
        if hasattr(term, "features_sha256")
    }
    return {
        "generator": dict(module.generator.spec),
        "scale": int(config.scale),
        "features": features,
        "experiment": experiment,
        "version": srtrain.__version__,
        "protocol": module.validation.metrics.protocol,
        "config": plain(config),
    }


def step_to_resume(checkpoint: Path, own: dict[str, Any], *, force: bool) -> int:
    """The step of a checkpoint that belongs to this run.

    Raises: ConfigError when it has another generator, scale or features, unless ``force``.
    """
    content = read_checkpoint(checkpoint)
    for key in FIXED:
        if content.get(key) != own[key] and not force:
            raise ConfigError(
                f"{checkpoint.name} was made with {key} {content.get(key)}, now it is {own[key]}",
                where=key,
                fix="use another run_dir, or force=true",
            )
    return int(content["step"])


def continue_command(folder: RunFolder) -> str:
    """The command that continues a run."""
    return f"python -m srtrain resume={short(folder.path)}"


def short(path: Path) -> Path:
    """Relative to the working directory where it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
