"""What the jobs of a sweep tell the process that started them: a file each, in a common folder."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

from srtrain.cli.process import LEAVE, short, to_hear
from srtrain.errors import InterruptedRunError, PreemptedError
from srtrain.files import read_json, write_json
from srtrain.ranks import rank

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

RUNNING = -1


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a sweep: its words and folder, which process it is in, and how it ended."""

    number: int
    words: list[str]
    folder: str
    pid: int = 0
    host: str = ""
    code: int = RUNNING
    score: float | None = None

    @property
    def ended(self) -> str:
        """What the exit code means."""
        known = {RUNNING: "not ended", 0: "done", 75: "saved", 130: "saved"}
        return known.get(self.code, f"exit {self.code}")


class Jobs:
    """The jobs below ``folder``, which all of their processes reach."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stop = folder / "stop.json"

    def clear(self) -> None:
        """Forget an earlier sweep."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in (*self.folder.glob("job-*.json"), self._stop):
            path.unlink(missing_ok=True)

    def begin(self, job: Job) -> None:
        """This process starts the job.

        Raises: PreemptedError or InterruptedRunError when a signal has ended the sweep.
        """
        if self._stop.exists():
            number = int(read_json(self._stop)["signal"])
            raise LEAVE[number](f"job {job.number} was not started: {signal.Signals(number).name}")
        self._write(replace(job, pid=os.getpid(), host=socket.gethostname()))

    def end(self, job: Job, *, code: int, score: float | None = None) -> None:
        """The job is over, if it was started at all."""
        if self._file(job).exists():
            self._write(replace(job, code=code, score=score))

    def _write(self, job: Job) -> None:
        if rank() == 0:
            write_json(self._file(job), asdict(job))

    def _file(self, job: Job) -> Path:
        return self.folder / f"job-{job.number}.json"

    def read(self) -> list[Job]:
        """All jobs that were started, by number."""
        found = [Job(**read_json(path)) for path in self.folder.glob("job-*.json")]
        return sorted(found, key=lambda job: job.number)

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Hand on the signals that ask for a stop to the jobs that run, and start no other.

        Jobs in this process hear them by themselves while they run.
        """
        before = {number: signal.signal(number, self._hand_on) for number in to_hear()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        self.stop(number)
        here = socket.gethostname()
        for job in self.read():
            if job.code == RUNNING and job.host == here and job.pid != os.getpid():
                with suppress(ProcessLookupError):
                    os.kill(job.pid, number)

    def stop(self, number: int) -> None:
        """No further job shall start."""
        write_json(self._stop, {"signal": number})

    @property
    def stopped(self) -> bool:
        """Whether a signal ended the sweep."""
        codes = {PreemptedError.exit_code, InterruptedRunError.exit_code}
        return self._stop.exists() or any(job.code in codes for job in self.read())


def jobs_table(jobs: Sequence[Job]) -> Table:
    """A row for each job: the words that not all share, its score, how it ended, where it lies."""
    scores = [job.score for job in jobs if job.score is not None]
    common = set.intersection(*(set(job.words) for job in jobs)) if len(jobs) > 1 else set()
    table = Table(box=box.SIMPLE_HEAD, title="Jobs", title_justify="left")
    table.add_column("job", justify="right")
    table.add_column("words", overflow="fold")
    table.add_column("PSNR-Y", justify="right")
    table.add_column("ended")
    table.add_column("folder", overflow="fold")
    for job in jobs:
        table.add_row(
            str(job.number),
            escape(" ".join(word for word in job.words if word not in common)),
            "-" if job.score is None else f"{job.score:.2f}",
            job.ended,
            escape(str(short(Path(job.folder).absolute()))),
            style="bold" if scores and job.score == max(scores) else None,
        )
    return table
