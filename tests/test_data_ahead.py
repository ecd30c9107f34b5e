"""The thread that loads batches: ahead, but not far; it ends with whoever wanted them."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from srtrain.data.ahead import NAME, Ahead
from srtrain.data.crops import TrainingCrops
from srtrain.data.sources import Synthetic
from srtrain.errors import StorageError
from tests.test_data_datamodule import _data


def _until(done: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not done() and time.monotonic() < deadline:
        time.sleep(0.005)
    return done()


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == NAME]


def _counted(made: list[int]) -> Iterator[int]:
    for number in range(10**9):
        made.append(number)
        yield number


def test_it_makes_the_items_in_order_and_no_more_than_two_ahead() -> None:
    made: list[int] = []
    items = Ahead(_counted(made))
    assert _until(lambda: len(made) == 2)
    assert list(islice(items, 5)) == [0, 1, 2, 3, 4]
    assert _until(lambda: len(made) == 7)
    time.sleep(0.05)
    assert made == list(range(7))


@pytest.mark.parametrize("how", ["close", "del", "cycle", "items end", "error"])
def test_the_thread_ends_with_its_owner(how: str) -> None:
    others = _threads()  # of other tests' loaders
    source: Iterator[int] = iter([1]) if how == "items end" else _counted([])
    items: Any = Ahead(_raises() if how == "error" else source)
    threads = [thread for thread in _threads() if thread not in others]
    if how == "close":
        items.close()
    elif how == "cycle":
        items.itself = items
    elif how == "items end":
        assert list(items) == [1]
    elif how == "error":
        with pytest.raises(StorageError):
            next(items)
    if how in ("del", "cycle"):
        del items
        gc.collect()
    assert len(threads) <= 1
    assert _until(lambda: not any(thread.is_alive() for thread in threads))


def _raises() -> Iterator[int]:
    yield from ()
    raise StorageError("the cache of decoded images is gone", fix="start again")


def test_what_the_thread_raises_is_raised_where_the_item_is_asked_for() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise StorageError("gone", where="there")

    ahead = Ahead(items())
    assert next(ahead) == 1
    for _ in range(2):  # whoever asks again does not wait for ever
        with pytest.raises(StorageError, match="gone · there"):
            next(ahead)


def test_an_error_of_a_batch_keeps_its_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise StorageError("the cache of decoded images is gone")

    batches = iter(_data(tmp_path, train=Synthetic(count=2, size=32)).train_dataloader())
    next(batches)
    monkeypatch.setattr(TrainingCrops, "__getitems__", gone)
    with pytest.raises(StorageError, match="is gone"):
        list(islice(batches, 4))


def test_a_fork_neither_waits_for_the_thread_nor_ends_it() -> None:
    items = Ahead(_counted([]))
    next(items)
    child = os.fork()
    if child == 0:
        items.close()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert list(islice(items, 3)) == [1, 2, 3]


PROGRAM = """
import os, signal, sys
from srtrain.data.ahead import Ahead
items = Ahead(iter(lambda: bytes(1000), None))
next(items)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job is born deaf to it
if sys.argv[1] == "raise":
    raise SystemExit(7)
if sys.argv[1] == "signal":
    os.kill(os.getpid(), signal.SIGINT)
sys.exit(0)
"""


@pytest.mark.parametrize(("how", "code"), [("end", 0), ("raise", 7), ("signal", -2)])
def test_a_program_ends_while_the_thread_waits(how: str, code: int) -> None:
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Fatal" not in done.stderr
