"""Which checkpoints stay, how a state is copied, and what the writing thread tells."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from srtrain.errors import ConfigError, StorageError
from srtrain.files import read_json
from srtrain.training import checkpointing as of
from srtrain.training.ranking import Ranking
from srtrain.training.writer import Writer, snapshot
from tests.faults.saving import Saver
from tests.training import draw_sets, train

if TYPE_CHECKING:
    from collections.abc import Callable

NAN = math.nan


@pytest.mark.parametrize(
    ("mode", "keep", "floor", "candidates", "expected"),
    [  # candidates: step, LPIPS, PSNR
        ("min", 1, {}, [(1, 0.4, 20), (2, 0.3, 20), (3, 0.5, 20)], [2]),
        ("max", 1, {}, [(1, 0.4, 20), (2, 0.3, 20), (3, 0.5, 20)], [3]),
        ("min", 2, {}, [(1, 0.4, 20), (2, 0.3, 20), (3, 0.2, 20)], [3, 2]),
        ("min", 9, {}, [(1, 0.4, 20), (2, 0.3, 20)], [2, 1]),
        ("min", 1, {}, [(1, 0.4, 20), (2, 0.4, 20)], [1]),
        ("min", 1, {"psnr": 28}, [(1, 0.4, 28), (2, 0.3, 27.9), (3, 0.5, 30)], [1]),
        ("min", 1, {"psnr": 28}, [(1, 0.4, 20), (2, 0.3, NAN)], []),
        ("min", 1, {}, [(1, NAN, 20), (2, 0.3, 20), (3, NAN, 20)], [2]),
        ("max", 2, {}, [(1, NAN, 20), (2, math.inf, 20), (3, 1, 20)], [2, 3]),
        ("min", 1, {}, [(2, 0.3, 20), (2, 0.6, 20)], [2]),
        ("min", 2, {}, [(1, 0.4, 20), (2, 0.3, 20), (2, 0.6, 20)], [1, 2]),
    ],
    ids=["min", "max", "two", "many", "tie", "floor", "none", "nan", "inf", "again", "moved"],
)
def test_ranking(
    mode: Any,  # noqa: ANN401
    keep: int,
    floor: dict[str, float],
    candidates: list[tuple[int, float, float]],
    expected: list[int],
) -> None:
    ranking, best = Ranking(monitor="lpips", mode=mode, keep=keep, floor=floor), []
    for step, lpips, psnr in candidates:
        best = ranking.with_candidate(best, step, {"lpips": lpips, "psnr": psnr})
    assert [kept["step"] for kept in best] == expected
    assert [kept["file"] for kept in best] == [f"step-00000{step}.ckpt" for step in expected]


def test_a_ranking_has_a_direction() -> None:
    with pytest.raises(ValueError, match="mode = 'up' must be 'min' or 'max'"):
        Ranking(monitor="psnr_y", mode="up")  # type: ignore[arg-type]


SAVES: dict[str, tuple[int, list[tuple[int, float | None]], list[int]]] = {
    "newest": (1, [(1, None), (2, None), (3, None)], [3]),
    "two newest": (2, [(1, None), (2, None), (3, None)], [2, 3]),
    "best": (1, [(1, 31.0), (2, 30.0), (3, None)], [1, 3]),
    "best no more": (1, [(1, 30.0), (2, 31.0), (3, None)], [2, 3]),
    "best is newest": (1, [(1, 30.0), (2, None), (3, 31.0)], [3]),
}


@pytest.mark.parametrize("name", SAVES)
def test_what_stays(name: str, tmp_path: Path) -> None:
    keep_last, saves, expected = SAVES[name]
    saver = Saver(tmp_path / "run", keep_last=keep_last)
    for step, psnr in saves:
        saver.save(step, psnr=psnr)
    assert saver.names() == ["last", *(f"step-00000{step}.ckpt" for step in expected)]
    assert saver.checkpointing.last_step == saves[-1][0]


def test_a_lost_future_neither_counts_nor_is_touched(tmp_path: Path) -> None:
    """Those beyond the step could not be read when the run was continued."""
    saver = Saver(tmp_path / "run", keep_last=2)
    for step in (1, 2):
        saver.save(step)
    torn = saver.folder.checkpoints / "step-000009.ckpt"
    torn.write_text("torn")
    saver.save(3)
    assert saver.names() == ["last", "step-000002.ckpt", "step-000003.ckpt", "step-000009.ckpt"]
    saver.save(9)
    saver.save(10)
    assert saver.names() == ["last", "step-000009.ckpt", "step-000010.ckpt"]


def test_training_goes_on_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file holds the step's state; what is said to be saved is what has been."""
    saver, go = Saver(tmp_path / "run"), threading.Event()
    saver.save(1)
    write = of.write_checkpoint
    monkeypatch.setattr(of, "write_checkpoint", lambda *given: (go.wait(60), write(*given)))
    saver.trainer.global_step = 2
    saver.checkpointing.save(saver.trainer)
    assert saver.checkpointing.saved_at == 2
    assert saver.checkpointing.last_step == 1
    assert saver.names() == ["last", "step-000001.ckpt"]
    go.set()
    saver.files.flush()
    assert saver.checkpointing.last_step == 2
    assert saver.names() == ["last", "step-000002.ckpt"]


def _refused(*_: object) -> None:
    raise StorageError("cannot save")


def _step(saver: Saver) -> None:
    saver.trainer.global_step, saver.trainer.max_steps = 9, 100
    saver.trainer.val_check_interval = 9
    trainer = saver.trainer
    saver.checkpointing.writer._thread.join()  # type: ignore[union-attr]
    saver.checkpointing.on_train_batch_end(trainer, trainer, None, None, 0)


NEXT: dict[str, Callable[[Saver], object]] = {
    "the next step": _step,
    "the next save": lambda saver: saver.save(3),
    "the end": lambda saver: saver.checkpointing.on_train_end(saver.trainer, saver.trainer),
}


@pytest.mark.parametrize("name", NEXT)
@pytest.mark.parametrize("on_save_error", ["error", "warn"])
def test_a_failed_save_is_told_by(
    name: str,
    on_save_error: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    saver = Saver(tmp_path / "run", on_save_error=on_save_error)
    saver.save(1, psnr=30.0)
    with monkeypatch.context() as patch:
        patch.setattr(of, "write_checkpoint", _refused)
        saver.trainer.global_step = 2
        better = saver.checkpointing.ranking.with_candidate([], 2, {"psnr_y": 40.0})
        saver.checkpointing.save(saver.trainer, better)
        saver.checkpointing.writer._thread.join()  # type: ignore[union-attr]
    if on_save_error == "warn" and name != "the end":
        NEXT[name](saver)
        assert capsys.readouterr().err == "srtrain: warning: cannot save\n"
    else:
        with pytest.raises(StorageError, match="cannot save"):
            NEXT[name](saver)
    assert saver.checkpointing.best["step"] == 1
    saver.files.flush()  # told once


def test_what_is_not_measured_is_refused_with_what_is(tmp_path: Path) -> None:
    saver = Saver(tmp_path / "run")
    checkpointing = saver.checkpointing
    assert checkpointing.monitored() is None
    saver.validation.val = {"a": {"psnr_y": 30.0}}
    saver.validation.mean = {"psnr_y": 30.0}.get
    assert checkpointing.monitored() == {"psnr_y": 30.0}
    checkpointing.ranking = Ranking(monitor="psnr_y", mode="max", floor={"ssim": 0.9})
    with pytest.raises(ConfigError, match=r"nothing measures ssim · checkpoint.floor · .* psnr_y"):
        checkpointing.monitored()


def test_the_two_best_above_a_floor_stay(tmp_path: Path) -> None:
    extra = [
        "trainer.val_every_n_steps=1",
        "checkpoint.keep_last=1",
        "checkpoint.keep_best=2",
        "checkpoint.monitor=hf_ratio",
        "checkpoint.mode=min",
        "checkpoint.floor={ssim_y: 0.1, psnr_y: 5}",
    ]
    folder = train(draw_sets(tmp_path), tmp_path / "run", *extra)
    summary = read_json(folder.summary)
    rows = {s: v for s, name, v in folder.read_metrics() if name == "val/tiny/hf_ratio" and s}
    ranked = sorted(rows, key=lambda step: (rows[step], step))[:2]
    assert [kept["step"] for kept in summary["kept"]] == ranked
    assert summary["best"] == summary["kept"][0]
    there = {path.name for path in folder.checkpoints.glob("*.ckpt")}
    assert there == {kept["file"] for kept in summary["kept"]} | {"step-000006.ckpt"}


def test_a_snapshot_is_equal_shares_memory_as_before_and_does_not_change() -> None:
    weight = torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last)
    state = OrderedDict(weight=weight, same=weight.detach(), part=weight[:, :1])
    state._metadata = {"": {"version": 2}}  # type: ignore[attr-defined]
    content = {"state": state, "many": [weight, (1, "a", None)], "empty": torch.empty(0)}
    copied = snapshot(content)
    expected = weight.clone()
    weight.zero_()
    state["new"] = weight
    assert torch.equal(copied["state"]["weight"], expected)
    assert torch.equal(copied["state"]["part"], expected[:, :1])
    assert copied["state"]["weight"].is_contiguous(memory_format=torch.channels_last)
    assert copied["state"]["same"] is copied["state"]["weight"] is copied["many"][0]
    assert copied["state"]._metadata == {"": {"version": 2}}
    assert list(copied["state"]) == ["weight", "same", "part"]
    assert copied["many"][1] == (1, "a", None)
    assert copied["empty"].shape == (0,)


def test_a_writer_does_one_job_at_a_time_and_raises_each_error_once() -> None:
    writer, go, done = Writer(), threading.Event(), list[int]()
    writer.start(lambda: (go.wait(60), done.append(1)))  # type: ignore[func-returns-value]
    writer.check()
    assert done == []
    go.set()
    writer.start(lambda: done.append(2))
    writer.flush()
    assert done == [1, 2]
    writer.start(_refused)
    with pytest.raises(StorageError):
        writer.start(lambda: done.append(3))
    writer.check()
    writer.flush()
    assert done == [1, 2]
