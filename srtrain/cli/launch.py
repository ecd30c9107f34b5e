"""Several devices on one node, one process each through torchrun's own API; what ranks share."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from srtrain.cli.process import LEAVE, SIGNALS
from srtrain.errors import ConfigError, DistributedError, SrtrainError, Stopped
from srtrain.ranks import launched, rank

if TYPE_CHECKING:
    from collections.abc import Sequence

    from srtrain.training.loop import TrainerOptions

KNOWN_CODES = {cls.exit_code: cls for cls in SrtrainError.__subclasses__()}


def must_launch(options: TrainerOptions) -> bool:
    """Whether this process should start the ranks instead of being one."""
    several = options.devices * options.num_nodes > 1
    return options.strategy == "ddp" and several and not launched()


def agree_on(folder: Path, *, timeout_s: int) -> Path:
    """Rank 0's folder on every rank: under torchrun each would name a new one by its own clock.

    Raises: DistributedError when rank 0 does not say within ``timeout_s``.
    """
    from torch.distributed import DistStoreError, TCPStore

    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return folder
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    key = f"srtrain/run_dir/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    try:
        store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=timeout_s))
        if rank() == 0:
            store.set(key, str(folder))
        return Path(store.get(key).decode())
    except DistStoreError as error:
        raise DistributedError(
            f"rank {rank()} did not hear the run folder from rank 0",
            where=f"{host}:{port}",
            fix="its own message says why, or the ranks cannot reach each other",
        ) from error


def launch(options: TrainerOptions, words: Sequence[str]) -> None:
    """Run ``python -m srtrain WORDS`` once per device, hand on the signals, and wait.

    Raises: the error class of the first rank that failed, which has said why on its stderr; Stopped
        when a signal came.
    """
    from srtrain.cli.agent import failures_of_ranks

    if options.num_nodes > 1:
        raise ConfigError(
            f"trainer.num_nodes={options.num_nodes}, but this process was started alone",
            where="trainer.num_nodes",
            fix="start it by srun (scripts/slurm/train.sbatch) or torchrun on every node",
        )
    threads = max(1, (os.cpu_count() or 1) // options.devices)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    SIGNALS.patient, SIGNALS.saved = True, "what was saved is said above"
    failed = failures_of_ranks(options.devices, words)
    SIGNALS.patient = False
    if not failed:
        return
    stops = {error.exit_code for error in LEAVE.values()}
    # One that is asked to stop may break what the others wait for.
    number, code = min(failed.items(), key=lambda item: item[1] not in stops)
    if SIGNALS.stop_requested() and (code in stops or code not in KNOWN_CODES):
        raise Stopped(SIGNALS.stop_requested())
    kind = KNOWN_CODES.get(code, DistributedError)
    raise kind(f"rank {number} ended with code {code}", fix="its own message stands above")
