"""Images of a run that are bad, strange or in the way: named before step 1, or left out."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from srtrain.data import cache
from srtrain.data.cache import LISTED, open_images
from srtrain.data.datamodule import SRData
from srtrain.data.sources import Folder, Paired, Synthetic
from srtrain.errors import DataError, StorageError
from srtrain.images import read_rgb8
from tests.data import folder_of, noise, save
from tests.faults.test_image_faults import MEMORY
from tests.forks import grow_at_most
from tests.image_files import BAD
from tests.training import draw_sets, losses, train, weights

LEAVES = Synthetic(count=2, size=48)


def data_of(root: Path, **changes: Any) -> SRData:  # noqa: ANN401
    options: dict[str, Any] = {
        "train": LEAVES,
        "val": {"v": Synthetic(count=1, size=48, seed=9)},
        "scale": 4,
        "hr_patch_size": 16,
        "batch_size": 2,
        "num_workers": 0,
        "seed": 3,
        "cache_dir": root / "cache",
        "progress": False,
    }
    return SRData(**{**options, **changes})


# Bad files, wherever they lie ----------------------------------------------------------------


def _spoilt(folder: Path) -> Path:
    """Three good images among one of every bad kind."""
    folder_of(folder, 3)
    for name, make, _ in BAD:
        (folder / name).write_bytes(make())
    return folder


def _spoilt_pairs(root: Path, side: str) -> Paired:
    """As above, each bad one with a partner that would fit the 64 x 64 which its header may say."""
    for index in range(3 + len(BAD)):
        small = 10 if index < 3 else 64 if side == "lr" else 16
        save(root / "hr" / f"{index:03d}.png", noise(4 * small, 4 * small, index))
        save(root / "lr" / f"{index:03d}.png", noise(small, small, index))
    for index, (_, make, _) in enumerate(BAD):
        (root / side / f"{3 + index:03d}.png").write_bytes(make())
    return Paired(root / "hr", root / "lr", scale=4)


SETS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "train": lambda root: {"train": Folder(_spoilt(root / "bad"))},
    "val": lambda root: {"val": {"bad": Folder(_spoilt(root / "bad"))}},
    "hr of pairs": lambda root: {"train": _spoilt_pairs(root, "hr")},
    "lr of pairs": lambda root: {"train": _spoilt_pairs(root, "lr")},
    "pairs of val": lambda root: {"val": {"bad": _spoilt_pairs(root, "lr")}},
}


@pytest.mark.parametrize("where", SETS)
def test_every_bad_file_is_listed_before_step_1(tmp_path: Path, where: str) -> None:
    data = data_of(tmp_path, **SETS[where](tmp_path))
    with pytest.raises(DataError) as caught:
        data.prepare_data()
    assert caught.value.exit_code == 3
    told = str(caught.value)
    assert f"{len(BAD)} unreadable: " in told  # the truncated ones too, whose headers are whole
    assert "\n" not in told
    assert told.count("/bad/" if "pairs" not in where else "/lr/") == LISTED
    assert f" and {len(BAD) - LISTED} more" in told
    assert not list((tmp_path / "cache").glob("images/*"))


@pytest.mark.parametrize("where", SETS)
def test_bad_files_are_left_out_and_counted(
    tmp_path: Path, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    opened = []
    for _ in range(2):  # decoded, and from the cache
        caplog.clear()
        data = data_of(tmp_path, on_bad="skip", **SETS[where](tmp_path))
        data.prepare_data()
        images = data.val_images["bad"] if "val" in where else data.train_images
        assert images is not None
        assert images.names == ["000", "001", "002"]
        assert f"{len(BAD)} of {3 + len(BAD)} images cannot be read: left out" in caplog.text
        opened.append(images.digest)
    assert opened[0] == opened[1]


def test_a_set_without_a_good_image_is_refused_under_skip_too(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "a.png").touch()
    data = data_of(tmp_path, on_bad="skip", val={"v": Folder(tmp_path / "val")})
    with pytest.raises(DataError, match="1 of 1 images cannot be read"):
        data.prepare_data()


def test_a_run_that_leaves_files_out_is_the_run_without_them(tmp_path: Path) -> None:
    images = draw_sets(tmp_path)
    straight = train(images, tmp_path / "straight")
    for name, make, _ in BAD:
        (images / "train" / name).write_bytes(make())
    train(images, tmp_path / "refused", code=3)
    assert not list((tmp_path / "refused" / "checkpoints").iterdir())
    skipping = train(images, tmp_path / "skipping", "data.on_bad=skip")
    assert losses(skipping) == losses(straight)
    ours, theirs = weights(skipping, 6), weights(straight, 6)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("name", MEMORY)
def test_bombs_among_the_images_cost_no_memory(tmp_path: Path, name: str) -> None:
    folder_of(tmp_path / "hr", 2)
    MEMORY[name](tmp_path / "hr" / name)
    child = os.fork()
    if child == 0:
        grow_at_most(100)
        try:
            data = data_of(tmp_path, train=Folder(tmp_path / "hr"), on_bad="skip")
            data.prepare_data()
        except BaseException:
            os._exit(1)
        os._exit(0 if data.train_images and {"000", "001"} <= set(data.train_images.names) else 2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# The cache ---------------------------------------------------------------------------------------


def _in_fork(act: Callable[[], object]) -> str:
    """What ``act`` raises in a process of its own, as nobody if we are root."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        said = "nothing"
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            act()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        said = stream.read()
    os.waitpid(child, 0)
    return said


def _reachable(path: Path) -> None:
    for folder in path.parents:
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)


def test_a_read_only_cache_serves_what_it_holds_and_names_itself_else(tmp_path: Path) -> None:
    folder, root = folder_of(tmp_path / "hr", 2), tmp_path / "cache"
    new = folder_of(tmp_path / "new", 2, seed=4)
    open_images(Folder(folder), cache_dir=root, progress=False)
    _reachable(folder / "x")
    for path in (root, *root.rglob("*")):
        path.chmod(0o555)
    try:
        known = _in_fork(lambda: open_images(Folder(folder), cache_dir=root, progress=False))
        other = _in_fork(lambda: open_images(Folder(new), cache_dir=root, progress=False))
    finally:
        for path in (root, *root.rglob("*")):
            path.chmod(0o755)
    assert known == "nothing"
    assert other.startswith("StorageError: the cache of decoded images fails: Permission denied")
    assert str(root) in other
    assert "SRTRAIN_CACHE" in other


def test_a_cache_that_fills_up_names_itself_and_is_made_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RLIMIT_FSIZE stands for the disk that others fill while we write."""
    folder, root = folder_of(tmp_path / "hr", 3), tmp_path / "cache"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    try:
        with pytest.raises(StorageError, match="cache of decoded images fails: File too large"):
            open_images(Folder(folder), cache_dir=root, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    images = open_images(Folder(folder), cache_dir=root, progress=False)
    np.testing.assert_array_equal(images.hr(2), read_rgb8(folder / "002.png"))


def test_a_cache_that_is_removed_under_a_run(tmp_path: Path) -> None:
    images = open_images(LEAVES, cache_dir=tmp_path / "cache", progress=False)
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(StorageError, match=r"cache of decoded images is gone.*start again"):
        images.hr(0)
    again = open_images(LEAVES, cache_dir=tmp_path / "cache", progress=False)
    assert again.hr(0).any()
    shutil.rmtree(tmp_path / "cache")
    assert again.hr(1).any()  # what is mapped stays


def test_an_image_that_cannot_be_hashed_is_no_leak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is reported as unreadable; that the comparison fails must not hide that."""
    train_set, val_set = folder_of(tmp_path / "t", 1), folder_of(tmp_path / "v", 1)

    def closed(path: Path) -> str:
        raise PermissionError(13, f"Permission denied: {path}")

    monkeypatch.setattr("srtrain.data.check.fingerprint_of", closed)
    data = data_of(tmp_path, train=Folder(train_set), val={"v": Folder(val_set)})
    data.prepare_data()
    assert cache.cached(Folder(val_set).files(val_set), cache_dir=tmp_path / "cache") is not None
