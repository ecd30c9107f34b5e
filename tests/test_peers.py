"""What ranks write for each other, and what each makes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from srtrain.cli import agent, process, tell
from srtrain.cli.process import AGENT, lifetime
from srtrain.errors import (
    ConfigError,
    DataError,
    DistributedError,
    InterruptedRunError,
    PreemptedError,
    Stopped,
)
from srtrain.training import board as boards
from srtrain.training import peers
from srtrain.training.board import Board, Still, Verdict, within

DEAD = Verdict(1, 6, "rank 1 was killed by SIGKILL")


@pytest.fixture
def store() -> dist.TCPStore:
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def test_the_first_verdict_stands(store: dist.TCPStore) -> None:
    one, other = Board(store), Board(store.clone())
    assert one.verdict() is None
    assert one.accuse(DEAD) == DEAD
    assert other.accuse(Verdict(0, 3, "no images")) == DEAD
    assert other.verdict() == DEAD


def test_beats_are_heard_and_lines_are_told_once(store: dist.TCPStore) -> None:
    one, other = Board(store), Board(store.clone())
    assert one.heard(1) is None
    other.beat(1, "3 computes 12")
    assert other.heard(1) == "3 computes 12"  # has arrived: writing waits for no answer
    assert one.heard(1) == "3 computes 12"
    assert not one.told()
    assert [one.claim("a"), other.claim("a"), other.claim("b")] == [True, False, True]
    assert other.told()


def test_last_words_are_not_without_end(store: dist.TCPStore) -> None:
    assert len(Board(store).accuse(Verdict(0, 1, "x" * 10**6)).what) == boards.MOST


@pytest.mark.parametrize(
    ("verdict", "told"),
    [(DEAD, DEAD.what), (Verdict(2, 3, "no images"), "rank 2 ended: no images")],
)
def test_a_verdict_names_the_rank(verdict: Verdict, told: str) -> None:
    assert verdict.told == told


@pytest.mark.parametrize(
    ("beats", "late"),
    [
        (["9 waits in 5", "9 computes 5"], "rank 1"),
        (["9 computes 6", "9 computes 5"], "rank 1"),  # nccl: the host went on
        (["9 computes 5", "9 computes 5"], "ranks 0, 1"),
        (["9 waits in 5", "done"], "rank 0"),
    ],
)
def test_the_one_furthest_behind_is_late(beats: list[str], late: str) -> None:
    ranks: Any = SimpleNamespace(world_size=2, _step=5, timeout_s=4)
    board: Any = SimpleNamespace(heard=beats.__getitem__)
    assert peers.Peers._late(ranks, board).what == f"{late} did not end step 5 within 4 s"


def test_a_process_that_was_stopped_itself_does_not_count_that_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = iter([0.0, 1.0, 2.0, 99.0, 100.0, 101.0])
    monkeypatch.setattr(boards, "time", SimpleNamespace(monotonic=lambda: next(times)))
    still = Still(longest=2.0)
    assert [still.seconds(value) for value in "aaabb"] == [0.0, 1.0, 3.0, 0.0, 1.0]


def test_what_may_never_answer_is_waited_for_so_long() -> None:
    assert within(5, lambda: 3) == 3
    with pytest.raises(TimeoutError, match=r"within 0\.1 s"):
        within(0.1, lambda: time.sleep(3))
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0)


def _peers(rank: int, store: dist.TCPStore, told: list[Verdict]) -> peers.Peers:
    options: dict[str, Any] = {"timeout_s": 60, "by_agent": True, "patient": True}
    return peers.Peers(store, rank=rank, world_size=2, tell=told.append, **options)


def test_two_that_end_well_end_nobody(
    store: dist.TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "SILENT_S", 0.4)
    monkeypatch.setattr(peers, "BEAT_S", 0.1)
    told: list[Verdict] = []
    one, other = _peers(0, store, told), _peers(1, store, told)
    time.sleep(0.5)
    one.leave(0)
    time.sleep(1.0)  # long silence of one that is done
    assert other.verdict(wait_s=0) is None
    other.leave(0)
    assert other._board.verdict() is None
    assert [Board(store).heard(rank) for rank in (0, 1)] == [peers.DONE] * 2
    assert not told


@pytest.fixture
def other_ranks(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Ranks of which ``known`` is known, and what this one has left with."""
    ranks = SimpleNamespace(known=None, left=[], claimed=[])
    ranks.verdict = lambda wait_s=None: ranks.known
    ranks.broke = lambda error: peers.Peers.broke(ranks, error)
    ranks.leave = lambda code, what="": ranks.left.append((code, what))
    ranks.may_tell = lambda what: ranks.claimed.count(what) == 0 and not ranks.claimed.append(what)
    for module in (process, tell):
        monkeypatch.setattr(module, "others", lambda: ranks)
    return ranks


CLOSED = RuntimeError(
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed"
)


@pytest.mark.parametrize(
    ("error", "known", "expected", "left"),
    [
        (CLOSED, DEAD, DistributedError("rank 1 was killed by SIGKILL"), 6),
        (CLOSED, Verdict(1, 3, "no images"), DistributedError("rank 1 ended: no images"), 6),
        (CLOSED, None, DistributedError("rank 0 lost the others: RuntimeError: [/pyt"), 6),
        (CLOSED, Verdict(1, 75, "stopped by SIGTERM"), PreemptedError("stopped by SIGTERM, "), 75),
        (CLOSED, Verdict(1, 130, ""), InterruptedRunError("stopped by SIGINT, "), 130),
        (dist.DistStoreError("wait timeout"), DEAD, DistributedError("rank 1 was killed"), 6),
        (DistributedError("ranks differ"), None, DistributedError("ranks differ"), 6),
        (DataError("no images"), DEAD, DataError("no images"), 3),
        (Stopped(signal.SIGTERM), None, PreemptedError("stopped by SIGTERM, nothing"), 75),
        (ValueError("a bug"), None, ValueError("a bug"), 1),
    ],
)
def test_what_breaks_is_told_by_its_cause(
    error: BaseException,
    known: Verdict | None,
    expected: Exception,
    left: int,
    other_ranks: SimpleNamespace,
) -> None:
    other_ranks.known = known
    with pytest.raises(type(expected)) as caught, lifetime(["experiment=l1"]):
        raise error
    assert str(caught.value).startswith(str(expected))
    assert [code for code, _ in other_ranks.left] == [left]
    if left in {6, 75, 130}:
        assert str(caught.value).endswith(" -m srtrain experiment=l1")


def test_who_ends_well_says_so(other_ranks: SimpleNamespace) -> None:
    with lifetime([]):
        pass
    assert other_ranks.left == [(0, "")]


def test_what_all_ranks_say_is_told_once(
    other_ranks: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    for error in (ConfigError("no such scale"), ConfigError("no such scale"), DataError("none")):
        tell.tell(error)
    other_ranks.known = Verdict(1, 3, "none")  # whose rank has said it
    tell.tell(DistributedError("rank 1 ended: none"))
    quiet = DataError("quiet")
    quiet.told = True
    tell.tell(quiet)
    said = capsys.readouterr().err.splitlines()
    assert said == ["srtrain: error: no such scale", "srtrain: error: none"]


SLEEPS = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.mark.parametrize(
    ("command", "number", "state"),
    [
        (SLEEPS, 0, (None, False)),
        (SLEEPS, signal.SIGSTOP, (None, True)),
        (SLEEPS, signal.SIGKILL, (-9, False)),
        ([sys.executable, "-c", "raise SystemExit(3)"], 0, (3, False)),
    ],
)
def test_the_agent_sees_how_its_ranks_are(
    command: list[str], number: int, state: tuple[int | None, bool]
) -> None:
    with subprocess.Popen(command) as child:
        child.send_signal(number)
        deadline = time.monotonic() + 20
        while agent._state(child.pid) != state:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert agent._state(child.pid) == state  # looking reaps nobody
        child.kill()


def test_an_orphan_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", AGENT: "0"}.items():
        monkeypatch.setenv(name, value)  # a parent that no process has
    child = os.fork()
    if not child:
        try:
            with lifetime([]):
                os._exit(0)
        except PreemptedError:
            os._exit(75)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 75
