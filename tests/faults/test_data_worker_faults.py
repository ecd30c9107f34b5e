"""Processes that load images are killed, or have no room: the run sees the same samples."""

from __future__ import annotations

import os
import shutil
import signal
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from srtrain.data import workers
from srtrain.data.crops import TrainingCrops
from srtrain.data.datamodule import SRData
from srtrain.data.sources import Synthetic
from srtrain.errors import DataError
from tests.training import draw_images, losses, train, weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from srtrain.batch import Batch


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch asks every 5 seconds whether its processes live."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2)


def _data(root: Path, **changes: Any) -> SRData:  # noqa: ANN401
    options: dict[str, Any] = {
        "train": Synthetic(count=5, size=32),
        "val": {"leaves": Synthetic(count=1, size=32, seed=9)},
        "scale": 2,
        "hr_patch_size": 16,
        "batch_size": 4,
        "num_workers": 2,
        "seed": 3,
        "cache_dir": root,
        "progress": False,
    }
    return SRData(**{**options, **changes})


def _same(seen: list[Batch], expected: list[Batch]) -> bool:
    return all(
        torch.equal(a["sample"], b["sample"]) and torch.equal(a["hr"], b["hr"])
        for a, b in zip(seen, expected, strict=True)
    )


def _killed_at(samples: set[int], marks: Path | None) -> Callable[..., Batch]:
    """`TrainingCrops.__getitems__` that dies at these samples: once each, or (no marks) always."""
    load = TrainingCrops.__getitems__

    def loads(self: TrainingCrops, wanted: list[int]) -> Batch:
        for sample in samples & set(wanted):
            mark = None if marks is None else marks / str(sample)
            if mark is None or not mark.exists():
                if mark is not None:
                    mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return load(self, wanted)

    return loads


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_killed_process_is_replaced_and_no_sample_changes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    world_size: int,
) -> None:
    def data(num_workers: int) -> SRData:
        made = _data(tmp_path / "cache", num_workers=num_workers)
        device = SimpleNamespace(root_device=torch.device("cpu"))
        made.trainer = SimpleNamespace(  # type: ignore[assignment]
            global_step=2, global_rank=world_size - 1, world_size=world_size, strategy=device
        )
        return made

    undisturbed = list(islice(data(0).train_dataloader(), 8))
    killed = {world_size - 1 + sample for sample in (12, 16, 32)}
    monkeypatch.setattr(TrainingCrops, "__getitems__", _killed_at(killed, tmp_path))
    seen = list(islice(data(2).train_dataloader(), 8))
    assert _same(seen, undisturbed)
    said = [record.getMessage() for record in caplog.records]
    assert [line for line in said if "a process that loads images was killed: again from" in line]


@pytest.mark.parametrize("stock_first", [False, True])
def test_a_process_killed_from_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stock_first: bool
) -> None:
    if stock_first:  # which sets torch's handler of SIGCHLD, if none did before
        monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", False)
        assert list(DataLoader([7], num_workers=1)) == [7]
        assert signal.getsignal(signal.SIGCHLD).__module__ == signal_handling.__name__
    undisturbed = list(islice(_data(tmp_path, num_workers=0).train_dataloader(), 12))
    batches: Any = iter(_data(tmp_path).train_dataloader())
    seen = [next(batches) for _ in range(3)]
    os.kill(batches._workers[1].pid, signal.SIGKILL)
    seen += [next(batches) for _ in range(9)]
    assert _same(seen, undisturbed)


def test_samples_that_kill_every_process_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingCrops, "__getitems__", _killed_at({9}, None))
    with pytest.raises(
        DataError, match=r"killed 3 times at one place · samples (\d+) to"
    ) as caught:
        list(islice(_data(tmp_path).train_dataloader(), 3))
    first, last = (int(word) for word in caught.value.where.split() if word.isdigit())
    assert first <= 9 <= last
    assert caught.value.exit_code == 3


def test_what_a_process_raises_is_not_taken_for_its_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "DYING_S", 0.1)

    def fails(*_: object) -> Batch:
        raise RuntimeError("a bug")

    monkeypatch.setattr(TrainingCrops, "__getitems__", fails)
    with pytest.raises(RuntimeError, match="a bug"):
        next(iter(_data(tmp_path).train_dataloader()))


@pytest.mark.parametrize(("free", "expected"), [(2**20, 2), (2**13, 0)])
def test_small_shared_memory_falls_back_to_the_training_process(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    free: int,
    expected: int,
) -> None:
    data = _data(tmp_path)
    data.prepare_data()
    usage = shutil._ntuple_diskusage(2**26, 0, free)  # type: ignore[attr-defined]
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda _: usage)
    loader = data.train_dataloader()
    assert loader.num_workers == expected
    assert ("--shm-size" in caplog.text) == (expected == 0)
    first = next(iter(_data(tmp_path, num_workers=0).train_dataloader()))
    assert _same([next(iter(loader))], [first])


def test_a_run_whose_loading_process_is_killed_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_images(tmp_path / "train", count=2, size=40, first=10)
    draw_images(tmp_path / "val", count=1, size=40)
    undisturbed = train(tmp_path, tmp_path / "undisturbed")
    monkeypatch.setattr(TrainingCrops, "__getitems__", _killed_at({9, 18}, tmp_path))
    killed = train(tmp_path, tmp_path / "killed", "data.num_workers=2")
    assert (tmp_path / "18").exists()
    assert losses(killed) == losses(undisturbed)
    ours, theirs = weights(killed, 6), weights(undisturbed, 6)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
