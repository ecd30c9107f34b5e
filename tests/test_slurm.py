"""Under a real Slurm: two tasks are one rank; a signalled job saves, is requeued and ends."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from srtrain.files import read_json
from srtrain.training.run_folder import RunFolder
from tests.conftest import ROOT
from tests.slurm import CREDENTIAL_EXPIRES_S, Slurm, missing, one_node
from tests.training import draw_sets, train, weights, words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason="needs slurm-wlm and munge"),
]
RANKS = ("trainer=ddp", "trainer.devices=2")


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with one_node() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sets(tmp_path_factory.mktemp("images"))


def _words(images: Path, *extra: str) -> list[str]:
    """The command without a run folder: the job's number names it."""
    return [w for w in words(images, Path(), *extra) if not w.startswith("run_dir=")]


SCRIPT = ROOT / "scripts" / "slurm" / "train.sbatch"
ENVIRON = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "SLURM_WAIT": "30"}


def test_two_tasks_are_one_rank(slurm: Slurm, images: Path, tmp_path: Path) -> None:
    one = train(images, tmp_path / "one")
    command = ("srun", "-n2", sys.executable, "-m", "srtrain", *_words(images, *RANKS))
    told = slurm.run(*command, cwd=tmp_path, env=ENVIRON)
    (path,) = (tmp_path / "outputs").glob("*/*")
    two = RunFolder(path)
    assert path.name.startswith("slurm-")
    assert told.count("experiment") == 1  # one rank speaks
    for name, value in weights(one, 6).items():
        torch.testing.assert_close(weights(two, 6)[name], value, atol=1e-6, rtol=0)
    ours, theirs = read_json(two.summary), read_json(one.summary)
    for figures in ("val", "bicubic"):
        assert ours[figures]["tiny"] == pytest.approx(theirs[figures]["tiny"], rel=1e-6, abs=1e-6)
    assert _files(two) == _files(one)
    assert _rows(two) == _rows(one)


def test_signalled_job_is_requeued_and_ends(slurm: Slurm, images: Path, tmp_path: Path) -> None:
    asked = _words(
        images,
        *RANKS,
        "experiment=mse",
        "trainer.max_steps=2000",
        "trainer.val_every_n_steps=1000",
        "checkpoint.every_n_steps=1000",
    )
    options = ("--parsable", "--ntasks-per-node=2", "--cpus-per-task=1")
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    job = slurm.run("sbatch", *options, str(SCRIPT), *asked, cwd=tmp_path, env=ENVIRON).strip()
    log = tmp_path / f"slurm-{job}.out"
    folder = RunFolder(tmp_path / "outputs" / "mse" / f"slurm-{job}")
    _wait(lambda: _last_step(folder) > 100, slurm, job, log)
    slurm.run("scancel", "--signal=USR1", job, cwd=tmp_path)
    _wait(lambda: slurm.job(job)["Restarts"] == "1", slurm, job, log)
    assert log.read_text().count("stopped by SIGUSR1, saved step") == 1
    saved = folder.checkpoints / read_json(folder.checkpoints / "last")["file"]
    stopped = int(saved.stem.removeprefix("step-"))
    assert 100 < stopped < 2000
    time.sleep(CREDENTIAL_EXPIRES_S + 5)  # a sooner start is refused, and the job with it
    _wait(lambda: _start_now(slurm, job) == "RUNNING", slurm, job, log)
    _wait(lambda: slurm.job(job)["JobState"] == "COMPLETED", slurm, job, log)
    assert f"resumed from step {stopped}" in log.read_text()
    assert slurm.job(job)["Restarts"] == "1"
    assert read_json(folder.summary)["generator_steps"] == 2000
    steps = [step for step, name, _ in folder.read_metrics() if name == "train/loss"]
    assert steps == list(range(1, 2001))


SAVES = """#!/bin/sh
trap 'exit 75' TERM
touch started
while :; do sleep 0.1; done
"""


@pytest.mark.parametrize(
    ("command", "states", "restarts"),
    [
        (("scancel",), {"CANCELLED"}, "0"),
        (("scontrol", "requeue"), {"PENDING"}, "1"),  # as preemption does
    ],
    ids=["cancelled", "preempted"],
)
def test_slurms_own_sigterm_is_not_answered_by_a_requeue(
    command: tuple[str, ...], states: set[str], restarts: str, slurm: Slurm, tmp_path: Path
) -> None:
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(SAVES)
    python.chmod(0o755)
    options = ("--parsable", "--ntasks-per-node=2", "--cpus-per-task=1")
    job = slurm.run("sbatch", *options, str(SCRIPT), cwd=tmp_path, env=ENVIRON).strip()
    log = tmp_path / f"slurm-{job}.out"
    _wait((tmp_path / "started").exists, slurm, job, log)
    slurm.run(*command, job, cwd=tmp_path)
    _wait(lambda: slurm.job(job)["JobState"] in states, slurm, job, log)
    time.sleep(2)  # the batch script had its chance to requeue
    assert (slurm.job(job)["JobState"], slurm.job(job)["Restarts"]) == (*states, restarts)
    slurm.run("scancel", job, cwd=tmp_path)


def _files(folder: RunFolder) -> set[str]:
    return {str(path.relative_to(folder.path)) for path in folder.path.rglob("*")}


def _rows(folder: RunFolder) -> list[tuple[int, str]]:
    return [(step, name) for step, name, _ in folder.read_metrics()]


def _last_step(folder: RunFolder) -> int:
    return max((step for step, *_ in folder.read_metrics()), default=0)


def _start_now(slurm: Slurm, job: str) -> str:
    """Slurm holds back what was requeued for two minutes; this one it shall not."""
    if slurm.job(job)["JobState"] == "PENDING":
        slurm.run("scontrol", "update", f"JobId={job}", "StartTime=now", cwd=Path("/"))
    return slurm.job(job)["JobState"]


def _wait(condition: Callable[[], bool], slurm: Slurm, job: str, log: Path) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        state = slurm.job(job)["JobState"]
        told = log.read_text() if log.exists() else ""
        assert state in {"PENDING", "RUNNING", "COMPLETING", "COMPLETED", "CANCELLED"}, told
        assert time.monotonic() < deadline, f"{state}\n{told}"
        time.sleep(0.5)
