"""Ctrl-C, SIGTERM, SIGUSR1, SIGHUP in the middle: what is measured is kept, and that is said."""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from srtrain.cli.process import LEAVE, SIGNALS
from srtrain.errors import Stopped
from srtrain.ranks import rank

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GOES_ON = "the same command continues"


def until_stopped(work: Callable[[], int]) -> int:
    """The exit code of ``work``: 130 after Ctrl-C, 75 after another signal, said once."""
    try:
        with SIGNALS.heard():
            return work()
    except (KeyboardInterrupt, Stopped) as stop:
        number = stop.number if isinstance(stop, Stopped) else signal.SIGINT
        interrupted = number == signal.SIGINT
        what = "interrupted" if interrupted else f"stopped by {signal.Signals(number).name}"
        if not rank():
            said = [what, *getattr(stop, "__notes__", []), GOES_ON]
            print(f"srtrain: {' · '.join(said)}", file=sys.stderr, flush=True)
        return LEAVE[number].exit_code


@contextmanager
def counting(measured: Callable[[], str]) -> Iterator[None]:
    """Who is stopped within says how many were measured."""
    try:
        yield
    except (KeyboardInterrupt, Stopped) as stop:
        stop.add_note(measured())
        raise


def leave_if_asked() -> None:
    """Raises: Stopped if a signal came whose exception was lost where nobody could pass it on."""
    if number := SIGNALS.stop_requested():
        raise Stopped(number)
