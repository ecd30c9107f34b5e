"""The other side of `driven.Turns`: a process that runs only in its turns, and what they cost."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict, deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from srtrain.cli.benchmark.driven import PIPES
from srtrain.errors import ConfigError, SrtrainError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PROC = Path("/proc")
PATIENCE_S = 5.0  # with processes that were killed
TOLD = 4000  # characters of a process's output that are kept


class Turn(NamedTuple):
    """What one turn took."""

    cpu: float
    seconds: float


class Child:
    """``python ARGUMENTS``, which makes a `driven.Turns`; its output goes to a terminal of its own.

    Between its turns it is stopped with all its descendants. What a turn costs is the CPU time of
    all of them since the last one: whatever a loader prefetches is paid for, and a bar that would
    go on turning while others work is not.

    Raises: ConfigError where there is no /proc to read that from.
    """

    def __init__(
        self, name: str, arguments: Sequence[str], *, cwd: Path, environ: Mapping[str, str]
    ) -> None:
        if not (PROC / "self" / "stat").exists():
            raise ConfigError("whole runs are measured on Linux alone", where="srtrain benchmark")
        self.name = name
        asked, self._ask = os.pipe()
        self._answers, answer = os.pipe()
        self._terminal, terminal = pty.openpty()
        self._said: deque[str] = deque(maxlen=TOLD)
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=cwd,
            env={**os.environ, **environ, PIPES: f"{asked},{answer}"},
            stdin=subprocess.DEVNULL,
            stdout=terminal,
            stderr=terminal,
            pass_fds=(asked, answer),
            process_group=0,
        )
        for descriptor in (asked, answer, terminal):
            os.close(descriptor)
        self._reader = threading.Thread(target=self._read_terminal, daemon=True)
        self._reader.start()
        self._pending = b""
        self._spent = 0.0
        self._closed = False
        self.facts: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> float:
        """Wait until it is ready for its first turn; the CPU-seconds that it took until then."""
        (spent,) = start([self])
        return spent

    def turn(self, steps: int) -> Turn:
        """``steps`` steps.

        Raises: SrtrainError with the process's last words, if it ended.
        """
        (turn,) = turns([self], steps)
        return turn

    def close(self) -> None:
        """End it and its descendants, once: when this returns, they have ended."""
        if self._closed:
            return
        self._closed = True
        known: dict[int, float] = {}
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            alive = {pid: began for pid in self._own() if (began := _began(pid)) is not None}
            known = {**alive, **known}  # who has lost its parent is no descendant any more
            left = [pid for pid, began in known.items() if _began(pid) == began]
            if not left:
                break
            for pid in left:
                _signal(pid, signal.SIGKILL)
            time.sleep(0.002)
        self._process.wait()
        self._reader.join(timeout=5)
        for descriptor in (self._ask, self._answers, self._terminal):
            os.close(descriptor)

    def _own(self) -> list[int]:
        """Its `descendants`; of one that was waited for, the number may be another's by now."""
        root = self._process.pid
        return [p for p in descendants(root) if p != root or self._process.returncode is None]

    def _ask_for(self, steps: int) -> None:
        for pid in descendants(self._process.pid):
            _signal(pid, signal.SIGCONT)
        with suppress(BrokenPipeError):  # the answer says so
            os.write(self._ask, f"{steps}\n".encode())

    def _stop(self) -> None:
        for pid in descendants(self._process.pid):
            _signal(pid, signal.SIGSTOP)
        self._spent = cpu_seconds(self._process.pid)

    def _answer(self) -> dict[str, Any]:
        while b"\n" not in self._pending:
            ready, _, _ = select.select([self._answers], [], [], 0.5)
            got = os.read(self._answers, 65536) if ready else b""
            self._pending += got
            if not got and (ready or self._process.poll() is not None):
                self._reader.join(timeout=1)
                said = "".join(self._said).strip().splitlines()
                raise SrtrainError(f"{self.name} ended", where=" / ".join(said[-3:]))
        line, _, self._pending = self._pending.partition(b"\n")
        content: dict[str, Any] = json.loads(line)
        return content

    def _read_terminal(self) -> None:
        with suppress(OSError):  # Linux says so when the other end is closed
            while got := os.read(self._terminal, 65536):
                self._said.extend(got.decode(errors="replace"))


def start(children: Sequence[Child]) -> list[float]:
    """Wait until all are ready, who may need each other for that; the CPU-seconds of each."""
    for child in children:
        child.facts = child._answer()
    for child in children:
        child._stop()
    return [child._spent for child in children]


def turns(children: Sequence[Child], steps: int) -> list[Turn]:
    """A turn of several at once, who may need each other for it: none is stopped before all end.

    Raises: SrtrainError with the last words of one that ended.
    """
    before = [child._spent for child in children]
    for child in children:
        child._ask_for(steps)
    seconds = [float(child._answer()["seconds"]) for child in children]
    for child in children:
        child._stop()
    return [Turn(c._spent - b, s) for c, b, s in zip(children, before, seconds, strict=True)]


def descendants(root: int) -> list[int]:
    """``root`` and all processes below it, also those of its group that lost their parent."""
    children, grouped = defaultdict[int, list[int]](list), []
    for pid, (parent, group, _) in _processes().items():
        children[parent].append(pid)
        if group == root:
            grouped.append(pid)
    found, left = dict.fromkeys([root]), [root, *grouped]
    while left:
        pid = left.pop()
        found[pid] = None
        left += [child for child in children[pid] if child not in found]
    return list(found)


def cpu_seconds(root: int) -> float:
    """CPU time of ``root``, its descendants, and those that ended and were waited for."""
    processes = _processes()
    own = [pid for pid in descendants(root) if pid in processes]
    ticks = sum(processes[pid][2] for pid in own)
    return sum(map(_cpu_clock, own)) + ticks / os.sysconf("SC_CLK_TCK")


def _began(pid: int) -> float | None:
    """When a process began, in clock ticks: no other of its number did. None if it has ended."""
    try:
        stat = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:  # FileNotFoundError, or ProcessLookupError amid its end
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else float(fields[19])


def _processes() -> dict[int, tuple[int, int, int]]:
    """Of each: its parent, its group, and the clock ticks of its ended children."""
    found = {}
    for file in PROC.glob("[0-9]*/stat"):
        with suppress(OSError):
            # Fields after the name, which may hold blanks and parentheses: proc(5), from the third.
            fields = file.read_text(errors="replace").rpartition(")")[2].split()
            ended = int(fields[13]) + int(fields[14])
            found[int(file.parent.name)] = int(fields[1]), int(fields[2]), ended
    return found


def _cpu_clock(pid: int) -> float:
    """CPU time of all threads of a process, in nanoseconds' resolution: clock_getcpuclockid(3)."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:  # it has just ended
        return 0.0


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
