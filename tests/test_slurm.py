"""Under a real Slurm: ranks on two nodes, and a job that is stopped in every way Slurm has."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from srtrain.files import read_json
from srtrain.training.run_folder import RunFolder
from tests.conftest import ROOT, ending
from tests.slurm import CREDENTIAL_EXPIRES_S, Slurm, missing, two_nodes
from tests.training import draw_sets, train, weights, words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason="needs slurm-wlm and munge"),
]
RANKS = ("trainer=ddp", "trainer.devices=2")
SCRIPT = ROOT / "scripts" / "slurm" / "train.sbatch"
# No resolver knows the nodes' names.
ENVIRON = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
LOST = {"FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL"}
PATIENCE_S = 20.0  # for a state that passes


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with two_nodes() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sets(tmp_path_factory.mktemp("images"))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder to submit from, with this environment in it."""
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    return tmp_path


def _words(images: Path, *extra: str) -> list[str]:
    """The command without a run folder: the job's number names it."""
    return [w for w in words(images, Path(), *extra) if not w.startswith("run_dir=")]


def test_two_nodes_are_one_rank(slurm: Slurm, images: Path, tmp_path: Path) -> None:
    one = train(images, tmp_path / "one", drawn=True)
    asked = _words(images, "trainer=ddp")
    told = slurm.run(
        *("srun", "--nodes=2", "--ntasks=2", sys.executable, "-m", "srtrain", *asked),
        cwd=tmp_path,
        env=ENVIRON,
    )
    (path,) = (tmp_path / "outputs").glob("*/*")
    two = RunFolder(path)
    assert path.name.startswith("slurm-")
    assert told.count("experiment") == 1  # one rank speaks
    assert read_json(two.checkpoints / "last")["step"] == 6
    for name, value in weights(one, 6).items():
        torch.testing.assert_close(weights(two, 6)[name], value, atol=1e-6, rtol=0)
    ours, theirs = read_json(two.summary), read_json(one.summary)
    for figures in ("val", "bicubic"):
        assert ours[figures]["tiny"] == pytest.approx(theirs[figures]["tiny"], rel=1e-6, abs=1e-6)
    assert _files(two) == _files(one)
    assert _rows(two) == _rows(one)


STEPS = 700
PACE = ("+callbacks.pace._target_=tests.pace.Pace", "+callbacks.pace.seconds=0.08")


def test_a_job_stopped_in_every_way_ends_as_if_undisturbed(
    slurm: Slurm, images: Path, checkout: Path
) -> None:
    """Time limit, plain requeue as on preemption, and cancelled: each time it continues."""
    asked = _words(
        images,
        *RANKS,
        "experiment=mse",
        f"trainer.max_steps={STEPS}",
        "trainer.val_every_n_steps=200",
        "checkpoint.every_n_steps=100",
        "checkpoint.keep_last=2",
    )
    undisturbed = _submit(slurm, checkout, *asked)
    job = _submit(slurm, checkout, *asked, *PACE, options=("--signal=USR1@15",))

    job.wait(lambda: job.step() > 20)
    # Slurm looks at limits every 30 s only, and announces what it would see too late.
    job.update(EndTime=f"{datetime.now() + timedelta(seconds=45):%Y-%m-%dT%H:%M:%S}")
    by_limit = job.stopped("SIGUSR1")
    job.wait(lambda: job.shown()["Restarts"] == "1")
    job.update(TimeLimit="60")

    job.wait(lambda: job.step() > by_limit + 10)
    slurm.run("scontrol", "requeue", job.number, cwd=checkout)
    by_requeue = job.stopped("SIGTERM")
    assert f"resumed from step {by_limit} " in job.log.read_text()

    job.wait(lambda: job.step() > by_requeue + 10)
    slurm.run("scancel", job.number, cwd=checkout)
    by_cancel = job.stopped("SIGTERM")
    job.wait(lambda: job.shown()["JobState"] == "CANCELLED")
    assert f"resumed from step {by_requeue} " in job.log.read_text()
    again = _submit(slurm, checkout, *asked, f"run_dir={job.folder.path}")
    again.wait(lambda: again.shown()["JobState"] == "COMPLETED")
    assert f"resumed from step {by_cancel} " in again.log.read_text()

    assert 20 < by_limit < by_requeue < by_cancel < STEPS
    assert (job.shown()["JobState"], job.shown()["Restarts"]) == ("CANCELLED", "2")
    undisturbed.wait(lambda: undisturbed.shown()["JobState"] == "COMPLETED")
    for name, value in weights(undisturbed.folder, STEPS).items():
        assert torch.equal(weights(job.folder, STEPS)[name], value), name
    assert job.folder.metrics.read_bytes() == undisturbed.folder.metrics.read_bytes()


def _submit(slurm: Slurm, checkout: Path, *asked: str, options: tuple[str, ...] = ()) -> _Job:
    """Two tasks on one node by train.sbatch, in the run folder that the job's number names."""
    tasks = ("--parsable", "--nodes=1", "--ntasks-per-node=2", "--cpus-per-task=1", *options)
    number = slurm.run("sbatch", *tasks, str(SCRIPT), *asked, cwd=checkout, env=ENVIRON).strip()
    return _Job(slurm, number, log=checkout / f"slurm-{number}.out")


def test_a_task_of_an_array_is_requeued_alone(slurm: Slurm, tmp_path: Path) -> None:
    """The second and last has the number of the whole array, which names all tasks."""
    saves = '[ "$SLURM_ARRAY_TASK_ID$SLURM_RESTART_COUNT" != 2 ] || exit 75'
    _stub(tmp_path, f'echo "start $*"; {saves}')
    (tmp_path / "runs").write_text("scale=2\nscale=4 optimizer.lr=1e-3\n")
    tasks = ("--parsable", "--array=1-2", "--cpus-per-task=1")
    number = slurm.run("sbatch", *tasks, str(SCRIPT), "seed=%a", "@runs", cwd=tmp_path).strip()
    first, last = (
        _Job(slurm, f"{number}_{task}", log=tmp_path / f"slurm-{number}_{task}.out")
        for task in (1, 2)
    )
    first.wait(lambda: first.shown()["JobState"] == "COMPLETED")
    last.wait(lambda: last.shown()["JobState"] == "COMPLETED")
    starts = [re.findall("^start.*", job.log.read_text(), re.MULTILINE) for job in (first, last)]
    assert starts[0] == ["start -m srtrain seed=1 scale=2"]
    assert starts[1] == ["start -m srtrain seed=2 scale=4 optimizer.lr=1e-3"] * 2
    assert [job.shown()["Restarts"] for job in (first, last)] == ["0", "1"]


def test_jobs_of_a_sweep_are_requeued_by_themselves(
    slurm: Slurm, images: Path, tmp_path: Path
) -> None:
    """The second has the number of the whole array, as above."""
    asked = words(images, tmp_path / "run", "trainer.max_steps=40", *PACE)
    submit = ("seed=1,2", "hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=60")
    command = [sys.executable, "-m", "srtrain", "--multirun", *asked, *submit]
    started = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**slurm.environ, **ENVIRON},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with ending(started) as waiting:
        folders = [RunFolder(tmp_path / f"run_{number}") for number in (0, 1)]
        deadline = time.monotonic() + 240
        while not folders[1].read_metrics():
            assert time.monotonic() < deadline
            assert waiting.poll() is None
            time.sleep(0.2)
        (log,) = (tmp_path / "outputs/submitit").glob("*/.submitit/*_1/*.err")
        job = _Job(slurm, log.parent.name, log=log)
        slurm.run("scancel", "--signal=USR1", job.number, cwd=tmp_path)
        stopped = job.stopped("SIGUSR1")
        job.wait(lambda: job.shown()["Restarts"] == "1")
        job.wait(lambda: job.shown()["JobState"] == "COMPLETED")
        told, _ = waiting.communicate(timeout=120)
    assert waiting.returncode == 0, told
    assert re.findall(r" (\d+) +seed=(\d) +[\d.]+ +(\w+) ", told) == [
        ("0", "1", "done"),
        ("1", "2", "done"),
    ]
    assert 0 < stopped < 40
    output = log.with_name(log.name.replace("log.err", "log.out"))
    assert f"resumed from step {stopped} " in output.read_text()
    for folder in folders:
        steps = [step for step, name, _ in folder.read_metrics() if name == "train/loss"]
        assert steps == list(range(1, 41))


def test_the_job_of_a_dead_node_is_requeued(slurm: Slurm, tmp_path: Path) -> None:
    _stub(tmp_path, "echo start; sleep 100")
    options = ("--nodelist=n2", "--cpus-per-task=1")
    number = slurm.run("sbatch", "--parsable", *options, str(SCRIPT), cwd=tmp_path).strip()
    job = _Job(slurm, number, log=tmp_path / f"slurm-{number}.out")
    job.wait(lambda: job.log.exists() and "start" in job.log.read_text())
    down = ("State=DOWN", "Reason=test")  # it comes back by itself
    slurm.run("scontrol", "update", "NodeName=n2", *down, cwd=tmp_path)
    job.wait(lambda: job.shown()["Restarts"] == "1")
    assert job.shown()["JobState"] == "PENDING"
    slurm.run("scancel", number, cwd=tmp_path)


def _stub(checkout: Path, shell: str) -> None:
    """A Python that only does this."""
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{shell}\n")
    python.chmod(0o755)


class _Job:
    """What Slurm and the log say of one job."""

    def __init__(self, slurm: Slurm, number: str, *, log: Path) -> None:
        self.slurm = slurm
        self.number = number
        self.log = log
        self.folder = RunFolder(log.parent / "outputs" / "mse" / f"slurm-{number}")
        self._stops = 0

    def shown(self) -> dict[str, str]:
        return self.slurm.job(self.number)

    def update(self, **values: str) -> None:
        asked = [f"{name}={value}" for name, value in values.items()]
        self.slurm.run("scontrol", "update", f"JobId={self.number}", *asked, cwd=Path("/"))

    def step(self) -> int:
        return max((step for step, *_ in self.folder.read_metrics()), default=0)

    def stopped(self, signal: str) -> int:
        """The step that the run says it has saved, once since this was last asked."""
        self._stops += 1
        self.wait(lambda: len(self._saved()) == self._stops)
        assert f"stopped by {signal}, saved step " in self._saved()[-1]
        return int(self._saved()[-1].partition("saved step ")[2].split()[0])

    def _saved(self) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if "saved step" in line]

    def wait(self, condition: Callable[[], bool], *, seconds: float = 600) -> None:
        """Until the condition holds; most of Slurm's delay after a requeue is skipped.

        Not all of it: a start before the old credential has expired is refused, and the job with
        it. And while a job that left with 75 is being requeued, it may be called failed.
        """
        now = time.monotonic()
        deadline, held, healthy = now + seconds, None, now
        while not condition():
            shown, now = self.shown(), time.monotonic()
            told = self.log.read_text() if self.log.exists() else ""
            if shown["JobState"] not in LOST:
                healthy = now
            assert now - healthy < PATIENCE_S, f"{shown['JobState']}\n{told}"
            assert now < deadline, f"{shown['JobState']}\n{told}"
            if shown["JobState"] != "PENDING" or shown["Reason"] != "BeginTime":
                held = None
            elif held is None:
                held = now
            elif now - held > CREDENTIAL_EXPIRES_S + 5:
                self.update(StartTime="now")
            time.sleep(0.5)


def _files(folder: RunFolder) -> set[str]:
    return {str(path.relative_to(folder.path)) for path in folder.path.rglob("*")}


def _rows(folder: RunFolder) -> list[tuple[int, str]]:
    return [(step, name) for step, name, _ in folder.read_metrics()]
