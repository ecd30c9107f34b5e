"""``--multirun``: several runs through Hydra's launchers, all checked before the first starts."""

from __future__ import annotations

import os
import sys
import tempfile
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from srtrain.cli.flags import Request, read_flags
from srtrain.cli.process import lifetime
from srtrain.cli.tell import expected, tell
from srtrain.config.compose import (
    VERSION_BASE,
    Composition,
    hydra_ready,
    register_resolvers,
    search_path,
)
from srtrain.config.location import conf_dir
from srtrain.config.preflight import prepare
from srtrain.config.problems import RefusedError
from srtrain.config.words import jobs_of, quote_path, shorthand
from srtrain.errors import InterruptedRunError, PreemptedError, SrtrainError

if TYPE_CHECKING:
    from collections.abc import Sequence


def sweep(request: Request) -> int:
    """Run every combination; the exit code is that of the first job that failed.

    Raises: RefusedError with the problems of all jobs.
    """
    words = [quote_path(word, sweeps=True) for word in shorthand(request.words)]
    check_jobs(words, request)
    # A sweep needs a folder for Hydra's own record of it; only SLURM's launcher reads it back.
    with tempfile.TemporaryDirectory(prefix="srtrain-sweep-") as scratch:
        ours = search_path(request.config_dirs)
        if not any(word.startswith("hydra.sweep.dir=") for word in words):
            submits = any(word.startswith("hydra/launcher=submitit") for word in words)
            ours.append(f"hydra.sweep.dir={'outputs/submitit' if submits else scratch}")
        try:
            run_hydra([*words, *ours, "--multirun"])
        except Exception as error:
            known = expected(error)
            if known is None:
                raise
            if not isinstance(error, SrtrainError):  # a job's own errors have been told by it
                tell(known)
            return known.exit_code
    return 0


def check_jobs(words: Sequence[str], request: Request) -> None:
    """Prepare every job's configuration.

    Raises: RefusedError with the problems of all jobs.
    """
    problems: list[SrtrainError] = []
    with hydra_ready():
        jobs = jobs_of(words)
    for job in jobs:
        try:
            prepare(job, config_dirs=request.config_dirs)
        except RefusedError as error:
            problems += error.problems
    if problems:
        raise RefusedError(problems)


def complete(words: Sequence[str]) -> int:
    """Hydra's shell completion."""
    run_hydra(words)
    return 0


def run_hydra(words: Sequence[str]) -> None:
    """``hydra.main`` on ``words``; errors come through as they were raised."""
    register_resolvers()
    before, sys.argv = sys.argv, [sys.argv[0], *words]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        hydra.main(version_base=VERSION_BASE, config_path=str(conf_dir()), config_name="train")(
            job
        )()
    finally:
        sys.argv = before


def job(_: DictConfig) -> float | None:
    """One run of a sweep, in whatever process the launcher chose; its score, for optimisers.

    Composed anew from the job's own words, because Hydra's composition knows no implied budget.
    """
    from srtrain.cli import train
    from srtrain.cli.resume import run_dir

    asked = HydraConfig.get()
    added = (source for source in asked.runtime.config_sources if "searchpath" in source.provider)
    flags = [f"--config-dir={source.path}" for source in added]
    request = read_flags([*map(str, asked.overrides.task), *flags])
    try:
        plan = prepare(request.words, config_dirs=request.config_dirs)
        folder = f"{run_dir(plan.config, plan.experiment)}_{asked.job.num}"
        plan = _in_folder(plan, folder)
        print(f"job {asked.job.num}: {' '.join(request.words)}")
        with lifetime(plan.argv):
            return train.run(
                plan.config, experiment=plan.experiment, choices=plan.choices, argv=plan.argv
            )
    except (InterruptedRunError, PreemptedError) as error:
        tell(error)
        raise SystemExit(error.exit_code) from error  # ends the sweep, not only the job
    except Exception as error:
        known = expected(error)
        if known is None:
            raise
        tell(known)
        raise known from error


def _in_folder(plan: Composition, folder: str) -> Composition:
    """The same run in a folder of its own."""
    plan.config.run_dir = folder
    return Composition(plan.config, plan.choices, (*plan.argv, f"run_dir={folder}"))
