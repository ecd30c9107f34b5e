"""How failures are told."""

from __future__ import annotations

import sys

from srtrain.config.problems import RefusedError
from srtrain.errors import ConfigError, InterruptedRunError, PreemptedError, SrtrainError
from srtrain.ranks import rank


def tell(error: SrtrainError) -> None:
    """One line on stderr for each problem: what, where, how to fix; what all ranks say, once.

    The command that continues a run is a line of its own, the last.
    """
    if rank() and isinstance(error, InterruptedRunError | PreemptedError):
        return
    problems = error.problems if isinstance(error, RefusedError) else (error,)
    for problem in problems:
        print(f"srtrain: error: {problem}", file=sys.stderr)


def expected(error: BaseException) -> SrtrainError | None:
    """The failure that a user can mend behind ``error``; None for a bug.

    Hydra wraps what a constructor raises: ours come through as they were, and what any other class
    says about its arguments is about the configuration.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, SrtrainError):
            return cause
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
