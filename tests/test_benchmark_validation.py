"""``srtrain benchmark metrics | validation`` on tiny sizes: that they measure what they say."""

from __future__ import annotations

import pytest
import torch

from srtrain.cli.benchmark import metrics, validation
from srtrain.training.pictures import Pictures
from tests.test_benchmark import options_of


def test_metrics_measures_equal_values() -> None:
    options = options_of(metrics, "--side 48 --images 2 --rounds 2 --device cpu")
    report = metrics.measure(options)
    quality, everything = report.tables
    assert [arm.name for arm in quality.arms] == [
        metrics.TORCHMETRICS,
        metrics.APART,
        metrics.TOGETHER,
    ]
    assert quality.base == metrics.TORCHMETRICS
    assert all(len(arm.rounds) == 2 and min(arm.rounds) > 0 for arm in quality.arms)
    assert "lpips_squeeze" not in {arm.name for arm in everything.arms}
    assert float(str(report.about["largest difference"])) < 1e-5


def test_metrics_of_other_values_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "EDGE", 4)  # torchmetrics' map with some of its mirrored border
    with pytest.raises(ValueError, match="not the same that is measured"):
        metrics.measure(options_of(metrics, "--side 48 --images 1 --rounds 1 --device cpu"))


def test_validation_runs_whole_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """One unmeasured and one measured round, at a step whose pictures are drawn."""
    drawn: list[int] = []
    keep = Pictures._keep

    def kept(self: Pictures, *given: object) -> None:
        drawn.append(int(str(given[-1])))
        keep(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Pictures, "_keep", kept)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    words = "--images 3 --rounds 1 --generator edsr_lite --device cpu"
    threads = torch.get_num_threads()
    (table,) = validation.measure(options_of(validation, words)).tables
    assert torch.get_num_threads() == threads
    assert [arm.name for arm in table.arms[:2]] == [validation.BARE, validation.WHOLE]
    assert table.base == validation.BARE
    assert drawn == [1] * 4  # whole rounds, and pictures by themselves
    assert all(len(arm.rounds) == 1 and arm.rounds[0] > 0 for arm in table.arms)
