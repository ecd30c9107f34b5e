"""Ranks as srun starts them, or the launcher, forked from this process: that costs no import."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
import traceback
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from srtrain.cli.main import main
from srtrain.training.run_folder import RunFolder
from tests.training import words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from srtrain.training.supervised import SupervisedSR

RANKS = 2
LONG = (
    "trainer=ddp",
    "trainer.devices=2",
    "trainer.max_steps=100000",
    "trainer.val_every_n_steps=50000",
    "checkpoint.every_n_steps=3",
)
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


@dataclass
class Group:
    """What became of the ranks: exit codes, negative for signals, and seconds until the last."""

    folder: RunFolder
    pids: list[int]
    codes: dict[int, int] = field(default_factory=dict)

    def running(self) -> bool:
        """Whether any rank has not ended."""
        for rank, pid in enumerate(self.pids):
            if rank not in self.codes:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    self.codes[rank] = os.waitstatus_to_exitcode(status)
        return len(self.codes) < len(self.pids)

    def until(self, condition: Callable[[], bool], *, seconds: float) -> None:
        """Wait for it while all ranks run."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.running(), self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.1)

    def trains(self) -> None:
        """Wait for the first checkpoint."""
        last = self.folder.checkpoints / "last"
        self.until(last.exists, seconds=120)

    def end(self, *, seconds: float) -> float:
        """Wait for all; the seconds it took."""
        start = time.monotonic()
        while self.running():
            assert time.monotonic() < start + seconds, self.said()
            time.sleep(0.05)
        return time.monotonic() - start

    def said(self) -> str:
        """What all ranks wrote to stderr."""
        return "".join(path.read_text() for path in sorted(self.folder.path.parent.glob("*.err")))

    def errors(self) -> list[str]:
        """The lines that tell of failures."""
        return [line for line in self.said().splitlines() if line.startswith("srtrain: error")]


@contextmanager
def two_ranks(
    images: Path,
    folder: Path,
    *extra: str,
    environ: dict[str, str] | None = None,
    inject: Callable[[int], None] = lambda _rank: None,
) -> Iterator[Group]:
    """A run of two ranks of one srun step; ``inject(rank)`` spoils one before it starts."""
    step = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_ID": str(time.monotonic_ns()),
        "SLURM_NTASKS": str(RANKS),
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_NODEID": "0",
        **(environ or {}),
    }
    ids = [{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(RANKS)]
    with _forked(images, folder, extra, [{**step, **own} for own in ids], inject) as group:
        yield group


@contextmanager
def launcher(images: Path, folder: Path, *extra: str) -> Iterator[Group]:
    """A run that starts its ranks by itself, as whole processes of their own."""
    with _forked(images, folder, extra, [{}], lambda _rank: None) as group:
        yield group


@contextmanager
def _forked(
    images: Path,
    folder: Path,
    extra: tuple[str, ...],
    environs: list[dict[str, str]],
    inject: Callable[[int], None],
) -> Iterator[Group]:
    folder.mkdir(parents=True)
    command = words(images, folder / "run", *LONG, *extra)
    group = Group(RunFolder(folder / "run"), [])
    try:
        for rank, environ in enumerate(environs):
            pid = os.fork()
            if not pid:
                _be(rank, environ, folder, command, inject)
            group.pids.append(pid)
        yield group
    finally:
        for rank, pid in enumerate(group.pids):
            if rank not in group.codes:
                with suppress(ProcessLookupError, ChildProcessError):
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)


def _be(
    rank: int,
    environ: dict[str, str],
    folder: Path,
    command: list[str],
    inject: Callable[[int], None],
) -> None:
    code = 99
    try:
        os.environ.update(environ)
        os.setpgid(0, 0)
        for number, name in ((1, "out"), (2, "err")):
            file = os.open(folder / f"{rank}.{name}", os.O_WRONLY | os.O_CREAT, 0o600)
            os.dup2(file, number)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        inject(rank)
        code = main(command)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@contextmanager
def adopting() -> Iterator[None]:
    """Within, orphans become children of this process, where they are seen."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0)


def children(parent: int) -> list[int]:
    """Of a process, in the order of their start; ended ones that nobody waited for left out."""
    tasks = Path(f"/proc/{parent}/task").glob("*/children")
    return sorted(pid for path in tasks for pid in map(int, path.read_text().split()) if runs(pid))


def runs(pid: int) -> bool:
    """Whether a process has not ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def at_step(number: int, do: Callable[[], None], patched: type[SupervisedSR]) -> None:
    """Call ``do`` within that training step of this process."""
    original = patched.training_step

    def step(self: SupervisedSR, batch: dict, batch_idx: int) -> None:
        if self.global_step == number:
            do()
        original(self, batch, batch_idx)

    patched.training_step = step
