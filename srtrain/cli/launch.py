"""Several devices on one node: one process each, through torchrun's own API."""

from __future__ import annotations

import os
import sys
import uuid
from typing import TYPE_CHECKING

from srtrain.errors import ConfigError, DistributedError, SrtrainError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from srtrain.training.loop import TrainerOptions

KNOWN_CODES = {cls.exit_code: cls for cls in SrtrainError.__subclasses__()}


def rank() -> int:
    """This process's number among all ranks; 0 where nobody launched several."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))


def launched() -> bool:
    """Whether torchrun or srun started this process as one of several."""
    several = int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ
    return "TORCHELASTIC_RUN_ID" in os.environ or several


def must_launch(options: TrainerOptions) -> bool:
    """Whether this process should start the ranks instead of being one.

    Raises: ConfigError when several devices are asked for without a strategy for them.
    """
    if options.devices * options.num_nodes > 1 and options.strategy == "single":
        raise ConfigError(
            f"trainer.devices={options.devices} with one process",
            where="trainer",
            fix="add trainer=ddp",
        )
    return options.strategy == "ddp" and options.devices > 1 and not launched()


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
    try:
        elastic_launch(config, entrypoint=sys.executable)("-m", "srtrain", *words)
    except ChildFailedError as error:
        number, failure = error.get_first_failure()
        kind = KNOWN_CODES.get(failure.exitcode, DistributedError)
        raise kind(
            f"rank {number} ended with code {failure.exitcode}", fix="its own message stands above"
        ) from error
