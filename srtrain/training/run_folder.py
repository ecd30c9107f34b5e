"""The run folder: created and locked here; everything a run leaves behind lies below it."""

from __future__ import annotations

import csv
import io
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from srtrain.errors import ConfigError, StorageError
from srtrain.files import HeldError, held, remove_temporaries, sync_folder, write_atomic, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

VALIDATION = ("val/", "bicubic/")
HEADER = ("step", "name", "value")


class RunFolder:
    """``config.yaml metrics.csv timing.csv summary.json checkpoints/ samples/ wandb/ error.log``.

    Raises: StorageError when the folder cannot be written to — before any work is done.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.samples = path / "samples"
        self.metrics = path / "metrics.csv"
        self.timing = path / "timing.csv"
        self.summary = path / "summary.json"
        self.config = path / "config.yaml"
        self._new = False
        self._made: os.stat_result | None = None

    def create(self) -> None:
        """Make the folders and prove that they can be written to."""
        self._new = not self.path.exists()
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self.samples.mkdir(exist_ok=True)
            for folder in (self.path, self.checkpoints, self.samples):
                write_atomic(folder / ".writable", b"")
                (folder / ".writable").unlink()
            self._made = self.path.stat()
        except OSError as error:
            raise StorageError(
                f"cannot write to the run folder: {error.strerror}",
                where=str(self.path),
                fix="choose another run_dir=DIR",
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; the lock goes with the process, however it ends.

        A start that fails takes its new folder along: there is no run in it. (An ``error.log``
        makes the folder again.)

        Raises: ConfigError naming the holder when another process has it.
        """
        try:
            with held(self.path / ".lock"):
                self._tidy()
                try:
                    yield
                except Exception:
                    self._leave_nothing()
                    raise
        except HeldError as error:
            raise ConfigError(
                f"the run folder is in use by {error}",
                where=str(self.path),
                fix="wait for it, stop it, or choose another run_dir=DIR",
            ) from error

    def _leave_nothing(self) -> None:
        lock = self.path / ".lock"
        if self._new and not any(path.is_file() and path != lock for path in self.path.rglob("*")):
            with suppress(OSError):  # a second process that came meanwhile
                lock.unlink()
                for folder in (self.checkpoints, self.samples, self.path):
                    folder.rmdir()

    def _tidy(self) -> None:
        """Remove what writers left behind that were killed; only under the lock."""
        for folder in (self.path, self.checkpoints, self.samples):
            remove_temporaries(folder)

    def check(self) -> None:
        """Nothing, if the folder that was made is still there.

        Raises: StorageError if it was removed or renamed: what is written next would make another.
        """
        if self._made is None:
            return
        with suppress(OSError):
            if os.path.samestat(self._made, self.path.stat()):
                return
        raise StorageError(
            "the run folder was removed or renamed while the run was writing to it",
            where=str(self.path),
            fix="put it back, then the same command continues",
        )

    def write(self, path: Path, content: bytes) -> None:
        """Replace one file of the folder."""
        self.check()
        with _refused(path):
            write_atomic(path, content)

    def write_config(self, yaml: str) -> None:
        """Keep the resolved configuration."""
        self.write(self.config, yaml.encode())

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Replace ``summary.json``."""
        self.check()
        with _refused(self.summary):
            write_json(self.summary, dict(summary))

    def append_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add rows ``step,name,value`` to ``metrics.csv``: nothing that a clock says."""
        self._append(self.metrics, step, metrics)

    def append_timing(self, step: int, timing: Mapping[str, float]) -> None:
        """Add rows to ``timing.csv``, which no two runs share and no resuming cuts."""
        self._append(self.timing, step, timing)

    def sync_metrics(self) -> None:
        """Have on the disk what was appended so far; to be called before a checkpoint is committed.

        A checkpoint of step N says that the rows up to N are in ``metrics.csv``.
        """
        if not self.metrics.exists():
            return
        with _refused(self.metrics), self.metrics.open("rb") as stream:
            os.fsync(stream.fileno())
        sync_folder(self.path)

    def _append(self, path: Path, step: int, figures: Mapping[str, float]) -> None:
        self.check()
        with _refused(path), path.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            if not stream.tell():
                writer.writerow(HEADER)
            writer.writerows((step, name, repr(float(v))) for name, v in figures.items())

    def read_metrics(self) -> list[tuple[int, str, float]]:
        """All complete rows of ``metrics.csv``; a torn last line is passed over."""
        if not self.metrics.exists():
            return []
        whole, newline, _torn = self.metrics.read_bytes().rpartition(b"\n")
        lines = (whole + newline).decode().splitlines()
        rows = [row for row in csv.reader(lines) if len(row) == len(HEADER) and row[0].isdigit()]
        return [(int(step), name, float(value)) for step, name, value in rows]

    def cut_metrics(self, step: int, *, measured: bool = True) -> None:
        """Drop the rows that a run resumed at ``step`` writes again; -1: all.

        Those are the rows beyond, and the validation's of ``step`` if that is not ``measured``.
        """
        if not self.metrics.exists():
            return
        again = () if measured else VALIDATION
        kept = [
            (of, name, value)
            for of, name, value in self.read_metrics()
            if of < step or (of == step and not name.startswith(again))
        ]
        buffer = io.StringIO()
        writer = csv.writer(buffer)
        writer.writerow(HEADER)
        writer.writerows((s, name, repr(value)) for s, name, value in kept)
        self.write(self.metrics, buffer.getvalue().encode())


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """A full or vanished disk is the user's to mend, not a bug."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write: {error.strerror or error}",
            where=str(path),
            fix="free some space; the checkpoints are untouched",
        ) from error
