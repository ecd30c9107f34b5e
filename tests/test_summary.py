"""summary.json: what a run has reached, written at any end and taken over by what continues it."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from srtrain.files import read_json
from srtrain.training.checkpointing import Checkpointing
from srtrain.training.ranking import Ranking
from srtrain.training.run_folder import RunFolder
from srtrain.training.summary import Summary


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "one")
    made.create()
    return made


def _summary(
    folder: RunFolder,
    *,
    psnr: float = 29.5,
    last_step: int | None = None,
    judged: int = 3,
    monitor: str = "psnr_y",
) -> Summary:
    validation = SimpleNamespace(
        names=["a"],
        mean={"psnr_y": psnr, "ssim_y": 0.9}.get,
        val={"a": {"psnr_y": psnr}},
        measured_at=6,
        bicubic={"a": {"psnr_y": 28.0}},
        metrics=SimpleNamespace(protocol={"border": 4}),
    )
    records = SimpleNamespace(
        shares={"loss": {"pixel": 1.0}}, alarms={}, samples_per_second=12.3456, skipped=2
    )
    ranking = Ranking(monitor=monitor, mode="max")
    checkpointing = Checkpointing(folder, validation, ranking, every_n_steps=1, keep_last=1)  # type: ignore[arg-type]
    checkpointing.last_step = last_step
    features = SimpleNamespace(features_name="first5/procedural (recipe: vgg54)")
    terms = {"pixel": SimpleNamespace(), "perceptual": features}
    loss = SimpleNamespace(weights={"pixel": 1.0}, terms=terms)
    module = SimpleNamespace(validation=validation, loss=loss, discriminator_steps=judged)
    return Summary(folder, module, records, checkpointing)  # type: ignore[arg-type]


def _trainer(*, rank: int = 0) -> Any:  # noqa: ANN401
    return SimpleNamespace(is_global_zero=rank == 0, global_step=7, state=SimpleNamespace(fn="fit"))


def test_summary(folder: RunFolder) -> None:
    _summary(folder).write(7)
    written = read_json(folder.summary)
    assert written.pop("seconds") >= 0
    assert written == {
        "generator_steps": 7,
        "discriminator_steps": 3,
        "checkpoint": None,
        "best": None,
        "val": {"a": {"psnr_y": 29.5}},
        "val_step": 6,
        "bicubic": {"a": {"psnr_y": 28.0}},
        "protocol": {"border": 4},
        "loss": {
            "weights": {"pixel": 1.0},
            "features": {"perceptual": "first5/procedural (recipe: vgg54)"},
            "loss": {"pixel": 1.0},
        },
        "alarms": {},
        "skipped": 2,
        "samples_per_second": 12.35,
    }


def test_summary_is_json(folder: RunFolder) -> None:
    _summary(folder, psnr=math.inf, last_step=7).write(7)
    written = read_json(folder.summary)
    assert written["checkpoint"] == "checkpoints/step-000007.ckpt"
    assert written["val"]["a"]["psnr_y"] is None  # infinity is no JSON number


def _best(folder: RunFolder) -> dict[str, Any]:
    (folder.checkpoints / "step-000006.ckpt").touch()
    return {"metric": "psnr_y", "step": 6, "value": 31.0, "file": "step-000006.ckpt"}


def test_restored_is_what_was_saved(folder: RunFolder) -> None:
    reached = _summary(folder, psnr=31.0, last_step=7).content(7)
    reached |= {"best": _best(folder), "seconds": 1000.0}
    continued = _summary(folder, judged=0)
    continued.restore(reached, same_sets=["a"])
    content = continued.content(7)
    assert 1000.0 <= content.pop("seconds") < 1100.0
    assert content == {key: value for key, value in reached.items() if key != "seconds"}


def test_several_best_are_restored_if_they_are_still_there(folder: RunFolder) -> None:
    earlier = _summary(folder, last_step=7)
    best = _best(folder)
    second = best | {"step": 4, "value": 30.0}
    earlier.checkpointing.kept = [best, second, best | {"step": 2, "file": "step-000002.ckpt"}]
    continued = _summary(folder)
    continued.restore(earlier.content(7), same_sets=["a"])
    content = continued.content(7)
    assert (content["best"], content["kept"]) == (best, [best, second])


@pytest.mark.parametrize(("same", "monitor"), [([], "psnr_y"), (["a"], "ssim_y")])
def test_restored_best_counts_for_its_own_sets_and_metric(
    same: list[str], monitor: str, folder: RunFolder
) -> None:
    earlier = _summary(folder, last_step=7)
    earlier.checkpointing.kept = [_best(folder)]
    continued = _summary(folder, monitor=monitor)
    continued.restore(earlier.content(7), same_sets=same)
    assert continued.content(7)["best"] is None
    assert list(continued.content(7)["bicubic"]) == same


def test_what_breaks_before_training_writes_no_summary(folder: RunFolder) -> None:
    summary, trainer = _summary(folder), _trainer()
    summary.on_exception(trainer, trainer, ValueError())
    assert not folder.summary.exists()
    summary.on_train_start(trainer, trainer)
    summary.on_exception(trainer, trainer, ValueError())
    assert folder.summary.exists()


def test_other_ranks_write_no_summary(folder: RunFolder) -> None:
    trainer = _trainer(rank=1)
    _summary(folder).on_train_end(trainer, trainer)
    assert not folder.summary.exists()
