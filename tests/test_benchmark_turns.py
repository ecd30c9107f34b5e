"""Processes that run only in their turns, and what those cost: small scripts, no training."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from srtrain.cli.benchmark.child import Child, cpu_seconds, descendants
from srtrain.errors import SrtrainError
from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

BEGIN = """
import os, sys, time
from srtrain.cli.benchmark.driven import Turns

def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass

turns = Turns(lambda: None)
"""
STEPS = """
turns.begin(terminal=sys.stderr.isatty(), pid=os.getpid())
while True:
    {each}
    with open("steps", "a") as file:
        file.write(".")
    turns.stepped()
"""
IN_FORK = """
    if (pid := os.fork()) == 0:
        burn(0.2)
        os._exit(0)
    os.waitpid(pid, 0)
"""
BUSY_FORK = """
if os.fork() == 0:
    burn(1000)
"""
DAEMON = """
if os.fork() == 0:
    os.setsid()
    held = bytearray(200 * 2**20)
    burn(1000)
"""


def child(script: str, folder: Path) -> Child:
    return Child("arm", ["-c", BEGIN + script], cwd=folder, environ={"PYTHONPATH": str(ROOT)})


@pytest.fixture
def started(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Child]:
    with child(request.param, tmp_path) as one:
        one.start()
        yield one


@pytest.mark.parametrize("started", [STEPS.format(each="pass")], indirect=True)
def test_a_turn_is_so_many_steps_and_then_nothing(started: Child, tmp_path: Path) -> None:
    steps = tmp_path / "steps"
    assert started.facts["terminal"]  # progress bars are drawn
    assert not steps.exists()
    for number, expected in ((3, 3), (1, 4), (5, 9)):
        started.turn(number)
        time.sleep(0.05)
        assert len(steps.read_text()) == expected


@pytest.mark.parametrize(
    ("started", "least"),
    [
        (STEPS.format(each="burn(0.2)"), 0.4),
        (STEPS.format(each="time.sleep(0)"), 0.0),
        # Of processes that ended, the kernel tells whole clock ticks.
        (STEPS.format(each="pass" + IN_FORK), 0.4 - 4 / os.sysconf("SC_CLK_TCK")),
    ],
    indirect=["started"],
)
def test_a_turn_costs_what_it_burns(started: Child, least: float) -> None:
    started.turn(1)
    turn = started.turn(2)
    assert turn.cpu >= least
    assert turn.seconds > 0
    assert (turn.cpu < 0.2) == (least == 0.0)


@pytest.mark.parametrize("started", [BUSY_FORK + STEPS.format(each="burn(0.1)")], indirect=True)
def test_what_a_busy_fork_does_is_paid_for(started: Child) -> None:
    """It works through the turns, as a loader's workers do, and stands still between them."""
    pid = started.facts["pid"]
    assert len(descendants(pid)) == 2
    before = cpu_seconds(pid)
    time.sleep(0.3)
    assert cpu_seconds(pid) == before
    started.turn(1)
    cost = sum(started.turn(1).cpu for _ in range(4))
    assert cost > 0.4 * 1.1  # 0.4 are its own


@pytest.mark.parametrize(
    "started",
    [BUSY_FORK + STEPS.format(each="pass"), DAEMON + STEPS.format(each="pass")],
    indirect=True,
    ids=["fork", "of its own session"],
)
def test_nothing_is_left_of_it(started: Child) -> None:
    pids = descendants(started.facts["pid"])
    assert len(pids) == 2
    started.close()
    for pid in pids:
        state = Path(f"/proc/{pid}/stat")
        assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize(
    "script", ["sys.exit('no such thing')", "turns.begin()\nprint('no such thing')\nos._exit(3)"]
)
def test_an_arm_that_ends_says_why(script: str, tmp_path: Path) -> None:
    def run(one: Child) -> None:
        one.start()
        one.turn(1)

    with child(script, tmp_path) as one, pytest.raises(SrtrainError, match=r"arm ended.*no such"):
        run(one)
