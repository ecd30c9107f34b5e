"""scripts/slurm/train.sbatch, with stand-ins for srun and scontrol that note their words."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SRUN = '#!/bin/sh\nprintf "%s|" "$@" >>"$LOG.srun"; pwd >>"$LOG.srun"; exit ${RC:-0}\n'
SCONTROL = '#!/bin/sh\necho "$*" >>"$LOG.scontrol"; exit ${SCONTROL:-0}\n'
RUNS = """\
seed=1 data.train="/my photos"
# a note, no words

'data.val={Set5: /bench}' optimizer.lr=1e-4   # as for a shell
optimizer.lr="1e-4
"""


@dataclass(frozen=True)
class Job:
    """What one batch job did."""

    rc: int
    stderr: str
    started: list[list[str]]
    controlled: list[str]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Where the job is submitted; srun and scontrol are beside it."""
    folder = tmp_path / "check out"
    folder.mkdir()
    (tmp_path / "bin").mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (folder / "runs.txt").write_text(RUNS)
    return folder


def sbatch(checkout: Path, *words: str, **environ: str) -> Job:
    """Run the script as slurmd does: a copy in another folder."""
    folder = checkout.parent
    spool = shutil.copy(ROOT / "scripts/slurm/train.sbatch", folder / "slurm_script")
    done = subprocess.run(
        ["sh", spool, *words],
        cwd=folder,
        env={
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "LOG": str(folder / "log"),
            "SLURM_SUBMIT_DIR": str(checkout),
            "SLURM_JOB_ID": "17",
            **environ,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    started, controlled = (_lines(folder / f"log.{name}") for name in ("srun", "scontrol"))
    return Job(done.returncode, done.stderr, [line.split("|") for line in started], controlled)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize(
    ("rc", "requeued"), [(0, []), (75, ["requeue 17"]), (138, ["requeue 17"]), (5, []), (143, [])]
)
def test_a_job_that_saved_is_requeued_once(checkout: Path, rc: int, requeued: list[str]) -> None:
    job = sbatch(checkout, "experiment=mse", "data.train=/my photos", RC=str(rc))
    assert (job.rc, job.stderr, job.controlled) == (rc, "", requeued)
    words = ["experiment=mse", "data.train=/my photos"]
    assert job.started == [["python", "-m", "srtrain", *words, str(checkout)]]


def test_only_the_task_that_saved_is_requeued(checkout: Path) -> None:
    array = {"SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "3"}
    assert sbatch(checkout, "seed=%a", RC="75", **array).controlled == ["requeue 17_3"]


def test_a_requeue_that_is_refused_is_told(checkout: Path) -> None:
    job = sbatch(checkout, "experiment=mse", RC="75", SCONTROL="1")
    assert job.rc == 75
    assert job.stderr.startswith("srtrain: not requeued · submit it again with run_dir=")


@pytest.mark.parametrize(
    ("words", "task", "become"),
    [
        (["seed=%a", "run_dir=/runs/%a of %a"], "3", ["seed=3", "run_dir=/runs/3 of 3"]),
        (["seed=%a"], "", ["seed=%a"]),  # no array: a word like others
        (["a=1", "@runs.txt", "b=2"], "1", ["a=1", "seed=1", "data.train=/my photos", "b=2"]),
        (["a=1", "@runs.txt"], "2", ["a=1"]),
        (["@runs.txt"], "4", ["data.val={Set5: /bench}", "optimizer.lr=1e-4"]),
    ],
)
def test_each_task_of_an_array_has_its_words(
    checkout: Path, words: list[str], task: str, become: list[str]
) -> None:
    job = sbatch(checkout, *words, SLURM_ARRAY_TASK_ID=task)
    assert (job.rc, job.stderr) == (0, "")
    assert job.started == [["python", "-m", "srtrain", *become, str(checkout)]]


@pytest.mark.parametrize(
    ("word", "task", "says"),
    [
        ("@runs.txt", "", "srtrain: error: @runs.txt is for arrays · add sbatch --array=1-N\n"),
        ("@runs.txt", "3", "srtrain: error: runs.txt has no line 3 · lines are counted from 1\n"),
        ("@runs.txt", "7", "srtrain: error: runs.txt has no line 7 · lines are counted from 1\n"),
        ("@other", "1", "srtrain: error: cannot read other\n"),
        ("@runs.txt", "5", "quote"),
    ],
)
def test_words_that_are_not_there_start_nothing(
    checkout: Path, word: str, task: str, says: str
) -> None:
    job = sbatch(checkout, word, SLURM_ARRAY_TASK_ID=task)
    assert job.rc == 2
    assert says in job.stderr
    assert job.started == []
