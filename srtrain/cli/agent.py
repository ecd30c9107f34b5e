"""torchrun's agent for one node, which also hands on to its ranks the signal it got."""

from __future__ import annotations

import logging
import os
import sys
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

from torch.distributed.elastic.agent.server import WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.rendezvous import RendezvousParameters, registry

from srtrain.cli.process import SIGNALS
from srtrain.errors import DistributedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.distributed.elastic.agent.server import RunResult, WorkerGroup

# What the agent itself ends the ranks for; those that ask a run to stop are ours.
AGENTS_SIGNALS = "SIGHUP,SIGQUIT"


class Agent(LocalElasticAgent):
    """Ranks lead sessions of their own, so only the process that started them can reach them."""

    def __init__(self, spec: WorkerSpec) -> None:
        super().__init__(spec, DefaultLogsSpecs())
        self._handed_on = False

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        number = SIGNALS.stop_requested()
        if number and not self._handed_on:
            self._handed_on = True
            for worker in worker_group.workers:
                with suppress(ProcessLookupError):
                    os.kill(worker.id, number)
        result: RunResult = super()._monitor_workers(worker_group)
        return result


def failures_of_ranks(devices: int, words: Sequence[str]) -> dict[int, int]:
    """Run ``python -m srtrain WORDS`` once per device; rank → exit code, the first to fail first.

    Raises: DistributedError when the agent was killed, and the ranks with it.
    """
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = AGENTS_SIGNALS
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the ranks tell
    meeting = RendezvousParameters(
        backend="c10d", endpoint="localhost:0", run_id=uuid.uuid4().hex, min_nodes=1, max_nodes=1
    )
    spec = WorkerSpec(
        role="srtrain",
        local_world_size=devices,
        entrypoint=sys.executable,
        args=("-m", "srtrain", *words),
        rdzv_handler=registry.get_rendezvous_handler(meeting),
        max_restarts=0,
        monitor_interval=0.5,
    )
    try:
        result = Agent(spec).run()
    except SignalException as error:
        name = error.sigval.name
        raise DistributedError(f"stopped by {name}", fix="nothing was saved for it") from error
    finally:
        spec.rdzv_handler.shutdown()
    failed = sorted(result.failures.items(), key=lambda item: item[1].timestamp)
    return {rank: failure.exitcode for rank, failure in failed}
