"""Training figures: means over steps and ranks, with the clock stopped during validation."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from srtrain.losses.weighted_sum import WeightedSum
from srtrain.training import records as module_of_records
from srtrain.training.records import Records, _told
from srtrain.training.rows import Rows
from srtrain.training.run_folder import RunFolder
from tests.training import cut_back, draw_sets, train

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    Reduce = Callable[[Tensor], Tensor]

BATCH = {"sample": torch.arange(4)}


class _Run:
    """Steps of a run without a network; ``now`` is the time."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, reduce: Reduce = torch.clone
    ) -> None:
        self.now = 100.0
        monkeypatch.setattr(module_of_records.time, "perf_counter", lambda: self.now)
        self.records = Records(RunFolder(folder), log_every_n_steps=10)
        self.trainer: Any = SimpleNamespace(
            global_step=0,
            max_steps=1000,
            world_size=1,
            is_global_zero=True,
            loggers=[],
            optimizers=[SimpleNamespace(param_groups=[{"lr": 1e-4}])],
            strategy=SimpleNamespace(reduce=lambda value, reduce_op: reduce(value)),
        )
        self.module: Any = SimpleNamespace(
            loss=WeightedSum({"pixel": torch.nn.MSELoss()}, {"pixel": 1.0}),
            loss_details=lambda: ({"pixel": torch.tensor(2.0)}, {}),
            validation=SimpleNamespace(val={}, new_bicubic={}),
            device=torch.device("cpu"),
        )
        self.records.on_train_start(self.trainer, self.module)

    def step(self, value: float, *, seconds: float = 1.0, **more: float) -> None:
        self.now += seconds
        self.trainer.global_step += 1
        values = {"loss": value, "pixel": value, **more}
        self.module.step_values = {name: torch.tensor(value) for name, value in values.items()}
        self.records.on_train_batch_end(self.trainer, self.module, None, BATCH, 0)

    def validate(self, *, seconds: float) -> None:
        self.records.on_validation_start(self.trainer, self.module)
        self.now += seconds
        self.records.on_validation_end(self.trainer, self.module)


def test_validation_is_not_training_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = _Run(tmp_path, monkeypatch)
    for step in range(1, 21):
        run.step(0.5)
        if step in (5, 12):
            run.validate(seconds=60.0)
    lines = run.records.folder.timing.read_text(encoding="utf-8").split()
    assert lines == [  # 10 steps of 4 images in 10 s, twice
        "step,name,value",
        "10,train/samples_per_second,4.0",
        "20,train/samples_per_second,4.0",
    ]
    assert "per_second" not in run.records.folder.metrics.read_text(encoding="utf-8")


def test_means_over_steps_and_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = _Run(tmp_path, monkeypatch, reduce=lambda mine: (mine + 3 * mine) / 2)
    for step in range(1, 11):
        run.step(float(step))
    assert run.records.latest["train/loss"] == 11.0  # 5.5 here, 16.5 on another rank


def test_a_kill_between_two_lines_leaves_no_trace(tmp_path: Path) -> None:
    """Lines at 4 and 6, saved at 2: the line at 4 is of four steps in both."""
    images, every = draw_sets(tmp_path / "images"), "trainer.log_every_n_steps=4"
    whole = train(images, tmp_path / "whole", every)
    cut = cut_back(whole, tmp_path / "cut", 2)
    train(images, cut.path, every)
    assert cut.metrics.read_bytes() == whole.metrics.read_bytes()
    rows = [line.split(",")[0] for line in cut.timing.read_text(encoding="utf-8").split()]
    assert rows == ["step", "4", "6", "4", "6"]  # no clock is turned back


def test_skipped_steps_in_a_row_share_a_line() -> None:
    causes = ["pixel", "pixel", "d_loss", "d_loss", "d_loss"]
    assert list(_told([3, 4, 5, 9, 10], causes, samples=4)) == [
        "srtrain: steps 3-4 skipped: `pixel` is not finite · samples 8-15\n",
        "srtrain: step 5 skipped: `d_loss` is not finite · samples 16-19\n",
        "srtrain: steps 9-10 skipped: `d_loss` is not finite · samples 32-39\n",
    ]


@pytest.mark.parametrize("last", [False, True], ids=["of ten", "all"])
def test_skipped_steps_count_for_nothing(
    last: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: 1, 3, 5, 7, 9; a line of which no step was taken has no loss, and nothing is NaN."""
    run = _Run(tmp_path, monkeypatch)
    for step in range(1, 11):
        skipped = last or step % 2 == 0
        run.step(math.nan if skipped else float(step), skipped=float(skipped))
    rows = {name: value for _, name, value in run.records.folder.read_metrics()}
    assert all(math.isfinite(value) for value in rows.values())
    assert rows.get("train/loss") == (None if last else 5.0)
    assert rows["train/skipped"] == run.records.skipped == (10 if last else 5)


def test_rows_of_terms_that_begin_later() -> None:
    rows = Rows()
    rows.add({"loss": torch.tensor(1.0)})
    rows.add({"loss": torch.tensor(2.0), "late": torch.tensor(4.0)})
    rows.add({"late": torch.tensor(8.0)})
    resumed = Rows()
    resumed.load_state_dict(rows.state_dict())
    for each in (rows, resumed):
        columns = each.take(lambda matrix: matrix)
        np.testing.assert_array_equal(columns["loss"], [1.0, 2.0, np.nan])
        np.testing.assert_array_equal(columns["late"], [np.nan, 4.0, 8.0])
        assert len(each) == 0


def test_rows_of_two_ranks_go_on_alone() -> None:
    """What two had on average: their figures are means over equal parts of a batch."""
    rows = Rows()
    rows.load_state_dict(
        {"names": ["loss"], "rows": torch.tensor([[[1.0], [2.0]], [[3.0], [6.0]]])}
    )
    np.testing.assert_array_equal(rows.take(lambda matrix: matrix)["loss"], [2.0, 4.0])
