"""``--multirun``: several runs through Hydra's launchers, all checked before the first starts."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from srtrain.cli.flags import Request, read_flags
from srtrain.cli.jobs import Job, Jobs, jobs_table
from srtrain.cli.process import SIGNALS, interpreter, lifetime, short
from srtrain.cli.quiet import make_console
from srtrain.cli.tell import expected, tell
from srtrain.cli.unbroken import unbroken_output
from srtrain.config.compose import (
    VERSION_BASE,
    Composition,
    command_line,
    hydra_ready,
    register_resolvers,
    search_path,
)
from srtrain.config.location import conf_dir
from srtrain.config.preflight import prepare
from srtrain.config.problems import RefusedError
from srtrain.config.words import jobs_of, quote_path, shorthand
from srtrain.errors import (
    ConfigError,
    DistributedError,
    InterruptedRunError,
    PreemptedError,
    SrtrainError,
)
from srtrain.files import read_json
from srtrain.ranks import launched, rank

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hydra.conf import HydraConf

SLURM, LOCAL = "submitit_slurm", "submitit_local"
AGAIN = 144  # the exit code at which submitit's local launcher starts a job again


def sweep(request: Request) -> int:
    """Run every combination, tell how each ended; the exit code is that of the first that failed.

    Raises: RefusedError with the problems of all jobs.
    """
    if launched():
        fix = "start it as one process (trainer.devices=N in its words), or use an array of jobs"
        raise ConfigError("a sweep cannot be one of several ranks", where="--multirun", fix=fix)
    words = [quote_path(word, sweeps=True) for word in shorthand(request.words)]
    words += _common_folder(words, check_jobs(words, request))
    launcher = _chosen(words, "hydra/launcher")
    with ExitStack() as stack:
        jobs = Jobs(_record(words, launcher, stack))
        jobs.clear()
        if launcher == SLURM:
            print(f"the jobs write to {short(jobs.folder.absolute())}/.submitit")
        asked = [*words, *search_path(request.config_dirs), *_defaults(words, jobs.folder)]
        code = _launch(asked, jobs, launcher)
        _report(jobs, launcher, words, request)
    return code


def check_jobs(words: Sequence[str], request: Request) -> list[Composition]:
    """Every job's configuration.

    Raises: RefusedError with the problems of all jobs.
    """
    problems: list[SrtrainError] = []
    plans = []
    with hydra_ready():
        jobs = jobs_of(words)
    for job in jobs:
        try:
            plans.append(prepare(job, config_dirs=request.config_dirs))
        except RefusedError as error:
            problems += error.problems
    if problems:
        raise RefusedError(problems)
    return plans


def _common_folder(words: Sequence[str], plans: Sequence[Composition]) -> Iterator[str]:
    """The word that puts all jobs side by side, so that one ``run_dir`` continues them."""
    from srtrain.cli.resume import run_dir

    if not any(word.startswith(("run_dir=", "resume=")) for word in words):
        experiments = {plan.experiment for plan in plans}
        name = experiments.pop() if len(experiments) == 1 else "sweep"
        yield quote_path(f"run_dir={run_dir(plans[0].config, name)}")


def _chosen(words: Sequence[str], key: str) -> str:
    return next((w.partition("=")[2] for w in reversed(words) if w.startswith(f"{key}=")), "basic")


def _record(words: Sequence[str], launcher: str, stack: ExitStack) -> Path:
    """The folder for Hydra's record of the sweep and ours; what is submitted is read from there."""
    given = [word.partition("=")[2] for word in words if word.startswith("hydra.sweep.dir=")]
    if given:
        return Path(given[-1])
    if launcher in {SLURM, LOCAL}:
        return Path("outputs/submitit") / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="srtrain-sweep-")))


def _defaults(words: Sequence[str], folder: Path) -> Iterator[str]:
    """What Hydra's plugins should be told where the user says nothing."""
    yield f"hydra.sweep.dir={folder}"
    if _chosen(words, "hydra/sweeper") == "optuna":
        given = {word.partition("=")[0] for word in words}
        if "hydra.sweeper.direction" not in given:  # what a run returns is to grow
            yield "hydra.sweeper.direction=maximize"
        if given.isdisjoint({"hydra.sweeper.sampler.seed", "hydra/sweeper/sampler"}):
            yield "hydra.sweeper.sampler.seed=1"  # a search that was stopped draws the same jobs


def _launch(words: Sequence[str], jobs: Jobs, launcher: str) -> int:
    """Hydra's launcher on all jobs, to their end; the exit code."""
    # submitit's USR2 would reach nobody who saves.
    os.environ.setdefault("SUBMITIT_PREEMPT_SIGNAL", "USR1")
    try:
        with nullcontext() if launcher == SLURM else jobs.stoppable():
            run_hydra([*words, "--multirun"])
    except KeyboardInterrupt:
        if launcher != SLURM:
            raise
        print("the jobs go on under Slurm: squeue --me, scancel JOB", file=sys.stderr)
        return InterruptedRunError.exit_code
    except SystemExit as left:  # a job in this process
        return int(left.code or 0)
    except Exception as error:
        known = expected(error) or _without_result(error, jobs.folder)
        if known is None:
            raise
        told = isinstance(error, SrtrainError) and launcher not in {SLURM, LOCAL}
        if not told:  # what a job tells by itself, this terminal shows unless it was submitted
            tell(known)
        return known.exit_code
    return 0


def _without_result(error: Exception, folder: Path) -> SrtrainError | None:
    """A submitted job that was cancelled or killed."""
    if not type(error).__module__.startswith("submitit"):
        return None
    fix = "its own log says more; the same command with this sweep's run_dir continues"
    return DistributedError(str(error).splitlines()[0], where=f"{folder}/.submitit", fix=fix)


def _report(jobs: Jobs, launcher: str, words: Sequence[str], request: Request) -> None:
    """The table of jobs; where a signal ended the sweep, the command that continues it."""
    found = jobs.read()
    if found:
        make_console(quiet=False).print(jobs_table(found))
    if jobs.stopped and launcher != SLURM:
        again = command_line(words, request.config_dirs)
        command = [str(short(interpreter())), "-m", "srtrain", "--multirun", *again]
        print(f"continue all of the sweep with:\n{shlex.join(command)}", file=sys.stderr)


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

    asked = HydraConfig.get()
    plan, mine = _planned(asked)
    jobs = Jobs(Path(asked.sweep.dir))
    print(f"job {mine.number}: {' '.join(mine.words)}")
    try:
        jobs.begin(mine)
        with unbroken_output(), lifetime(plan.argv):
            score = train.run(
                plan.config, experiment=plan.experiment, choices=plan.choices, argv=plan.argv
            )
    except Exception as error:
        known = expected(error)
        jobs.end(mine, code=known.exit_code if known else 1)
        if known is None:
            raise
        tell(known)
        if isinstance(known, InterruptedRunError | PreemptedError):
            _leave(str(asked.runtime.choices["hydra/launcher"]), known.exit_code)
        raise known from error
    score = _score(mine.folder) if score is None else score
    jobs.end(mine, code=0, score=score)
    return score


def _planned(asked: HydraConf) -> tuple[Composition, Job]:
    """The run's configuration in a folder of its own, and what to tell about it."""
    from srtrain.cli.resume import run_dir

    added = (source for source in asked.runtime.config_sources if "searchpath" in source.provider)
    flags = [f"--config-dir={source.path}" for source in added]
    request = read_flags([*map(str, asked.overrides.task), *flags])
    plan = prepare(request.words, config_dirs=request.config_dirs)
    folder = f"{run_dir(plan.config, plan.experiment)}_{asked.job.num}"
    plan.config.run_dir = folder
    argv = (*plan.argv, f"run_dir={folder}")
    words = [word for word in request.words if not word.startswith("run_dir=")]
    return (
        Composition(plan.config, plan.choices, argv),
        Job(number=asked.job.num, words=words, folder=folder),
    )


def _leave(launcher: str, code: int) -> None:
    """End this process the way in which the launcher starts the saved job again, if it does.

    Raises: SystemExit, unless the launcher waits for a result.
    """
    ahead = SIGNALS.stop_requested() == signal.SIGUSR1  # of the time limit
    if launcher == SLURM:
        if ahead and rank() == 0:
            array, task = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
            number = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
            subprocess.run(["scontrol", "requeue", number], check=False)
        raise SystemExit(code)
    if launcher == LOCAL and ahead:
        raise SystemExit(AGAIN)
    if launcher == "basic":  # ends the sweep, not only the job
        raise SystemExit(code)


def _score(folder: str) -> float | None:
    """The mean Y-PSNR that the run's own ranks have measured."""
    summary = Path(folder) / "summary.json"
    sets = read_json(summary)["val"].values() if summary.exists() else ()
    values = [figures["psnr_y"] for figures in sets if "psnr_y" in figures]
    return sum(values) / len(values) if values else None
