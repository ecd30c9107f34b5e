"""How failures are told."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from srtrain.config.problems import RefusedError
from srtrain.errors import (
    ConfigError,
    DistributedError,
    InterruptedRunError,
    PreemptedError,
    SrtrainError,
)
from srtrain.ranks import rank

if TYPE_CHECKING:
    from srtrain.training.peers import Peers


def tell(error: SrtrainError) -> None:
    """One line on stderr for each problem: what, where, how to fix; what all ranks say, once.

    The command that continues a run is a line of its own, the last.
    """
    if error.told or (rank() and isinstance(error, InterruptedRunError | PreemptedError)):
        return
    problems = error.problems if isinstance(error, RefusedError) else (error,)
    ranks = others()
    verdict = ranks.verdict(wait_s=0) if ranks else None
    for problem in problems:
        derived = verdict is not None and isinstance(problem, DistributedError)
        say(str(problem), about=verdict.what if verdict and derived else last_words(problem))


def say(line: str, *, about: str) -> None:
    """This line, unless another rank of this machine has said what it is about."""
    ranks = others()
    if ranks is None or ranks.may_tell(about):
        print(f"srtrain: error: {line}", file=sys.stderr, flush=True)


def last_words(error: BaseException) -> str:
    """What the other ranks are told of a rank's end."""
    if isinstance(error, SrtrainError):
        return " · ".join(part for part in (error.what, error.where) if part) or str(error)
    return f"{type(error).__name__}: {error}".splitlines()[0]


def others() -> Peers | None:
    """The other ranks, where this process has met any; asking imports no torch."""
    peers = sys.modules.get("srtrain.training.peers")
    found: Peers | None = peers.joined() if peers else None
    return found


def _is_out_of_memory(error: BaseException) -> bool:
    """Of the machine or of a GPU; torch's classes are known by name, this imports none of it."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "not enough memory" in str(error)


def expected(error: BaseException) -> SrtrainError | None:
    """The failure that a user can mend behind ``error``; None for a bug.

    Hydra wraps what a constructor raises: ours come through as they were, and what any other class
    says about its arguments is about the configuration.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, SrtrainError):
            return cause
        if _is_out_of_memory(cause):
            return ConfigError(
                "out of memory",
                where=str(cause).partition("\n")[0].partition(". Tried")[0],
                fix="smaller batches or patches; trainer.accumulate=2 halves what a batch takes",
            )
        cause = cause.__cause__
    if "hydra" not in sys.modules:
        return None
    from hydra.errors import HydraException, InstantiationException

    if not isinstance(error, HydraException):
        return None
    text = str(error).partition("Config search path")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    keys = [line.partition(":")[2].strip() for line in lines if line.startswith("full_key")]
    what = " ".join(line for line in lines if not line.startswith("full_key"))
    if "hydra/launcher" in what or "hydra/sweeper" in what:
        fix = "pip install 'srtrain[sweep]' (joblib, optuna) or 'srtrain[slurm]' (submitit)"
    elif isinstance(error, InstantiationException):
        fix = "correct its values"
    else:
        fix = "srtrain --help lists groups and options"
    return ConfigError(what, where=keys[0] if keys else "configuration", fix=fix)
