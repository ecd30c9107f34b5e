"""Sweeps through Hydra's plugins: how jobs are started, stopped, continued, and told about."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from srtrain.cli import sweep, train
from srtrain.cli.jobs import Job, Jobs
from srtrain.cli.main import main
from srtrain.cli.process import SIGNALS
from srtrain.errors import InterruptedRunError, PreemptedError
from srtrain.training.run_folder import RunFolder
from tests.conftest import ROOT, ending
from tests.training import draw_sets, words

PACE = ("+callbacks.pace._target_=tests.pace.Pace", "+callbacks.pace.seconds=0.2")


def rows(told: str) -> list[list[str]]:
    """The sweep's table: job, words, score, how it ended, folder."""
    table = told.rpartition("Jobs  ")[2].splitlines()
    return [row.split() for row in table if re.match(r"\s+\d+ ", row)]


def test_optuna_draws_the_same_trials_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the folders of a search that was stopped fit its jobs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "run", lambda config, **_: 20 + 1000 * config.optimizer.lr)
    search = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1")
    asked = ("--multirun", "experiment=mse", "optimizer.lr=interval(1e-4,1e-2)", *search)
    assert main([*asked, "run_dir=run"]) == 0
    drawn = rows(capsys.readouterr().out)
    assert [row[0] for row in drawn] == ["0", "1"]
    assert [row[3:] for row in drawn] == [["done", "run_0"], ["done", "run_1"]]
    for row in drawn:
        rate = float(row[1].removeprefix("optimizer.lr="))
        assert float(row[2]) == pytest.approx(20 + 1000 * rate, abs=0.01)
    assert main([*asked, "run_dir=run"]) == 0
    assert rows(capsys.readouterr().out) == drawn


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], ["hydra.sweep.dir=here"]),
        (
            ["hydra/sweeper=optuna"],
            [
                "hydra.sweep.dir=here",
                "hydra.sweeper.direction=maximize",  # Hydra's default: minimize
                "hydra.sweeper.sampler.seed=1",
            ],
        ),
        (
            ["hydra/sweeper=optuna", "hydra/sweeper/sampler=grid"],  # which has no seed
            ["hydra.sweep.dir=here", "hydra.sweeper.direction=maximize"],
        ),
        (
            ["hydra/sweeper=optuna", "hydra.sweeper.direction=minimize"],
            ["hydra.sweep.dir=here", "hydra.sweeper.sampler.seed=1"],
        ),
    ],
)
def test_optuna_is_told_what_counts(given: list[str], told: list[str]) -> None:
    assert list(sweep._defaults(given, Path("here"))) == told


@pytest.mark.slow
def test_a_signal_stops_the_jobs_of_joblib(tmp_path: Path) -> None:
    """To the process that started them: both save, the third is not started."""
    side_by_side = ("seed=1,2,3", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    asked = words(draw_sets(tmp_path), tmp_path / "run", "trainer.max_steps=900", *PACE)
    command = [sys.executable, "-m", "srtrain", "--multirun", *asked, *side_by_side]
    started = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with ending(started) as process:
        folders = [RunFolder(tmp_path / f"run_{number}") for number in (0, 1)]
        deadline = time.monotonic() + 240
        while not all(folder.read_metrics()[3:] for folder in folders):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert err.count("stopped by SIGTERM, saved step") == 2
    assert err.count("job 2 was not started: SIGTERM") == 1
    assert [(row[1], row[3]) for row in rows(out)] == [("seed=1", "saved"), ("seed=2", "saved")]
    assert " -m srtrain --multirun " in err.splitlines()[-1]
    assert not (tmp_path / "run_2").exists()


@pytest.mark.parametrize(
    ("launcher", "number", "code", "requeued"),
    [
        ("basic", signal.SIGTERM, 75, ""),  # ends the sweep, not only the job
        ("joblib", signal.SIGTERM, None, ""),  # the launcher waits for a result
        ("submitit_local", signal.SIGTERM, None, ""),
        ("submitit_local", signal.SIGUSR1, 144, ""),  # its own launcher starts it again
        ("submitit_slurm", signal.SIGUSR1, 75, "requeue 17_3\n"),
        ("submitit_slurm", signal.SIGTERM, 75, ""),  # Slurm requeues, or the user has cancelled
    ],
)
def test_a_job_leaves_as_its_launcher_expects(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    launcher: str,
    number: signal.Signals,
    code: int | None,
    requeued: str,
) -> None:
    tool, log = tmp_path / "scontrol", tmp_path / "log"
    tool.write_text(f'#!/bin/sh\necho "$*" >"{log}"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setattr(SIGNALS, "_received", number)
    if code is None:
        sweep._leave(launcher, 75)
    else:
        with pytest.raises(SystemExit) as left:
            sweep._leave(launcher, 75)
        assert left.value.code == code
    assert (log.read_text() if log.exists() else "") == requeued


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGTERM, PreemptedError), (signal.SIGINT, InterruptedRunError)],
)
def test_after_a_signal_no_job_starts(
    tmp_path: Path, number: signal.Signals, error: type[Exception]
) -> None:
    jobs = Jobs(tmp_path)
    jobs.clear()
    with jobs.stoppable():
        jobs.begin(_job(0))
        signal.raise_signal(number)
        jobs.end(_job(0), code=0, score=30.0)
        with pytest.raises(error, match=f"job 1 was not started: {number.name}"):
            jobs.begin(_job(1))
        jobs.end(_job(1), code=75)
    assert [(job.number, job.code) for job in jobs.read()] == [(0, 0)]
    assert jobs.stopped
    jobs.clear()
    assert (jobs.read(), jobs.stopped) == ([], False)


def _job(number: int) -> Job:
    return Job(number=number, words=["experiment=mse", f"seed={number}"], folder=f"run_{number}")


def test_a_sweep_is_no_rank(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["-m", "experiment=mse", "seed=1,2"]) == 2
    assert "a sweep cannot be one of several ranks · --multirun" in capsys.readouterr().err
