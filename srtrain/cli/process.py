"""A run's process: which signals ask it to stop, and with what words and code it then leaves."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import signal
import sys
import threading
import traceback
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from srtrain.cli.tell import expected, last_words, others
from srtrain.errors import (
    DistributedError,
    InterruptedRunError,
    PreemptedError,
    SrtrainError,
    Stopped,
)
from srtrain.ranks import launched, rank

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

LEAVE: dict[int, type[SrtrainError]] = {
    signal.SIGINT: InterruptedRunError,
    signal.SIGTERM: PreemptedError,
    signal.SIGUSR1: PreemptedError,  # Slurm, some time before the limit
    signal.SIGHUP: PreemptedError,  # the terminal was closed
}

CODES = {InterruptedRunError.exit_code: signal.SIGINT, PreemptedError.exit_code: signal.SIGTERM}
AGENT = "SRTRAIN_AGENT"  # the process that started this rank
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def to_hear() -> list[int]:
    """The signals of ``LEAVE``, less SIGHUP where ``nohup`` has this process ignore it."""
    deaf = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in LEAVE if not (deaf and number == signal.SIGHUP)]


class Signals:
    """The first signal asks the run to stop, and those that follow are ignored.

    It stops at once, by raising ``Stopped``, unless ``patient``: then whoever can save asks
    ``stop_requested`` at the end of each step. ``saved`` is what there is to say about that.
    """

    def __init__(self) -> None:
        self._received = 0
        self._owner = 0
        self.patient = False
        self.saved = ""

    def stop_requested(self) -> int:
        """The number of the signal that came first, or 0."""
        return self._received

    def note(self, number: int) -> None:
        """This signal came, if only to another rank."""
        self._received = self._received or number

    @contextmanager
    def heard(self, *, to_the_end: bool = False) -> Iterator[None]:
        """Listen; ``to_the_end`` of the process if one came, so that no later one changes its code.

        Only the main thread can: runs of a sweep in threads leave the signals alone.
        """
        self._received, self._owner, self.patient = 0, os.getpid(), False
        self.saved = "nothing to save yet"
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._hear) for number in to_hear()}
        try:
            yield
        finally:
            self.patient = True
            if not (to_the_end and self._received):
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a fork that reads images; it goes with its parent
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        first = not self._received
        self.note(number)
        if first and not self.patient:
            raise Stopped(number)


SIGNALS = Signals()


@contextmanager
def lifetime(words: Sequence[str], *, to_the_end: bool = False) -> Iterator[None]:
    """A run, from before anything is built until nothing is left to do.

    ``words`` are its command line. Exceptions may carry ``run_dir``, the run's folder.

    Raises: PreemptedError or InterruptedRunError, with the command that continues the run, when a
    signal stopped it, or made what it waited for break.
    """
    with SIGNALS.heard(to_the_end=to_the_end):
        try:
            if launched():
                _be_a_rank()
            yield
        except (Exception, Stopped) as error:
            failure = _failure(error, words)
            ranks = others()
            if ranks is not None:
                known = expected(failure)
                ranks.leave(known.exit_code if known else 1, last_words(known or failure))
            if failure is error:
                raise
            raise failure from (None if isinstance(error, Stopped) else error)
        else:
            ranks = others()
            if ranks is not None:
                ranks.leave(0)


def _failure(error: BaseException, words: Sequence[str]) -> BaseException:
    """What to tell of an error: who is asked to stop may break what the others wait for."""
    if isinstance(error, Stopped):
        SIGNALS.note(error.number)
        return _leaving(error, words)
    if isinstance(error, PreemptedError | InterruptedRunError):
        return _leaving(error, words)
    folder: Path | None = vars(error).get("run_dir")
    ranks = others()
    if ranks is not None and ranks.broke(error):
        verdict = ranks.verdict()
        if verdict is None and not SIGNALS.stop_requested():
            fault = DistributedError(f"rank {rank()} lost the others: {last_words(error)}")
            return with_continuation(fault, folder, words)
        if verdict is not None and verdict.code not in CODES:
            return with_continuation(DistributedError(verdict.told), folder, words)
        SIGNALS.note(CODES[verdict.code] if verdict else 0)
    elif SIGNALS.stop_requested() and expected(error) is None and folder is not None:
        with suppress(OSError):  # it may be a bug all the same
            (folder / "error.log").write_text("".join(traceback.format_exception(error)), "utf-8")
    if SIGNALS.stop_requested() and expected(error) is None:
        return _leaving(error, words)
    if isinstance(error, DistributedError) and not error.fix:
        return with_continuation(error, folder, words)
    return error


def with_continuation(
    fault: SrtrainError, folder: Path | None, words: Sequence[str]
) -> SrtrainError:
    """``fault``, with the command that continues the run in ``folder``."""
    fix = f"continue with:\n{continue_command(folder, words)}"
    told = type(fault)(fault.what, where=fault.where or str(folder or ""), fix=fix)
    told.told = fault.told
    return told


def _leaving(stop: BaseException, words: Sequence[str]) -> SrtrainError:
    if isinstance(stop, SrtrainError):  # what the ranks say
        leaving = stop
    else:
        number = SIGNALS.stop_requested()
        leaving = LEAVE[number](f"stopped by {signal.Signals(number).name}, {SIGNALS.saved}")
        leaving.told = getattr(stop, "told", False)
    return with_continuation(leaving, vars(stop).get("run_dir"), words)


def _be_a_rank() -> None:
    """Speak for oneself, torch need not; where the agent that started this rank is killed, save.

    Raises: Stopped if it is gone already.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # its exceptions say the same
    agent = os.environ.get(AGENT)
    if agent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(agent):
        raise Stopped(signal.SIGTERM)


def continue_command(folder: Path | None, words: Sequence[str] = ()) -> str:
    """The command, quoted for a shell, that continues the run in ``folder``.

    A run that was stopped before it wrote its configuration starts by its own ``words``.
    """
    if folder is None:
        asked = [*words]
    elif words and not (folder / "config.yaml").exists():
        asked = [word for word in words if not word.startswith("run_dir=")]
        asked.append(f"run_dir={short(folder)}")
    else:
        asked = [f"resume={short(folder)}"]
    return shlex.join([str(short(interpreter())), "-m", "srtrain", *asked])


def interpreter() -> Path:
    """``python`` where that is what runs, else its path: the environment may be inactive."""
    found = shutil.which("python")
    return Path("python") if found == sys.executable else Path(sys.executable)


def short(path: Path) -> Path:
    """Relative to the working directory where it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
