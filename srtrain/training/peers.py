"""What the ranks know of each other: who lives, who failed first and why, when all must end."""

from __future__ import annotations

import atexit
import hashlib
import os
import re
import signal
import socket
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from lightning.pytorch.callbacks import Callback

from srtrain.errors import DistributedError, DivergedError, InterruptedRunError, PreemptedError
from srtrain.training.board import MOST, Board, Still, Verdict, within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lightning.pytorch import LightningModule, Trainer

BEAT_S = 1.0
TICK_S = 0.25
SILENT_S = 15.0
UNWIND_S = 3.0  # for a rank to fail by itself, once another has
FLUSH_S = 10.0  # for the checkpoint that is being written
STOP_S = 120.0  # for a rank that was asked to save and leave
DONE = "done"
STOPS = {PreemptedError.exit_code: signal.SIGTERM, InterruptedRunError.exit_code: signal.SIGINT}
BROKEN = re.compile(r"gloo|nccl|NCCL|ProcessGroup|TCPStore|c10d")


class Peers:
    """Ends this process when another rank fails, falls silent or waits in vain.

    One thread talks to the store, which may never answer; the other only judges. Each rank listens
    to its successor alone, so that a thousand of them cost the store no more than each a little.
    ``patient``: the store is kept by a process of this machine that did not fail with any rank,
    and may be stopped from the keyboard. ``tell`` is given a verdict when nobody else can say it.
    """

    def __init__(
        self,
        store: dist.TCPStore,
        *,
        rank: int,
        world_size: int,
        timeout_s: float,
        by_agent: bool,
        patient: bool,
        tell: Callable[[Verdict], None],
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self.timeout_s = timeout_s
        self.store = store
        self.flush: Callable[[], object] = bool
        self.trains = False
        self._by_agent = by_agent
        self._patient = patient
        self._tell = tell
        self._board = Board(store.clone())
        self._verdict: Verdict | None = None
        self._shared = False  # the verdict stands on the board
        self._step = 0  # which this rank is in; 0: none
        self._waits = False
        self._rounds = 0
        self._next = (rank + 1) % world_size
        self._silence = Still(longest=2 * BEAT_S)
        self._lost = self._signalled = False
        self._stalled = Still(longest=2 * BEAT_S)
        self._stuck, self._obeyed, self._overdue = (Still(longest=4 * TICK_S) for _ in range(3))
        self._leaving: int | None = None
        self._done = threading.Event()
        talks = Board(store.clone())
        self._talker = threading.Thread(target=self._talk, args=(talks,), daemon=True)
        self._talker.start()
        threading.Thread(target=self._judge, daemon=True).start()
        atexit.register(self._go)  # the last: what follows may wait for the others

    # -- what the main thread says and asks

    def enters(self, step: int) -> None:
        """This rank computes ``step``, and shall not take longer than ``timeout_s``; 0: no step."""
        self._step, self._waits = step, False

    def waits(self, yes: bool) -> None:
        """Whether this rank has done its part of the step and waits for the others."""
        self._waits = yes

    def leave(self, code: int, what: str = "") -> None:
        """This rank ends: with code 0 nobody misses it, else ``what`` ends all others."""
        if code == 0:
            self._done.set()
            self._talker.join(FLUSH_S)
        elif self._leaving is None:
            self._leaving = code
            with suppress(RuntimeError, TimeoutError):
                verdict = Verdict(self.rank, code, what)
                self._verdict = within(BEAT_S, lambda: self._board.accuse(verdict))
                self._shared = True
        if not self._by_agent and self.rank == 0:
            self._stay(code)

    def may_tell(self, what: str) -> bool:
        """Whether nobody of this machine has told the user ``what``.

        A store that does not answer brought the verdict, and rank 0 told it before it left with the
        store; or it is what the verdict is about.
        """
        if self._verdict is not None and not self._shared:
            return True
        with suppress(RuntimeError, TimeoutError):
            key = f"{socket.gethostname()}/{hashlib.sha1(what[:MOST].encode()).hexdigest()}"
            return within(BEAT_S, lambda: self._board.claim(key))
        return not self._shared

    def verdict(self, *, wait_s: float | None = None) -> Verdict | None:
        """What ended the others; by default waits until somebody must know."""
        deadline = time.monotonic() + (SILENT_S + 2 * BEAT_S if wait_s is None else wait_s)
        while self._verdict is None and time.monotonic() < deadline:
            time.sleep(TICK_S)
        return self._verdict

    def broke(self, error: BaseException) -> bool:
        """Whether what failed is a collective or the store: another rank's doing, as a rule."""
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, dist.DistError):
                return True
            if type(cause) is RuntimeError and BROKEN.search(str(cause)):
                return True
            cause = cause.__cause__
        return False

    def _stay(self, code: int) -> None:
        """Keep the store until everybody has read in it, but not for long."""
        deadline = time.monotonic() + 3 * BEAT_S
        with suppress(RuntimeError):
            while time.monotonic() < deadline and (
                code or any(self._board.heard(r) != DONE for r in range(self.world_size))
            ):
                time.sleep(TICK_S)

    # -- the thread that talks

    def _talk(self, board: Board) -> None:
        try:
            while True:
                self._rounds += 1
                where = f"{'waits in' if self._waits else 'computes'} {self._step}"
                board.beat(self.rank, f"{self._rounds} {where}")
                self._listen(board)
                self._hear(board.verdict())
                if self._done.wait(BEAT_S):
                    return board.beat(self.rank, DONE)
        except RuntimeError:
            self._lost = not self._done.is_set()

    def _hear(self, verdict: Verdict | None) -> None:
        if verdict is not None and self._verdict is None:
            self._shared, self._verdict = True, verdict

    def _listen(self, board: Board) -> None:
        heard = board.heard(self._next)
        silent = self._silence.seconds(heard)
        if heard == DONE:
            self._next = (self._next + 1) % self.world_size
        elif heard is not None and silent > SILENT_S and self._next != self.rank:
            board.accuse(_silent(self._next))
        late = self._stalled.seconds((self._step, self._waits)) if self._step else 0.0
        if late > self.timeout_s:
            board.accuse(self._late(board))

    def _late(self, board: Board) -> Verdict:
        """Who is furthest behind: of nccl the host waits a step later, if at all."""
        beats = {rank: board.heard(rank) or DONE for rank in range(self.world_size)}
        at = {r: (int(b.split()[-1]), "waits in" in b) for r, b in beats.items() if b != DONE}
        least = min(at.values())
        behind = [rank for rank, place in at.items() if place == least]
        who = f"rank {behind[0]}" if len(behind) == 1 else f"ranks {', '.join(map(str, behind))}"
        what = f"{who} did not end step {least[0] or self._step} within {self.timeout_s:g} s"
        return Verdict(behind[0], DistributedError.exit_code, what)

    # -- the thread that judges

    def _judge(self) -> None:
        while not self._done.wait(TICK_S):
            if self._leaving is not None:
                if self._overdue.seconds(True) > 2 * FLUSH_S:
                    self._exit(self._leaving)
                continue
            self._verdict = self._verdict or self._of_the_store()
            if self._verdict is not None:
                self._obey(self._verdict)

    def _of_the_store(self) -> Verdict | None:
        stuck = self._stuck.seconds(self._rounds)
        if self._lost and self._by_agent:
            gone = "the process that started the ranks is gone"
            return Verdict(-1, PreemptedError.exit_code, gone)
        if self._lost:
            return Verdict(0, DistributedError.exit_code, "rank 0 is gone: killed, or its node is")
        return _silent(0) if stuck > SILENT_S and not self._patient else None

    def _obey(self, verdict: Verdict) -> None:
        """Leave the main thread some time to leave by itself, then end the process."""
        stop = STOPS.get(verdict.code)
        if stop and not self._signalled:
            self._signalled = True
            os.kill(os.getpid(), stop)
        limit = UNWIND_S if not stop else STOP_S if self.trains else 2 * FLUSH_S
        if self._obeyed.seconds(verdict) > limit:
            self._tell(verdict)
            self._exit(verdict.code if stop else DistributedError.exit_code)

    def _go(self) -> None:
        if self._leaving is not None:
            self._exit(self._leaving)

    def _exit(self, code: int) -> None:
        """At once, but for the checkpoint that is being written; no collective is waited for."""
        with suppress(Exception):
            within(FLUSH_S, self.flush)
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(code)


class Steps(Callback):
    """Lets the peers know which step this rank is in: who is late is told by it."""

    def __init__(self, peers: Peers) -> None:
        super().__init__()
        self.peers = peers

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """There is something to save."""
        self.peers.trains = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """A step begins."""
        self.peers.enters(trainer.global_step + 1)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Images may be large, and ranks may have unequal numbers of them."""
        self.peers.enters(0)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """No step follows."""
        self.peers.trains = False
        self.peers.enters(0)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Who is rolled back, as all ranks are, is in no step while it is built again."""
        if isinstance(exception, DivergedError):
            self.peers.enters(0)


def _silent(rank: int) -> Verdict:
    what = f"rank {rank} was silent for {SILENT_S:g} s: killed or stopped"
    return Verdict(rank, DistributedError.exit_code, what)


_joined: list[Peers] = []  # one process, one rank


def join(peers: Peers) -> Peers:
    """From now on these are this process's."""
    _joined[:] = [peers]
    return peers


def joined() -> Peers | None:
    """This process's peers; None where it is alone."""
    return _joined[0] if _joined else None


@contextmanager
def waiting() -> Iterator[None]:
    """Within, this rank has come and the others have not, for all it knows."""
    peers = joined()
    say: Callable[[bool], object] = peers.waits if peers else bool
    say(True)
    yield
    say(False)
