"""scripts/chaos.py: what counts as a difference, when it kills, and three kills of a real run."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
import torch

from scripts import chaos
from scripts.chaos import CODES, Pace, Started, differences, left, main, plan, unequal
from srtrain.networks.storage import checkpoint_name, write_checkpoint
from tests.conftest import ROOT

if TYPE_CHECKING:
    from pathlib import Path

NAN = float("nan")


@pytest.mark.parametrize(
    ("one", "other", "at"),
    [
        ({"a": torch.tensor([1.0, NAN])}, {"a": torch.tensor([1.0, NAN])}, None),
        ({"a": torch.zeros(2, 1, 3)}, {"a": torch.zeros(2, 3, 1).transpose(1, 2)}, None),
        ({"a": torch.tensor(0.0)}, {"a": torch.tensor(-0.0)}, "top a"),
        ({"a": torch.tensor([1.0])}, {"a": torch.tensor([1.0000001])}, "top a"),
        ({"a": torch.zeros(2)}, {"a": torch.zeros(1, 2)}, "top a"),
        ({"a": torch.zeros(2)}, {"a": torch.zeros(2, dtype=torch.float64)}, "top a"),
        ({"a": torch.zeros((), dtype=torch.bfloat16)}, {"a": 0.0}, "top a"),
        ({"a": [1, (2, NAN)]}, {"a": [1, (2, NAN)]}, None),
        ({"a": [1, (2, 3)]}, {"a": [1, (2, 4)]}, "top a[1][1]"),
        ({"a": [1]}, {"a": [1, 2]}, "top a"),
        ({"a": 1}, {}, "top a"),
        ({"a": {"b": 1}}, {"a": {"b": 1.0}}, "top a b"),
        ({"reached": {"seconds": 1.0}}, {"reached": {"seconds": 2.0}}, None),
    ],
)
def test_leaves_are_equal_bit_by_bit(one: dict, other: dict, at: str | None) -> None:
    found = [line.partition(":")[0] for line in unequal(one, other, at="top")]
    assert found == ([] if at is None else [at])


def _run(folder: Path, *, moment: float = 0.5, loss: str = "0.25") -> Path:
    content = {
        "generator": {"_target_": "net", "kwargs": {}},
        "scale": 2,
        "step": 3,
        "state_dict": {},
    }
    state = {"optimizer_states": [{"state": {0: {"exp_avg": torch.tensor([moment])}}}]}
    (folder / "checkpoints").mkdir(parents=True)
    write_checkpoint(folder / "checkpoints" / checkpoint_name(3), {**content, "train_state": state})
    (folder / "metrics.csv").write_text(f"step,name,value\n3,train/loss,{loss}\n")
    return folder


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, []),
        (
            {"moment": 0.50000006},
            [
                "step-000003.ckpt train_state optimizer_states[0] state 0 exp_avg: tensors differ",
            ],
        ),
        (
            {"loss": "0.250"},
            [
                "metrics.csv: 34 | 35 bytes, 1 rows differ",
                "3,train/loss,0.25 | 3,train/loss,0.250",
            ],
        ),
    ],
)
def test_runs_differ_in_a_bit(changed: dict, said: list[str], tmp_path: Path) -> None:
    assert differences(_run(tmp_path / "a"), _run(tmp_path / "b", **changed), step=3) == said


def test_the_plan_is_the_seeds() -> None:
    pace = Pace(start=10.0, step=0.5)
    kills = plan(200, pace=pace, dice=random.Random(3))
    assert kills == plan(200, pace=pace, dice=random.Random(3))
    assert kills != plan(200, pace=pace, dice=random.Random(4))
    assert {kill.number for kill in kills} == {signal.SIGKILL, *CODES}
    assert 0.5 < sum(kill.number == signal.SIGKILL for kill in kills) / len(kills) < 0.9
    shares = [kill.share for kill in kills if kill.share is not None]
    assert 150 < len(shares) < 200
    left = 1.0
    for share in shares[:100]:
        left *= 1 - share
    assert left == pytest.approx(0.5, abs=0.1), "half of the kills come in half of the steps"
    assert all(kill.delay <= (10 if kill.share is None else 1.5) for kill in kills)


def _program(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> Started:
    """A shell script in srtrain's place."""
    program = folder / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    (folder / "run").mkdir()
    return Started([], folder / "run")


ROWS = "echo resumed from step 2; printf '2,a,1\\n3,a,1\\n4,a' > ${3#run_dir=}/metrics.csv"


def test_a_run_is_seen_to_train_and_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = "until [ -e ${3#run_dir=}/go ]; do sleep 0.05; done"
    run = _program(tmp_path, f"setsid sleep 60 & {later}; {ROWS}; wait", monkeypatch)
    assert run.step() == 0
    (tmp_path / "run" / "go").touch()
    assert run.wait_for(0.0, steps=10) == 2
    assert (run.resumed(), run.step()) == (2, 3)
    while len(run.alive()) < 2:  # a process that is being replaced has no environment
        time.sleep(0.01)
    run.send(signal.SIGKILL)
    assert left(run, expected={-9}) == -9


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo broken; exit 3", "ended with code 3:\nbroken"),
        ("setsid sleep 60 >/dev/null & exit 0", "ended and left processes"),
    ],
)
def test_other_ends_are_trouble(
    script: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _program(tmp_path, script, monkeypatch)
    assert run.wait_for(0.0, steps=10) is None
    with pytest.raises(RuntimeError, match=said):
        left(run, expected={0})
    assert run.alive() == []


def test_a_run_that_stands_still_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaos, "HUNG_S", 0.5)
    run = _program(tmp_path, f"{ROWS}; sleep 60", monkeypatch)
    with pytest.raises(RuntimeError, match=r"stood still:\nresumed from step 2"):
        run.wait_for(1.0, steps=10)
    assert run.process.wait() == -signal.SIGKILL
    assert run.alive() == []


def test_a_failing_run_is_no_equality(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-o", str(tmp_path), "no.such=key"]) == 1
    assert "ended with code 2" in capsys.readouterr().out


@pytest.mark.slow
def test_three_kills(tmp_path: Path) -> None:
    words = ["--kills", "3", "--steps", "30", "-o", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "chaos.py", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bit-equal" in done.stdout
