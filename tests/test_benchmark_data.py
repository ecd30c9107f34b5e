"""``srtrain benchmark data`` on tiny sizes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from srtrain.cli.benchmark import data
from srtrain.data.ahead import AHEAD, Ahead
from srtrain.data.workers import _Batches
from srtrain.errors import ConfigError
from tests.test_benchmark import options_of

if TYPE_CHECKING:
    from collections.abc import Iterator


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


@pytest.mark.parametrize("kind", ["", "--jpeg"])
def test_every_arm_of_the_data_is_measured(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read, kinds = data._read, []

    def filled(batches: Iterator[object], count: int) -> None:
        read(batches, count)
        if isinstance(batches, _Batches):
            iterator = batches._iterator
            kinds.append(len(batches._workers))
            assert iterator._data_queue.qsize() == iterator._tasks_outstanding > 0

    monkeypatch.setattr(data, "_read", filled)
    words = "--side 64 --images 45 --patch 16 --batch 4 --batches 3 --waits 2 --rounds 2"
    report = data.measure(options_of(data, f"{kind} {words} --device cpu"))
    assert sorted(kinds) == [1] * 3 + [2] * 3  # a round beforehand
    units = [(table.unit, len(table.arms)) for table in report.tables]
    assert units == [
        ("images a CPU-second", 3),
        ("images a second", 3),
        ("CPU-ms", 1),
        ("samples a CPU-second", 6),
        ("ms", 6),
    ]
    for table in report.tables:
        for arm in table.arms:
            assert len(arm.rounds) == 2
            assert all(figure > 0 for figure in arm.rounds)


def test_a_patch_that_is_no_part_of_an_image_is_refused() -> None:
    with pytest.raises(ConfigError, match="patches of 192² from images of 64²"):
        data.measure(options_of(data, "--side 64"))
    with pytest.raises(ConfigError, match="at least 32²"):
        data.measure(options_of(data, "--side 31 --patch 4"))
