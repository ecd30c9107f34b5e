"""The suite `scaling`: who is started where, what is counted, and the same steps under each arm."""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from srtrain.cli.benchmark import scaling
from srtrain.cli.benchmark.child import Turn
from srtrain.cli.benchmark.options import add_common
from srtrain.cli.main import main
from srtrain.training.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def options_of(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_common(parser)
    scaling.add_options(parser)
    return parser.parse_args([*given])


class Noted:
    """In the place of a process: what it was started with."""

    def __init__(
        self, name: str, arguments: Sequence[str], *, cwd: Path, environ: Mapping[str, str]
    ) -> None:
        self.name, self.program, self.words, self.environ = name, arguments[1], arguments, environ

    def __enter__(self) -> Noted:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_each_rank_has_its_core_and_as_many_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "Child", Noted)
    with ExitStack() as stack:
        pinned = scaling.Pinned(options_of("--batch", "3"), tmp_path, [4, 7], stack)
        one: Any = pinned.child("one")
        first, second = ranks = pinned.ranks("stock", stock=True)
    assert "data.batch_size=3" in one.words
    assert "RANK" not in one.environ
    assert all("data.batch_size=6" in rank.words for rank in ranks)
    assert [rank.environ["RANK"] for rank in ranks] == ["0", "1"]
    assert first.environ["MASTER_PORT"] == second.environ["MASTER_PORT"]
    assert "{4}" in one.program
    assert ["{4}" in rank.program for rank in ranks] == [True, False]
    assert ["{7}" in rank.program for rank in ranks] == [False, True]
    assert "if 0:" in one.program
    assert f'"{first.environ["MASTER_PORT"]}"' not in first.program, "two stores, two ports"


def test_a_turn_lasts_until_the_slowest_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand, with a first turn that is not kept; CPU time is that of a rank."""
    turns = iter([[Turn(9.0, 9.0)] * 2, [Turn(1.0, 2.0), Turn(2.0, 4.0)]])
    monkeypatch.setattr(scaling.child, "turns", lambda *_: next(turns))
    group = scaling.Group([])
    assert [group.turn(5), group.turn(5)] == [9.0, 4.0]
    assert (group.walls, group.cpus) == ([4.0], [1.5])
    one = scaling.Group([], walls=[2.0], cpus=[1.0])
    efficiency, left, costs = scaling._tables("a", 8, {scaling.ONE: one, scaling.FLAT: group})
    assert [arm.rounds for arm in efficiency.arms] == [[4.0], [2.0]]
    assert [arm.name for arm in left.arms] == [scaling.FLAT]
    assert [arm.rounds for arm in costs.arms] == [[8.0], [8.0 / 1.5]]


def test_one_core_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert main(["benchmark", "scaling"]) == 2
    assert "a core for each" in capsys.readouterr().err


@pytest.mark.slow
def test_all_arms_take_the_same_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks of either kind: the losses of one process on their joint batch."""
    monkeypatch.setattr(scaling.tempfile, "TemporaryDirectory", lambda **_: _Kept(tmp_path))
    small = ["data.hr_patch_size=16", "generator.num_blocks=1", "trainer.log_every_n_steps=1"]
    words = ["--network", "tiny", "--batch", "2", "--rounds", "1", "--steps", "2"]
    options = options_of(*words, "--override", *small, "data.num_workers=0", "logger=none")
    efficiency, left, costs = scaling.measure(options).tables
    assert [arm.name for arm in efficiency.arms] == [
        scaling.ONE,
        scaling.APART,
        scaling.FLAT,
        scaling.STOCK,
    ]
    assert all(arm.rounds[0] > 0 for table in (efficiency, left, costs) for arm in table.arms)

    def losses(name: str) -> list[float]:
        rows = RunFolder(tmp_path / "runs" / name).read_metrics()
        return [value for _, metric, value in rows if metric == "train/loss"][:3]

    assert len(losses("flat")) == 3
    assert losses("stock") == pytest.approx(losses("flat"), rel=1e-5)
    assert losses("one") != pytest.approx(losses("flat"), rel=1e-3)


class _Kept:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> str:
        return str(self.folder)

    def __exit__(self, *_: object) -> None:
        pass
