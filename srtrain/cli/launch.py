"""Several devices on one node, one process each through torchrun's own API; what ranks share."""

from __future__ import annotations

import logging
import os
import sys
import uuid
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from srtrain.errors import ConfigError, DistributedError, SrtrainError
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
    """Run ``python -m srtrain WORDS`` once per device and wait.

    Raises: the error class of the first rank that failed, which has said why on its stderr.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if options.num_nodes > 1:
        raise ConfigError(
            f"trainer.num_nodes={options.num_nodes}, but this process was started alone",
            where="trainer.num_nodes",
            fix="start it by srun (scripts/slurm/train.sbatch) or torchrun on every node",
        )
    threads = max(1, (os.cpu_count() or 1) // options.devices)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=options.devices,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.5,
    )
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the ranks tell
    try:
        elastic_launch(config, entrypoint=sys.executable)("-m", "srtrain", *words)
    except ChildFailedError as error:
        number, failure = error.get_first_failure()
        kind = KNOWN_CODES.get(failure.exitcode, DistributedError)
        raise kind(
            f"rank {number} ended with code {failure.exitcode}", fix="its own message stands above"
        ) from error
