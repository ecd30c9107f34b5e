"""``srtrain benchmark data`` on tiny sizes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from srtrain.cli.benchmark import data
from srtrain.cli.benchmark.workload import draw_pictures
from srtrain.data.ahead import AHEAD, Ahead
from srtrain.data.workers import _Batches
from tests.test_benchmark import options_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest


def test_a_turn_pays_for_what_it_takes() -> None:
    made = []

    def slow() -> Iterator[int]:
        while True:
            time.sleep(0.02)
            made.append(1)
            yield 0

    batches = Ahead(slow())
    for turn in (1, 2):
        data._read(batches, 3)
        assert len(made) == 3 * turn + AHEAD
    data._wait(batches, 1)
    assert len(made) == 7 + AHEAD
    batches.close()


def test_every_arm_of_the_data_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "SIDE", 64)
    draw = draw_pictures
    monkeypatch.setattr(
        data, "draw_pictures", lambda folder, **sizes: draw(folder, side=64, **sizes)
    )
    read, kinds = data._read, []

    def filled(batches: Iterator[object], count: int) -> None:
        read(batches, count)
        if isinstance(batches, _Batches):
            iterator = batches._iterator
            kinds.append(len(batches._workers))
            assert iterator._data_queue.qsize() == iterator._tasks_outstanding > 0

    monkeypatch.setattr(data, "_read", filled)
    words = "--rounds 2 --images 45 --batches 3 --waits 2 --batch 4 --patch 16 --device cpu"
    report = data.measure(options_of(data, words))
    assert sorted(kinds) == [1] * 3 + [2] * 3  # a round beforehand
    units = [(table.unit, len(table.arms)) for table in report.tables]
    assert units == [
        ("images a CPU-second", 2),
        ("images a second", 2),
        ("CPU-ms", 1),
        ("samples a CPU-second", 6),
        ("ms", 6),
    ]
    for table in report.tables:
        for arm in table.arms:
            assert len(arm.rounds) == 2
            assert all(figure > 0 for figure in arm.rounds)
