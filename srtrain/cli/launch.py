"""Several devices on one node, one process each through torchrun's own API; what ranks share."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from srtrain.cli.process import CODES, SIGNALS, with_continuation
from srtrain.cli.tell import tell
from srtrain.errors import (
    ConfigError,
    DistributedError,
    PreemptedError,
    SrtrainError,
    Stopped,
)
from srtrain.ranks import granted, launched, rank

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.distributed import Store

    from srtrain.training.board import Verdict
    from srtrain.training.loop import TrainerOptions

KNOWN_CODES = {SrtrainError.exit_code: SrtrainError}  # a bug, and what a user can meet
KNOWN_CODES |= {cls.exit_code: cls for cls in SrtrainError.__subclasses__()}


def must_launch(options: TrainerOptions) -> bool:
    """Whether this process should start the ranks instead of being one."""
    several = options.devices * options.num_nodes > 1
    return options.strategy == "ddp" and several and not launched()


def meet(folder: Path, *, timeout_s: int, words: Sequence[str]) -> Path:
    """Find the other ranks, which from now on end together, and rank 0's run folder.

    Under torchrun each rank would name a new folder by its own clock.

    Raises: DistributedError when rank 0 does not come, or does not say, within ``timeout_s``.
    """
    given = granted()
    if not launched() or given is None or given.total == 1:
        return folder
    from srtrain.training import meeting
    from srtrain.training.peers import Peers, join

    store = meeting.meet(timeout_s=timeout_s)
    store.set_timeout(timedelta(seconds=timeout_s))

    def tell_of(verdict: Verdict) -> None:
        kind = PreemptedError if verdict.code in CODES else DistributedError
        tell(with_continuation(kind(verdict.told), folder, words))

    by_agent = meeting.by_agent()
    join(
        Peers(
            store,
            rank=rank(),
            world_size=given.total,
            timeout_s=timeout_s,
            by_agent=by_agent,
            patient=by_agent and given.nodes == 1,
            tell=tell_of,
        )
    )
    folder = agree_on(store, folder, total=given.total, timeout_s=timeout_s)
    meeting.forget()
    return folder


def agree_on(store: Store, folder: Path, *, total: int, timeout_s: float) -> Path:
    """Rank 0's folder on every rank, once all have come.

    Raises: DistributedError when one does not come within ``timeout_s``.
    """
    from srtrain.training.meeting import gather

    said = gather(store, "start", str(folder), rank=rank(), total=total, timeout_s=timeout_s)
    return Path(said[0])


def launch(options: TrainerOptions, words: Sequence[str]) -> None:
    """Run ``python -m srtrain WORDS`` once per device, hand on the signals, and wait.

    Raises: the error class of the first rank that failed, which has said why on its stderr; Stopped
        when a signal came.
    """
    from srtrain.cli.agent import run_ranks

    if options.num_nodes > 1:
        raise ConfigError(
            f"trainer.num_nodes={options.num_nodes}, but this process was started alone",
            where="trainer.num_nodes",
            fix="start it by srun (scripts/slurm/train.sbatch) or torchrun on every node",
        )
    threads = max(1, (os.cpu_count() or 1) // options.devices)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    SIGNALS.patient, SIGNALS.saved = True, "what was saved is said above"
    ended = run_ranks(options.devices, words)
    SIGNALS.patient = False
    if ended.code == 0:
        return
    stop = SIGNALS.stop_requested()
    if stop and (ended.code in CODES or ended.code not in KNOWN_CODES):
        error: BaseException = Stopped(stop)
    else:
        error = KNOWN_CODES.get(ended.code, DistributedError)(ended.what)
    vars(error)["told"] = ended.told
    raise error
