"""What ranks tell each other through a store: that they live, and why all must end."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypeVar

import torch.distributed as dist

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
MOST = 2000  # characters of last words


def place(name: str) -> str:
    """Where in the store; what ranks wrote before torchrun started them again does not count."""
    return f"srtrain/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{name}"


@dataclass(frozen=True)
class Verdict:
    """Why all ranks end: the rank that failed first, its exit code, and what is known of it."""

    rank: int
    code: int
    what: str

    @property
    def told(self) -> str:
        """In words, with the rank."""
        own = self.rank < 0 or self.what.startswith("rank")
        return self.what if own else f"rank {self.rank} ended: {self.what}"


class Board:
    """What the ranks tell each other through a store; the first verdict is the one that stands."""

    def __init__(self, store: dist.Store) -> None:
        self._store = dist.PrefixStore(place("peers"), store)

    def beat(self, rank: int, text: str) -> None:
        """``rank`` lives, and is at ``text``."""
        self._store.set(f"beat/{rank}", text)

    def heard(self, rank: int) -> str | None:
        """The last beat of ``rank``; None before its first."""
        return self._read(f"beat/{rank}")

    def accuse(self, verdict: Verdict) -> Verdict:
        """The verdict that stands: this one, unless another was first."""
        packed = json.dumps({**asdict(verdict), "what": verdict.what[:MOST]})
        return Verdict(**json.loads(self._store.compare_set("verdict", "", packed)))

    def verdict(self) -> Verdict | None:
        """What stands so far."""
        packed = self._read("verdict")
        return None if packed is None else Verdict(**json.loads(packed))

    def claim(self, what: str) -> bool:
        """Whether nobody has told the user ``what`` before."""
        self._store.add("told", 1)
        return int(self._store.add(f"told/{what}", 1)) == 1

    def told(self) -> bool:
        """Whether anybody has told anything."""
        return bool(self._store.check(["told"]))

    def _read(self, key: str) -> str | None:
        return self._store.get(key).decode() if self._store.check([key]) else None


class Still:
    """For how long a value has been the same, in rounds of at most ``longest`` seconds.

    A process that was stopped itself, with its whole job, can say nothing about the others.
    """

    def __init__(self, *, longest: float) -> None:
        self._longest = longest
        self._value: object = None
        self._seconds = 0.0
        self._at = time.monotonic()

    def seconds(self, value: object) -> float:
        """Call once a round."""
        now = time.monotonic()
        passed = min(now - self._at, self._longest)
        self._seconds = self._seconds + passed if value == self._value else 0.0
        self._value, self._at = value, now
        return self._seconds


def within(seconds: float, do: Callable[[], T]) -> T:
    """``do()``, if it ends so soon: a store whose keeper is stopped answers to nothing.

    Raises: TimeoutError, and what ``do`` raises.
    """
    results: list[T] = []
    failures: list[Exception] = []

    def job() -> None:
        try:
            results.append(do())
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=job, daemon=True)
    thread.start()
    thread.join(seconds)
    if failures:
        raise failures[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return results[0]
