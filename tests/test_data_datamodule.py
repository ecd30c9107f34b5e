from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import numpy as np
import pytest
import torch

from srtrain.data import sources
from srtrain.data.collection import Files, Source
from srtrain.data.datamodule import SRData
from srtrain.data.sources import Concat, Folder, Paired, PairFiles, Synthetic
from srtrain.degradation.resize import bicubic_uint8
from srtrain.errors import DataError
from tests.data import folder_of, noise, save

LEAVES = Synthetic(count=7, size=48)


def _data(root: Path, **changes: Any) -> SRData:  # noqa: ANN401
    options: dict[str, Any] = {
        "train": LEAVES,
        "val": {"leaves": Synthetic(count=3, size=50, seed=9)},
        "scale": 4,
        "hr_patch_size": 16,
        "batch_size": 6,
        "num_workers": 0,
        "seed": 3,
        "cache_dir": root,
        "progress": False,
    }
    return SRData(**{**options, **changes})


def _at(data: SRData, *, step: int = 0, rank: int = 0, world_size: int = 1) -> SRData:
    device = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_step=step, global_rank=rank, world_size=world_size, strategy=device
    )
    return data


def test_sample_numbers_stay_on_the_cpu(tmp_path: Path) -> None:
    data = _data(tmp_path)
    batch = next(iter(data.train_dataloader()))
    moved = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert moved["hr"].device.type == "meta"
    assert moved["sample"] is batch["sample"]
    assert moved["name"] == batch["name"]


def _samples(batches: list[Any]) -> dict[int, tuple[bytes, str]]:
    return {
        int(sample): (hr.numpy().tobytes(), name)
        for batch in batches
        for sample, hr, name in zip(batch["sample"], batch["hr"], batch["name"], strict=True)
    }


def _reference(root: Path, steps: int) -> dict[int, tuple[bytes, str]]:
    return _samples(list(islice(_data(root).train_dataloader(), steps)))


def test_batch_is_what_the_house_says(tmp_path: Path) -> None:
    batch = next(iter(_data(tmp_path).train_dataloader()))
    assert set(batch) == {"hr", "name", "sample"}
    assert (batch["hr"].shape, batch["hr"].dtype) == ((6, 3, 16, 16), torch.uint8)
    assert batch["hr"].is_contiguous(memory_format=torch.channels_last)
    assert batch["sample"].tolist() == [0, 1, 2, 3, 4, 5]
    assert batch["sample"].dtype == torch.int64
    assert all(name.startswith("leaves-") for name in batch["name"])


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")
@pytest.mark.parametrize("num_workers", [2, 3])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_same_pixels_for_any_workers_and_ranks(
    tmp_path: Path, num_workers: int, world_size: int
) -> None:
    seen: dict[int, tuple[bytes, str]] = {}
    for rank in range(world_size):
        data = _at(_data(tmp_path, num_workers=num_workers), rank=rank, world_size=world_size)
        seen |= _samples(list(islice(data.train_dataloader(), 4)))
    assert seen == _reference(tmp_path, 4)


def test_resumes_where_it_was(tmp_path: Path) -> None:
    resumed = list(islice(_at(_data(tmp_path), step=3).train_dataloader(), 2))
    straight = _reference(tmp_path, 5)
    assert _samples(resumed) == {k: straight[k] for k in range(18, 30)}


def test_each_pass_visits_every_image_once_in_a_new_order(tmp_path: Path) -> None:
    names = [name for _, (_, name) in sorted(_reference(tmp_path, 7).items())]  # 42 = 6 passes of 7
    passes = [names[first : first + 7] for first in range(0, 42, 7)]
    assert all(sorted(seen) == list(LEAVES.names) for seen in passes)
    assert len({tuple(seen) for seen in passes}) == 6


def test_pairs_show_one_region(tmp_path: Path) -> None:
    for index in range(4):
        hr = noise(45, 62, index)
        save(tmp_path / "hr" / f"{index}.png", hr)
        # nearest: each LR pixel is one HR pixel, so that crops can be compared exactly
        save(tmp_path / "lr" / f"{index}x4.png", np.ascontiguousarray(hr[:44:4, :60:4]))
    pairs = Paired(tmp_path / "hr", tmp_path / "lr", scale=4)
    data = _data(tmp_path / "cache", train=pairs, val={"pairs": pairs}, batch_size=32)
    batch = next(iter(data.train_dataloader()))
    assert batch["lr"].shape == (32, 3, 4, 4)
    for hr, lr in zip(batch["hr"], batch["lr"], strict=True):
        corners = [hr[:, top::4, left::4] for top in (0, 3) for left in (0, 3)]
        assert any(torch.equal(lr, corner) for corner in corners)  # the corner turns with the crop
    (whole,) = data.val_dataloader()[0]
    assert whole["hr"].shape == (4, 3, 44, 60)
    assert torch.equal(whole["lr"], whole["hr"][..., ::4, ::4])


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_validation_is_shared_among_the_ranks(tmp_path: Path, world_size: int) -> None:
    seen = []
    for rank in range(world_size):
        (loader,) = _at(_data(tmp_path), rank=rank, world_size=world_size).val_dataloader()
        for batch in loader:
            seen += zip(batch["sample"].tolist(), batch["name"], strict=True)
            assert batch["hr"].shape == (len(batch["name"]), 3, 48, 48)  # 50, cropped for x4
    # The fourth rank has none left and repeats the first: it must take part in the gathering.
    again = [(0, "leaves-000000")] * (world_size > 3)
    images = [(0, "leaves-000000"), (1, "leaves-000001"), (2, "leaves-000002")]
    assert sorted(seen) == again + images


def test_val_names_follow_the_loaders(tmp_path: Path) -> None:
    sets = {"b": Synthetic(count=1, size=32), "a": Synthetic(count=2, size=32)}
    data = _data(tmp_path, val=sets)
    assert data.val_names == ["b", "a"]
    found = [
        [name for batch in loader for name in batch["name"]] for loader in data.val_dataloader()
    ]
    assert [len(names) for names in found] == [1, 2]


def test_digests_follow_the_content_not_the_place(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    sets = {name: folder_of(tmp_path / name, 2, seed=7) for name in ("a", "copy")}
    other = folder_of(tmp_path / "other", 2, seed=8)
    val: dict[str, Source] = {name: Folder(path) for name, path in sets.items()}
    first = _data(cache, val=val)
    assert first.val_digests["a"] == first.val_digests["copy"]
    moved = _data(cache, train=Folder(sets["a"]), val={"a": Folder(other)})
    assert moved.train_digest == first.val_digests["a"] != moved.val_digests["a"]
    assert _data(cache).train_digest == first.train_digest != moved.train_digest


class _Counting(lightning.LightningModule):
    """Takes one optimizer step per batch and writes down what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[int] = []
        self.validated: list[str] = []

    def training_step(self, batch: Any) -> None:  # noqa: ANN401
        self.seen += batch["sample"].tolist()
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.weight * batch["hr"].float().mean())
        optimizer.step()

    def validation_step(self, batch: Any, _: int, dataloader_idx: int = 0) -> None:  # noqa: ANN401
        self.validated += [f"{dataloader_idx}:{name}" for name in batch["name"]]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:The `srun` command is available")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_under_lightning_a_run_continues(tmp_path: Path, num_workers: int) -> None:
    def fit(steps: int, ckpt: Path | None) -> _Counting:
        module = _Counting()
        trainer = lightning.Trainer(
            max_steps=steps,
            max_epochs=-1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            check_val_every_n_epoch=None,
            val_check_interval=2,
            num_sanity_val_steps=0,
        )
        data = _data(tmp_path / "cache", num_workers=num_workers)
        trainer.fit(module, data, ckpt_path=ckpt, weights_only=True if ckpt else None)
        trainer.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return module

    first = fit(2, None)
    second = fit(5, tmp_path / "2.ckpt")
    assert first.seen + second.seen == list(range(30))
    assert first.validated == [f"0:leaves-00000{index}" for index in range(3)]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"hr_patch_size": 64}, "7 too small"),
        ({"val": {"tiny": Synthetic(count=2, size=16)}, "min_val_size": 20}, "2 too small"),
    ],
)
def test_small_images_are_listed_before_training(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        _data(tmp_path, **changes).prepare_data()


def test_all_that_is_missing_is_listed_before_training(tmp_path: Path) -> None:
    train, val = [tmp_path / "a", tmp_path / "b"], {"v": Folder(tmp_path / "c")}
    with pytest.raises(DataError, match=r"3 no such folder: .*/a, .*/b, .*/c"):
        _data(tmp_path / "cache", train=Folder(train), val=val).prepare_data()


def test_small_images_are_found_in_the_cache_too(tmp_path: Path) -> None:
    _data(tmp_path).prepare_data()
    patch, side = {"hr_patch_size": 64}, {"min_val_size": 52}
    with pytest.raises(DataError, match=r"7 too small: leaves-000000 .48x48, at least 64x64"):
        _data(tmp_path, **patch).setup("fit")
    with pytest.raises(DataError, match=r"3 too small: leaves-000000 .50x50, at least 52x52"):
        _data(tmp_path, **side).setup("validate")
    with pytest.raises(DataError, match="10 problems"):
        _data(tmp_path, **patch, **side).prepare_data()


@pytest.mark.parametrize("ask", ["prepare_data", "setup"])
@pytest.mark.parametrize("key", ["with its scale", "without"])
def test_pairs_of_another_scale_are_refused_though_they_are_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: str, key: str
) -> None:
    hr = folder_of(tmp_path / "hr", 2, height=64, width=64)
    lr = folder_of(tmp_path / "lr", 2, height=32, width=32)
    if key == "without":  # sizes are looked at again, whatever the cache says it holds
        monkeypatch.setattr(PairFiles, "quick_key", Files.quick_key)
    for scale in (2, 4):
        pairs = Paired(hr, lr, scale=scale)
        data = _data(tmp_path / "cache", train=pairs, val={"v": LEAVES}, scale=scale)
        if scale == 2:
            data.prepare_data()
            continue
        with pytest.raises(DataError, match="LR is 32x32, but HR 64x64 / 4 makes 16x16"):
            getattr(data, ask)()


def test_each_folder_is_scanned_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scans: Counter[str] = Counter()
    scan = sources.list_images

    def counted(folder: Path) -> list[Path]:
        scans[folder.name] += 1
        return scan(folder)

    monkeypatch.setattr(sources, "list_images", counted)
    folders = {name: folder_of(tmp_path / name, 2, seed=n) for n, name in enumerate("abcd")}
    save(folder_of(tmp_path / "lr", 1, height=10, width=13) / "001.png", noise(10, 13, 1))
    data = _data(
        tmp_path / "cache",
        train=Folder([folders["a"], {"path": folders["b"], "repeat": 2}]),
        val={"one": Folder(folders["c"]), "pairs": Paired(folders["d"], tmp_path / "lr", scale=4)},
    )
    for _ in range(2):
        data.prepare_data()
        data.setup("fit")
    _at(data).train_dataloader()
    data.val_dataloader()
    assert len({data.train_digest, *data.val_digests.values()}) == 3
    assert scans == dict.fromkeys([*"abcd", "lr"], 1)


def test_training_on_a_validation_photo_is_refused(tmp_path: Path) -> None:
    train, val = folder_of(tmp_path / "train", 3), tmp_path / "val"
    save(val / "other name.png", noise(40, 52, 1))
    data = _data(tmp_path / "cache", train=Concat(LEAVES, Folder(train)), val={"val": Folder(val)})
    with pytest.raises(
        DataError, match=r"1 in training and validation: .*other name.png .*001.png"
    ):
        data.prepare_data()


@pytest.mark.parametrize("bicubic", [True, False])
def test_lr_that_is_not_bicubic_is_refused_where_the_run_says_so(
    tmp_path: Path, bicubic: bool
) -> None:
    hr = noise(40, 52, 0)
    save(tmp_path / "hr" / "a.png", hr)
    made = bicubic_uint8(torch.from_numpy(hr).permute(2, 0, 1), 4).permute(1, 2, 0).numpy()
    save(tmp_path / "lr" / "ax4.png", made if bicubic else np.ascontiguousarray(hr[::4, ::4]))
    pairs = Paired(tmp_path / "hr", tmp_path / "lr", scale=4)
    data = _data(tmp_path / "cache", train=pairs, lr_is_bicubic=True)
    if bicubic:
        data.prepare_data()
    else:
        with pytest.raises(DataError, match="not MATLAB's bicubic"):
            data.prepare_data()


def _signalled_run(root: Path, told: Any) -> None:  # noqa: ANN401
    data = _data(root, num_workers=2)
    batches: Any = iter(data.train_dataloader())
    for _ in batches._workers:  # one batch of each: all have started
        next(batches)
    for worker in batches._workers:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            os.kill(worker.pid, number)
    for _ in range(20):
        next(batches)
    told.send([worker.pid for worker in batches._workers])


def _assert_gone(pids: list[int]) -> None:
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_workers_survive_signals_of_the_group_but_not_a_forked_rank(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe()
    rank = fork.Process(target=_signalled_run, args=(tmp_path, there))
    rank.start()
    rank.join(timeout=60)  # a worker that ignored the end of the run would hang here
    assert rank.exitcode == 0
    _assert_gone(here.recv())


def _deaf_run(root: Path, told: Any) -> None:  # noqa: ANN401
    batches: Any = iter(_data(root, num_workers=2).train_dataloader())
    next(batches)
    batches._iterator._shutdown_workers = lambda: None  # what they are told is lost
    told.send([worker.pid for worker in batches._workers])


def test_workers_that_are_not_reached_do_not_outlive_the_run(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe()
    rank = fork.Process(target=_deaf_run, args=(tmp_path, there))
    rank.start()
    rank.join(timeout=60)
    assert rank.exitcode == 0
    _assert_gone(here.recv())


PROGRAM = """
import sys
from pathlib import Path
from tests.test_data_datamodule import _signalled_run
class told:
    send = print
_signalled_run(Path(sys.argv[1]), told)
"""


@pytest.mark.slow
def test_workers_survive_signals_of_the_group_but_not_the_program(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    _assert_gone(json.loads(done.stdout))
