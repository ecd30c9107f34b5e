"""torchrun's agent for one node, which looks after its ranks and hands on the signal it got."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from torch.distributed import TCPStore
from torch.distributed.elastic.agent.server import RunResult, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.rendezvous import RendezvousParameters, registry

from srtrain.cli.process import AGENT, CODES, SIGNALS
from srtrain.errors import DistributedError
from srtrain.training.board import Board, Still, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.distributed.elastic.agent.server import Worker, WorkerGroup

# What the agent itself ends the ranks for; those that ask a run to stop are ours.
AGENTS_SIGNALS = "SIGQUIT"
LOOK_S = 0.5
STOPPED_S = 10.0  # sooner than its peers find it silent: here the reason is known
FAIL_S = 20.0  # for the others to leave, once one has failed
SAVE_S = 300.0  # the same, once they were asked to save and leave


@dataclass(frozen=True)
class Ended:
    """How a group of ranks ended: the code and words of the first that failed."""

    code: int
    what: str = ""
    told: bool = False


class Agent(LocalElasticAgent):
    """Ranks lead sessions of their own, so only the process that started them can reach them.

    Unlike torchrun's it gives those that did not fail some time to say why they end.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        super().__init__(spec, DefaultLogsSpecs())
        self._handed_on = False
        self._codes: dict[int, int] = {}
        self._board: Board | None = None
        self._stopped: dict[int, Still] = {}
        self._ending = 0.0

    def ended(self) -> Ended:
        """What all ranks together came to."""
        verdict = self._board.verdict() if self._board else None
        failed = {rank: code for rank, code in self._codes.items() if code}
        if not failed:
            return Ended(0)
        told = bool(self._board and self._board.told())
        stops = [code for code in failed.values() if code in CODES]
        if verdict is None or stops:  # one that is asked to stop may break the others
            rank, code = next((r, c) for r, c in failed.items() if not stops or c in stops)
            return Ended(code, f"rank {rank} ended with code {code}", told)
        return Ended(verdict.code, verdict.told, told)

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        if self._board is None:
            self._board = Board(_store(worker_group))
        running = [worker for worker in worker_group.workers if self._runs(worker, self._board)]
        self._hand_on(running)
        verdict = self._board.verdict()
        if running and verdict is not None:
            self._end(running, self._board, stops=verdict.code in CODES)
        if running:
            return RunResult(state=WorkerState.HEALTHY)
        result: RunResult = super()._monitor_workers(worker_group)
        return result

    def _hand_on(self, running: Sequence[Worker]) -> None:
        number = SIGNALS.stop_requested()
        if number and not self._handed_on:
            self._handed_on = True
            for worker in running:
                with suppress(ProcessLookupError):
                    os.kill(worker.id, number)

    def _runs(self, worker: Worker, board: Board) -> bool:
        """Whether a rank has not ended; what is wrong with it is written for the others."""
        rank, name = worker.global_rank, f"rank {worker.global_rank}"
        if rank in self._codes:
            return False
        code, stopped = _state(worker.id)
        still = self._stopped.setdefault(rank, Still(longest=2 * LOOK_S))
        if still.seconds(stopped) > STOPPED_S and stopped:
            what = f"{name} was stopped for {STOPPED_S:g} s (SIGSTOP)"
            board.accuse(Verdict(rank, DistributedError.exit_code, what))
        if code is None:
            return True
        self._codes[rank] = code
        if code < 0:
            known = {number.value: number.name for number in signal.Signals}
            what = f"{name} was killed by {known.get(-code, f'signal {-code}')}"
            board.accuse(Verdict(rank, DistributedError.exit_code, what))
        elif code:
            board.accuse(Verdict(rank, code, f"{name} ended with code {code}"))
        return False

    def _end(self, running: Sequence[Worker], board: Board, *, stops: bool) -> None:
        """Those that cannot leave by themselves, now; the others, when their time is up."""
        now = time.monotonic()
        self._ending = self._ending or now
        late = now - self._ending > (SAVE_S if stops else FAIL_S)
        for worker in running:
            stopped = _state(worker.id)[1]
            unaware = board.heard(worker.global_rank) is None and not self._handed_on
            if late or stopped or unaware:
                with suppress(ProcessLookupError):
                    os.killpg(worker.id, signal.SIGKILL)


def _state(pid: int) -> tuple[int | None, bool]:
    """A child's exit code, negative for a signal, and whether it is stopped; it is not reaped."""
    found = os.waitid(os.P_PID, pid, os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
    if found is None:
        return None, False
    if found.si_code == os.CLD_EXITED:
        return found.si_status, False
    if found.si_code in {os.CLD_KILLED, os.CLD_DUMPED}:
        return -found.si_status, False
    return None, True


def _store(group: WorkerGroup) -> TCPStore:
    """The store that the ranks use, as they reach it."""
    host, port = group.master_addr, group.master_port
    assert host is not None
    assert port is not None
    return TCPStore(host, port, is_master=False, timeout=timedelta(seconds=10))


def run_ranks(devices: int, words: Sequence[str]) -> Ended:
    """Run ``python -m srtrain WORDS`` once per device, until all have ended.

    Raises: DistributedError when the agent was killed, and the ranks with it.
    """
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = AGENTS_SIGNALS
    os.environ[AGENT] = str(os.getpid())
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
        monitor_interval=LOOK_S,
    )
    agent = Agent(spec)
    try:
        agent.run()
        return agent.ended()
    except SignalException as error:
        name = error.sigval.name
        raise DistributedError(f"stopped by {name}", fix="nothing was saved for it") from error
    finally:
        del os.environ[AGENT]
        spec.rdzv_handler.shutdown()
